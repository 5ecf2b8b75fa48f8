"""The server that is measured: the real application and process, with one route more that returns a constant.

    CONTREC_PORT=8000 ... python -m bench.serving.server

POST /bench/constant goes through the same middleware, reads and checks the same body and writes an answer of the same
shape, but asks neither store nor model: it is the ceiling of everything that is not recommending.
"""

from __future__ import annotations

import sys
from typing import cast

from fastapi import APIRouter, FastAPI
from pydantic import TypeAdapter

from service.access import ROUTES
from service.app import create_app, run
from service.core import Service
from service.keys import Scope
from service.middleware.client_gone import ClientGone
from service.middleware.fast_lane import FastLane, Lane
from service.routes.common import JSON_ONLY, ServiceOf
from service.schemas import RecommendAnswer, RecommendedItem, RecommendRequest, Source, Timings
from service.settings import Settings, load_settings

CONSTANT = "/bench/constant"

router = APIRouter()

_ITEMS = [
    RecommendedItem(item_id=f"i{n}", title=f"The constant title {n}", categories=["one", "two"], score=-float(n))
    for n in range(10)
]


@router.post(CONSTANT, response_model=RecommendAnswer, dependencies=[JSON_ONLY])
async def constant(body: RecommendRequest, service: ServiceOf) -> RecommendAnswer:
    """Always the same list."""
    return await the_same(service, body)


async def the_same(service: Service, body: RecommendRequest) -> RecommendAnswer:
    return RecommendAnswer(
        items=_ITEMS,
        source=Source.MODEL,
        ignored=0,
        bundle="bench/constant",
        recommendation_id="0" * 32,
        timings_ms=Timings(store=0, queue=0, encode=0, generate=0, retrieve=0, total=0),
    )


def make(settings: Settings) -> FastAPI:
    # A table of what is open belongs to the service; only the bench, in its own process, adds to it.
    cast(dict[str, object], ROUTES)[CONSTANT] = {"POST": Scope.RECOMMEND}
    app = create_app(settings)
    app.include_router(router)
    for middleware in app.user_middleware:  # the same middleware, also where it picks its paths
        if middleware.cls is ClientGone:
            middleware.kwargs["paths"] = frozenset({*middleware.kwargs["paths"], CONSTANT})
        if middleware.cls is FastLane:
            lane = Lane(TypeAdapter(RecommendRequest), the_same)
            middleware.kwargs["lanes"] = {**middleware.kwargs["lanes"], CONSTANT: lane}
    return app


def main() -> int:
    settings = load_settings()
    return run(lambda: make(settings), settings)


if __name__ == "__main__":
    sys.exit(main())
