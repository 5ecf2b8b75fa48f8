"""GET and DELETE /users/{user_id}: what is stored of a user, and its erasure."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service.errors import ErrorCode
from service.routes.common import ServiceOf, refusals
from service.schemas import Id
from service.schemas_users import ErasedAnswer, UserAnswer, UserQuery

router = APIRouter(tags=["users"])

UserId = Annotated[Id, Path(description="Your own id; one with a slash cannot be named in a path.", examples=["42"])]


@router.get(
    "/users/{user_id}",
    responses=refusals(ErrorCode.NOT_FOUND, ErrorCode.STORE_UNAVAILABLE),
    summary="What is stored of a user",
)
async def stored(user_id: UserId, query: Annotated[UserQuery, Query()], service: ServiceOf) -> UserAnswer:
    """Every event, page by page, and what follows from them. Off while no API key is set."""
    return await service.users.stored(user_id, query)


@router.delete("/users/{user_id}", responses=refusals(ErrorCode.STORE_UNAVAILABLE), summary="Erase a user")
async def erase(user_id: UserId, service: ServiceOf) -> ErasedAnswer:
    """Wholly: events, history, seen set, tokens, and their share in the counts. Off while no API key is set."""
    return ErasedAnswer(user_id=user_id, events=await service.users.erase(user_id))
