"""GET /popular, and items: what is known of one, what is like it, said of it, and taken back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.errors import ErrorCode
from service.routes.common import JSON_ONLY, ServiceOf, refusals
from service.schemas import Id
from service.schemas_items import ItemAnswer, ItemIn, ItemWritten, ListAnswer, ListQuery
from service.stores.contract import StoredItem, StoreUnavailable
from service.users import in_doubt

router = APIRouter(tags=["items"])

ItemId = Annotated[Id, Path(description="Your own id; one with a slash cannot be named in a path.", examples=["17"])]
Filters = Annotated[ListQuery, Query()]


@router.get("/popular", response_model=ListAnswer, responses=refusals(), summary="What is popular")
async def popular(query: Filters, service: ServiceOf) -> Response:
    """By the interactions that the bundle was trained on; by the store's own counts while no bundle is loaded."""
    return _sent(await service.lists.popular(query))


@router.get(
    "/items/{item_id}/similar",
    response_model=ListAnswer,
    responses=refusals(ErrorCode.NOT_FOUND, ErrorCode.OVERLOADED),
    summary="What is like an item",
)
async def similar(item_id: ItemId, query: Filters, service: ServiceOf) -> Response:
    """The item itself is left out. `source` is `popular` where there is nothing to be like it by: a new item that the
    bundle cannot place, say."""
    return _sent(await service.lists.similar(item_id, query))


@router.get("/items/{item_id}", responses=refusals(ErrorCode.NOT_FOUND), summary="What is known of an item")
async def item(item_id: ItemId, service: ServiceOf) -> ItemAnswer:
    """As it is now, whether the bundle brought it or it was said of since."""
    return service.lists.item(item_id)


@router.put(
    "/items/{item_id}",
    dependencies=[JSON_ONLY],
    responses=refusals(ErrorCode.STORE_UNAVAILABLE),
    summary="Say what an item is: a new one, a changed one, or one that is back",
)
async def upsert(item_id: ItemId, body: ItemIn, service: ServiceOf) -> ItemWritten:
    """This replica knows it when it answers, the others within a second; it survives restarts and new bundles.

    A new item is placed by its text. One that the bundle was trained on keeps its place, whatever its new text says.
    """
    said = StoredItem(item_id, body.title, tuple(dict.fromkeys(body.categories)), body.text)
    return await _written(service, said)


@router.delete(
    "/items/{item_id}", responses=refusals(ErrorCode.STORE_UNAVAILABLE), summary="Withdraw an item from every answer"
)
async def withdraw(item_id: ItemId, service: ServiceOf) -> ItemWritten:
    """It never comes back, from any route or rung, until it is said of again. An id that nobody knows may be withdrawn
    too: a bundle to come may know it."""
    return await _written(service, StoredItem(item_id, withdrawn=True))


async def _written(service: ServiceOf, said: StoredItem) -> ItemWritten:
    try:
        version = await service.overlay.write([said])
    except StoreUnavailable:
        raise in_doubt("the item was changed") from None
    return ItemWritten(item_id=said.item_id, catalogue_version=version)


def _sent(answer: ListAnswer) -> Response:
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")
