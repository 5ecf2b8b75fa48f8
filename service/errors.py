"""Every way in which the service refuses: a closed set, each with its status and a code that never changes.

The body is `{"error": {"code", "message", "field"?}}`. Handlers turn what FastAPI and Starlette raise into it;
nothing of the request is echoed, and what is unexpected is logged and answered with `internal`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

log = logging.getLogger(__name__)

OUTCOME: Final = "contrec.outcome"
"""Key of the ASGI scope under which an error leaves its code, for the metrics."""


class ErrorCode(StrEnum):
    """The codes. `STATUS` has the status of each."""

    MALFORMED_JSON = "malformed_json"
    MALFORMED_HTTP = "malformed_http"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BUNDLE_REFUSED = "bundle_refused"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MISDIRECTED_REQUEST = "misdirected_request"
    INVALID_REQUEST = "invalid_request"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    HEADERS_TOO_LARGE = "headers_too_large"
    INTERNAL = "internal"
    STORE_UNAVAILABLE = "store_unavailable"
    MODEL_UNAVAILABLE = "model_unavailable"


STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.MALFORMED_JSON: 400,
    ErrorCode.MALFORMED_HTTP: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.BUNDLE_REFUSED: 409,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.MISDIRECTED_REQUEST: 421,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.HEADERS_TOO_LARGE: 431,
    ErrorCode.INTERNAL: 500,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.MODEL_UNAVAILABLE: 503,
}

# For what FastAPI and Starlette raise by status alone; where two codes share a status, the first one is meant.
_CODE_OF_STATUS: Final = {status: code for code, status in reversed(list(STATUS.items()))}


class ErrorDetail(BaseModel):
    """What went wrong. field: the part of the request that is to blame, where there is one."""

    code: ErrorCode
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiError(Exception):
    """Raised anywhere below a route; becomes the typed answer. retry_after: seconds, sent as a header."""

    def __init__(
        self, code: ErrorCode, message: str, *, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after


def error_response(
    scope: Scope, code: ErrorCode, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The typed answer. Leaves the code in the scope, where the metrics look for it."""
    scope[OUTCOME] = code
    detail = {"code": code, "message": message}
    if field is not None:
        detail["field"] = field
    return JSONResponse({"error": detail}, status_code=STATUS[code], headers=dict(headers or {}))


def install_handlers(app: FastAPI) -> None:
    """Makes every refusal of the app a typed one. What nobody foresaw is caught by the outermost middleware."""
    app.add_exception_handler(ApiError, refuse)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """The typed answer of an ApiError."""
    assert isinstance(error, ApiError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return error_response(request.scope, error.code, error.message, field=error.field, headers=headers)


# What pydantic says in Python's words ("a valid dictionary or object to extract fields from"), as a client knows it.
_IN_JSON: Final = {
    "model_attributes_type": "input should be an object",
    "list_type": "input should be an array",
}


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(request.scope, ErrorCode.MALFORMED_JSON, "the body is not JSON")
    field = field_name(first["loc"])
    message = _IN_JSON.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return error_response(
        request.scope, ErrorCode.INVALID_REQUEST, f"{field or 'the body'}: {message}", field=field or None
    )


_MESSAGES: Final = {
    ErrorCode.MALFORMED_JSON: "the body is not JSON",  # FastAPI's 400: too deep, a number too long, not UTF-8
    ErrorCode.NOT_FOUND: "there is no such route; /docs lists them",
    ErrorCode.METHOD_NOT_ALLOWED: "this route does not know that method",
}


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code)
    if code is None:
        log.error("an HTTP error of status %s has no code of ours", error.status_code)
        code = ErrorCode.INTERNAL
    return error_response(request.scope, code, _MESSAGES.get(code, "the request failed"), headers=error.headers)


def field_name(location: Sequence[Any]) -> str:
    """`("body", "history", 3)` as a person writes it: `history[3]`. Names that a client made up are cut short."""
    name = ""
    for part in location[1:] if location and location[0] == "body" else location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part not in ("one event", "many events"):  # tags of the union in schemas, no part of the request
            name += ("." if name else "") + _plain(str(part))
    return name


def _plain(text: str) -> str:
    """Printable and short, whatever a client put there."""
    shown = text if text.isprintable() and len(text) <= 64 else json.dumps(text)[1:-1][:64]
    return shown.encode("utf-8", "replace").decode()
