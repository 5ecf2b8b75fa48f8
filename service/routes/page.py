"""/ and what it is made of: the page's own files under /ui, and the three questions that only the page asks.

None of it is in the OpenAPI document: it serves the page of the same version and promises nothing to anyone else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from service.page import MAX_FOUND, FoundAnswer, MapAnswer, Page, TraceAnswer, TraceRequest
from service.routes.common import JSON_ONLY, ServiceOf
from service.schemas import Id

FILES: Final = Path(__file__).resolve().parents[1] / "ui"

FRESH: Final[Mapping[str, str]] = {"Cache-Control": "no-cache"}
"""Asked again each time, so that an upgrade never meets yesterday's scripts. The rest: middleware/safe_headers.py."""

_FILES: Final = StaticFiles(directory=FILES)

router = APIRouter(include_in_schema=False)


async def _page(request: Request, service: ServiceOf) -> Page:
    """One page a service, made at its first question."""
    state = request.app.state
    if getattr(state, "page", None) is None:
        state.page = Page(service)
    page = state.page
    assert isinstance(page, Page)
    return page


PageOf = Annotated[Page, Depends(_page)]


@router.get("/")
async def index() -> FileResponse:
    """The page itself."""
    return FileResponse(FILES / "index.html", headers=FRESH)


@router.get("/page/map")
async def catalogue_map(page: PageOf) -> Response:
    """The points of the map, and the categories."""
    return _json(await page.map())


@router.get("/page/catalogue")
async def catalogue(
    page: PageOf,
    q: Annotated[str, Query(max_length=200)] = "",
    item: Annotated[list[Id] | None, Query(max_length=MAX_FOUND)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20,
) -> Response:
    """Items by words, or by id where some are given."""
    return _json(await (page.search(q, limit) if item is None else page.named(item)))


@router.post("/page/trace", dependencies=[JSON_ONLY])
async def trace(body: TraceRequest, page: PageOf) -> Response:
    """How the taste of a recommendation was denoised, on the map."""
    return _json(await page.trace(body))


def _json(answer: MapAnswer | FoundAnswer | TraceAnswer) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get("/ui/{path:path}")
async def file(path: str, request: Request) -> Response:
    """A part of the page. Not a mounted app: that would answer every method."""
    response = await _FILES.get_response(path, request.scope)
    response.headers.update(FRESH)
    return response
