"""What routes share: the service, the JSON check, and the refusals that OpenAPI should name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from service.core import Service
from service.errors import STATUS, ApiError, ErrorBody, ErrorCode


async def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceOf = Annotated[Service, Depends(_service)]


async def _json_only(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "the body must be sent as Content-Type: application/json")


JSON_ONLY = Depends(_json_only)

_OF_EVERY_BODY = (
    ErrorCode.MALFORMED_JSON,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.INTERNAL,
)


def refusals(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these codes and for those that every route with a body may give."""
    return {STATUS[code]: {"model": ErrorBody, "description": f"`{code}`"} for code in (*_OF_EVERY_BODY, *codes)}
