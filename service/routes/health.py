"""/livez and /readyz: flags only, so that they answer at once whatever else is slow."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from service.routes.common import ServiceOf
from service.schemas import ReadyAnswer

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[Literal["status"], Literal["alive"]]:
    """Awaits nothing."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    responses={503: {"model": ReadyAnswer, "description": "loading, or shutting down"}},
    summary="Does the service want requests?",
)
async def readyz(service: ServiceOf, response: Response) -> ReadyAnswer:
    """A store that is down or a bundle that was refused is said here; the service is ready all the same: it answers."""
    response.status_code = 200 if service.ready else 503
    return ReadyAnswer(
        ready=service.ready,
        bundle=service.bundles.state,
        store="ok" if service.guard.ok else "unavailable",
        reason=service.bundles.reason,
    )
