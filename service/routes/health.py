"""/livez and /readyz: flags only, so that they answer at once whatever else is slow."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from service.routes.common import ServiceOf
from service.schemas import LiveAnswer, ReadyAnswer

router = APIRouter(tags=["health"])

_AGAIN_S: Final = "1"
_NOT_YET: Final = {"ready": False, "bundle": "loading", "store": "ok"}


@router.get("/livez", summary="Is the process alive?")
async def livez() -> LiveAnswer:
    """Awaits nothing."""
    return LiveAnswer()


@router.get(
    "/readyz",
    responses={
        503: {
            "model": ReadyAnswer,
            "description": "loading, or shutting down",
            "content": {"application/json": {"example": _NOT_YET}},
        }
    },
    summary="Does the service want requests?",
)
async def readyz(service: ServiceOf, response: Response) -> ReadyAnswer:
    """A store that is down or a bundle that was refused is said here; the service is ready all the same: it answers."""
    if not service.ready:
        response.status_code, response.headers["Retry-After"] = 503, _AGAIN_S
    return ReadyAnswer(
        ready=service.ready,
        bundle=service.bundles.state,
        store="ok" if service.guard.ok else "unavailable",
        reason=service.bundles.reason,
    )
