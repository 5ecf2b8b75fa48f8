"""POST /recommend and POST /rank: thin; what happens is in `service.answers`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import TypeAdapter

from service.errors import ErrorCode
from service.middleware.fast_lane import Lane
from service.routes.common import JSON_ONLY, ServiceOf, refusals
from service.schemas import RankAnswer, RankRequest, RecommendAnswer, RecommendRequest

router = APIRouter(tags=["recommendations"])

LANE = Lane(TypeAdapter(RecommendRequest), lambda service, body: service.answers.recommend(body))


@router.post(
    "/recommend",
    response_model=RecommendAnswer,
    dependencies=[JSON_ONLY],
    responses=refusals(ErrorCode.OVERLOADED),
    summary="Recommend items for a user or a history",
)
async def recommend(body: RecommendRequest, service: ServiceOf) -> Response:
    """Always answers from some rung of the ladder: `model`, `stale`, `neighbours`, `popular`; `source` says which."""
    answer = await service.answers.recommend(body)
    # Serialised here, once: FastAPI would validate the answer a second time.
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")


@router.post(
    "/rank",
    response_model=RankAnswer,
    dependencies=[JSON_ONLY],
    responses=refusals(ErrorCode.OVERLOADED),
    summary="Put given candidates in order for a user or a history",
)
async def rank(body: RankRequest, service: ServiceOf) -> Response:
    """Every candidate that the catalogue knows, best first, seen or not: the list is yours. Those it does not know,
    and those that were withdrawn, are named in `unknown`."""
    answer = await service.answers.rank(body)
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")
