"""POST /events: interactions in, one or many, idempotent by event_id."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import TypeAdapter

from service.core import Service
from service.errors import ErrorCode
from service.middleware.fast_lane import Lane
from service.routes.common import JSON_ONLY, ServiceOf, refusals
from service.schemas import EventIn, EventsAnswer, EventsIn, EventsRequest

router = APIRouter(tags=["events"])

_EXAMPLES = [
    {"event_id": "a1", "user_id": "42", "item_id": "17"},
    {
        "events": [
            {"event_id": "a2", "user_id": "42", "item_id": "3", "type": "rating", "value": 4.5, "time": 1760000000},
            {"event_id": "a3", "user_id": "42", "item_id": "8", "type": "click", "recommendation_id": "5f2b"},
        ]
    },
]


@router.post(
    "/events",
    dependencies=[JSON_ONLY],
    responses=refusals(ErrorCode.STORE_UNAVAILABLE),
    summary="Tell what users did",
)
async def events(body: Annotated[EventsRequest, Body(examples=_EXAMPLES)], service: ServiceOf) -> EventsAnswer:
    """All events are kept, or none: after a 200 they are kept, after a 503 send them again. The very next
    recommendation reflects them."""
    return await keep(service, body)


async def keep(service: Service, body: EventIn | EventsIn) -> EventsAnswer:
    """One or many."""
    return await service.users.append([body] if isinstance(body, EventIn) else body.events)


LANE = Lane(TypeAdapter(EventsRequest), keep)
