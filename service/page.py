"""What the page at `/` asks beside the API: the map, the search, and the walk of a taste on the map.

Read only and bounded: at most MAX_POINTS points, MAX_FOUND items and MAX_MARKS places in an answer, and WAITING walks
at a time. It tells no more than a recommendation does: never what is stored of a user. Knows no routes.

    page = Page(service)
    answer = await page.trace(TraceRequest(history=["17"], explore=0.5, seed=7))
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, Field

from model.catalogue import Item, Rows
from model.recommender import Dials, Floats, Walk
from service.atlas import Atlas
from service.bundles import Served
from service.core import Service
from service.errors import ApiError, ErrorCode
from service.schemas import MAX_HISTORY, MAX_K, BundleState, Id, Seed, Strict
from service.users import RETRY_AFTER_S

MAX_FOUND: Final = 50
MAX_MARKS: Final = MAX_HISTORY + MAX_K
WAITING: Final = 4
_NO_ROWS: Final[Rows] = np.zeros(0, dtype=np.int64)


class PageItem(BaseModel):
    """An item as a person reads it."""

    item_id: str
    title: str
    categories: list[str]


class MapAnswer(BaseModel):
    """The points, most popular first. items: in the catalogue, of which item_ids are shown. share: of the variance.

    x, y: their places. categories: (name, items), most items first. labels: (category, x, y) of a region of the map.
    """

    bundle: str | None
    state: BundleState
    reason: str | None
    items: int
    share: float = 0.0
    item_ids: list[str] = []
    x: list[float] = []
    y: list[float] = []
    categories: list[tuple[str, int]] = []
    labels: list[tuple[str, float, float]] = []


class FoundAnswer(BaseModel):
    """total: how many items match, of which at most `limit` are told."""

    items: list[PageItem]
    total: int


class TraceRequest(Strict):
    """As in a recommendation. mark: items whose places on the map are asked for."""

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY, fail_fast=True)] | None = None
    explore: float = Field(default=0.0, ge=0, le=1)
    seed: Seed = 0
    mark: Annotated[list[Id], Field(max_length=MAX_MARKS, fail_fast=True)] = Field(default=[])


class Step(BaseModel):
    """One clean estimate of a preference vector. time: 1 is pure noise. nearest: the item in whose direction it is."""

    time: float
    x: float
    y: float
    nearest: PageItem


class PageWalk(BaseModel):
    """How one preference vector was denoised; the last step is the vector that the recommendation was made with."""

    share: float
    steps: list[Step]


class TraceAnswer(BaseModel):
    """walks: none where the model reads nothing or denoises nothing, or where no item is left. marks: (x, y) of each
    item asked for, or null where it is unknown or withdrawn."""

    bundle: str | None
    walks: list[PageWalk]
    marks: list[tuple[float, float] | None]


class Page:
    """See the module. The atlas is made at the first question and kept while the bundle's catalogue stays."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._atlas: Atlas | None = None
        self._making = asyncio.Lock()
        self._waiting = 0

    async def map(self) -> MapAnswer:
        """The whole map."""
        bundles = self._service.bundles
        atlas = await self._current()
        if atlas is None:
            return MapAnswer(bundle=None, state=bundles.state, reason=bundles.reason, items=0)
        return await asyncio.to_thread(_whole, atlas, bundles.state, bundles.reason)

    async def search(self, query: str, limit: int) -> FoundAnswer:
        """The items that match, best first; the most popular for an empty query."""
        atlas = await self._current()
        if atlas is None:
            return FoundAnswer(items=[], total=0)
        rows, total = await asyncio.to_thread(atlas.search, query, limit)
        return FoundAnswer(items=_described(atlas, rows), total=total)

    async def named(self, item_ids: Sequence[str]) -> FoundAnswer:
        """Items by id, in the order given; those that are unknown or withdrawn are left out."""
        atlas = await self._current()
        if atlas is None:
            return FoundAnswer(items=[], total=0)
        rows = atlas.served.recommender.catalogue.rows(item_ids)
        rows = rows[~np.isin(rows, atlas.served.withdrawn)]
        return FoundAnswer(items=_described(atlas, rows), total=len(rows))

    async def trace(self, request: TraceRequest) -> TraceAnswer:
        """The walk of the taste that `/recommend` makes from the same. Raises the typed overloaded and
        model_unavailable."""
        atlas = await self._current()
        if atlas is None:
            return TraceAnswer(bundle=None, walks=[], marks=[None] * len(request.mark))
        catalogue = atlas.served.recommender.catalogue
        user = await self._service.users.read(request.user_id, atlas.served.label)
        history = catalogue.rows(user.record.history if request.history is None else request.history)
        walks = await self._walk(atlas, history, Dials(explore=request.explore, seed=request.seed))
        return TraceAnswer(
            bundle=atlas.served.label,
            walks=[_drawn(atlas, walk) for walk in walks],
            marks=_marks(atlas, request.mark),
        )

    async def _walk(self, atlas: Atlas, history: Rows, dials: Dials) -> Sequence[Walk]:
        if len(history) == 0:
            return ()  # nobody's taste: the recommendation is the popular list
        if len(atlas.rows) == 0:
            return ()  # everything is withdrawn: no item is near any step
        if self._waiting >= WAITING:
            raise ApiError(ErrorCode.OVERLOADED, f"{WAITING} walks wait already", retry_after=RETRY_AFTER_S)

        recommender = atlas.served.recommender

        def work() -> Sequence[Walk]:
            traces = recommender.trace(recommender.encode([history]), [dials])
            return () if traces is None else traces[0]

        self._waiting += 1
        try:
            walks = await self._service.lists.errand(work)
        finally:
            self._waiting -= 1
        if walks is None:  # a list comes from a lower rung then; of a walk there is none
            raise ApiError(ErrorCode.MODEL_UNAVAILABLE, "the model did not answer", retry_after=RETRY_AFTER_S)
        return walks

    async def _current(self) -> Atlas | None:
        """The atlas of the bundle that is served; of an older one never."""
        async with self._making:
            served: Served | None = self._service.bundles.served
            if served is None:
                self._atlas = None
            elif self._atlas is None or self._atlas.served is not served:
                self._atlas = await asyncio.to_thread(Atlas, served, self._atlas)
            return self._atlas


def _whole(atlas: Atlas, state: BundleState, reason: str | None) -> MapAnswer:
    points = _rounded(atlas.points)
    return MapAnswer(
        bundle=atlas.served.label,
        state=state,
        reason=reason,
        items=atlas.items,
        share=round(atlas.share, 4),
        item_ids=atlas.served.recommender.catalogue.ids(atlas.rows),
        x=[x for x, _ in points],
        y=[y for _, y in points],
        categories=atlas.categories,
        labels=[(name, round(x, 4), round(y, 4)) for name, x, y in atlas.labels],
    )


def _described(atlas: Atlas, rows: Rows) -> list[PageItem]:
    catalogue = atlas.served.recommender.catalogue
    return [_page_item(catalogue[int(row)]) for row in rows]


def _page_item(item: Item) -> PageItem:
    return PageItem(item_id=item.item_id, title=item.title, categories=list(item.categories))


def _drawn(atlas: Atlas, walk: Walk) -> PageWalk:
    items = _described(atlas, atlas.nearest(walk.steps))
    points = _rounded(atlas.place(walk.steps))
    steps = [
        Step(time=time, x=x, y=y, nearest=item) for time, (x, y), item in zip(walk.times, points, items, strict=True)
    ]
    return PageWalk(share=round(walk.share, 4), steps=steps)


def _marks(atlas: Atlas, item_ids: Sequence[str]) -> list[tuple[float, float] | None]:
    catalogue = atlas.served.recommender.catalogue
    found, gone = [catalogue.row(item_id) for item_id in item_ids], set(atlas.served.withdrawn.tolist())
    rows = [None if row in gone else row for row in found]
    known = np.array([row for row in rows if row is not None], dtype=np.int64)
    points = iter(_rounded(atlas.place_rows(known)) if len(known) else [])
    return [None if row is None else next(points) for row in rows]


def _rounded(points: Floats) -> list[tuple[float, float]]:
    """Four digits: a thousandth of the map is more than a screen shows."""
    return [(round(x, 4), round(y, 4)) for x, y in points.tolist()]
