"""Lists that need no user: what is popular, what is like an item, and what is known of one.

Also the popular list while no bundle is loaded, from the store's own counts and what was said of items: the last
resort of every other answer. Knows no HTTP.

    answer = await lists.popular(ListQuery(k=5))
    answer = await lists.similar("17", ListQuery())        # raises the typed not_found and overloaded
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from model.catalogue import Mask, Rows
from model.recommender import Floats, Recommender
from service.batcher import Batcher, Overloaded
from service.bundles import Bundles, Served
from service.eligibility import eligible_rows
from service.errors import ApiError, ErrorCode
from service.fallback import Done, Errand, Picked, Question, fill
from service.insights import Insights, from_rung, new_id
from service.metrics import Metrics
from service.overlay import Overlay
from service.schemas import Degraded, RecommendedItem, Selection, Source
from service.schemas_items import ItemAnswer, ListAnswer, ListQuery
from service.settings import Settings
from service.users import RETRY_AFTER_S, Users

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_EVERYTHING = 1_000_000  # more items than a store's popular list is asked for with a filter


@dataclass(frozen=True, slots=True)
class Lists:
    """The parts that such a list is made with."""

    settings: Settings
    metrics: Metrics
    insights: Insights
    bundles: Bundles
    overlay: Overlay
    users: Users
    batcher: Batcher[Question | Errand, Picked | Done]

    async def popular(self, query: ListQuery) -> ListAnswer:
        """The most popular items that may be shown: by the bundle, or by the store without one."""
        served, heard = self.bundles.served, self.overlay.known
        if served is None:
            return await self._without_bundle(query)
        rows, scores = served.popular(eligible_rows(served, allow=query.allow, deny=query.deny), query.k)
        return self._listed(served, rows, scores, Source.POPULAR, heard)

    async def similar(self, item_id: str, query: ListQuery) -> ListAnswer:
        """The items most like one. Raises not_found for an item that is unknown or withdrawn."""
        known = self.item(item_id)
        served, heard = self.bundles.served, self.overlay.known
        row = None if served is None else served.recommender.catalogue.row(known.item_id)
        if served is None or row is None:  # there is nothing to be like it by
            return await self.popular(query.model_copy(update={"deny_item": [*query.deny_item, item_id]}))
        eligible = eligible_rows(served, excluded=[item_id], allow=query.allow, deny=query.deny)
        found = await self.errand(partial(_alike, served.recommender, row, eligible, query.k))
        if found is None:
            rows, scores = served.popular(eligible, query.k)
            return self._listed(served, rows, scores, Source.POPULAR, heard)
        rows, scores = fill(served, *found, eligible, query.k)
        return self._listed(served, rows, scores, Source.NEIGHBOURS, heard)

    async def errand(self, work: Callable[[], Result]) -> Result | None:
        """What the work came to on the model thread; None when it failed or took too long. Raises overloaded."""
        try:
            done = await self.batcher.ask(Errand(work), timeout=self.settings.model_timeout_ms / 1000)
        except Overloaded as error:
            raise ApiError(ErrorCode.OVERLOADED, str(error), retry_after=RETRY_AFTER_S) from None
        except TimeoutError:
            log.warning("the model did not answer within %d ms", self.settings.model_timeout_ms)
            return None
        assert isinstance(done, Done)
        value: Result | None = done.value
        return value

    def item(self, item_id: str) -> ItemAnswer:
        """What is known of an item. Raises not_found where nothing is, or where it was withdrawn."""
        served, said = self.bundles.served, self.overlay.items.get(item_id)
        row = None if served is None else served.recommender.catalogue.row(item_id)
        if item_id not in self.overlay.withdrawn:
            if served is not None and row is not None:
                item = served.recommender.catalogue[row]
                return ItemAnswer(
                    item_id=item_id,
                    title=item.title,
                    categories=list(item.categories),
                    text=item.text,
                    in_bundle=True,
                )
            if said is not None:
                categories = list(said.categories)
                return ItemAnswer(
                    item_id=item_id, title=said.title, categories=categories, text=said.text, in_bundle=False
                )
        raise ApiError(ErrorCode.NOT_FOUND, "no such item, or it was withdrawn", field="item_id")

    async def counted(
        self, k: int, *, excluded: Collection[str] = (), allow: Selection | None = None, deny: Selection | None = None
    ) -> list[RecommendedItem] | None:
        """The popular list without a bundle; None when the store is silent.

        Items that were only said of come last, with a count of 0. What is not said of has no categories here: such an
        item is allowed by its id alone, and not at all where a category is denied.
        """
        said = {item_id: item for item_id, item in self.overlay.items.items() if not item.withdrawn}
        deny_items, deny_categories = (set(deny.items), set(deny.categories)) if deny else (set(), set())
        allow_items, allow_categories = (set(allow.items), set(allow.categories)) if allow else (set(), set())
        out = self.overlay.withdrawn | set(excluded) | deny_items

        def may_be_shown(item_id: str) -> bool:
            if item_id in out:
                return False
            categories = set(said[item_id].categories) if item_id in said else None
            if deny_categories and (categories is None or categories & deny_categories):
                return False
            return allow is None or item_id in allow_items or bool(categories and categories & allow_categories)

        # Enough to have k left whatever is excluded; with a filter, anything may be the next match.
        free = allow is None and not deny_categories
        counts = await self.users.popular(k + len(out) if free else _EVERYTHING)
        if counts is None:
            return None
        met = {item_id for item_id, _ in counts}
        # A list cut short says nothing of what lies behind it: then what was only said of waits its turn.
        unmet = [] if free and len(counts) == k + len(out) else [(i, 0) for i in sorted(said) if i not in met]
        shown = [(item_id, count) for item_id, count in [*counts, *unmet] if may_be_shown(item_id)][:k]
        return [
            RecommendedItem(
                item_id=item_id,
                title=said[item_id].title if item_id in said else "",
                categories=list(said[item_id].categories) if item_id in said else [],
                score=float(count),
            )
            for item_id, count in shown
        ]

    def _listed(self, served: Served, rows: Rows, scores: Floats, source: Source, heard: bool) -> ListAnswer:
        """The answer, counted as shown."""
        self.insights.answered(served, rows, history_length=None)
        return self._answer(described(served, rows, scores), source, served, heard)

    async def _without_bundle(self, query: ListQuery) -> ListAnswer:
        heard = self.overlay.known
        items = await self.counted(query.k, allow=query.allow, deny=query.deny)
        return self._answer(items, Source.POPULAR, None, heard)

    def _answer(
        self, items: list[RecommendedItem] | None, source: Source, served: Served | None, heard: bool
    ) -> ListAnswer:
        """items: None when the store is silent. heard: see `degraded`."""
        label, shown = None if served is None else served.label, items or []
        cited = from_rung(new_id(label), source)
        answer = ListAnswer(items=shown, source=source, bundle=label, recommendation_id=cited)
        if (degraded := self.degraded(items is None, heard)) is not None:
            answer.degraded = degraded
        return answer

    def degraded(self, silent: bool, heard: bool) -> Degraded | None:
        """What an answer had to do without, counted: once an answer. silent: whether the store did not say what it was
        asked for it. heard: whether it had been heard of items when the answer began."""
        reason = None
        if silent:
            reason = Degraded.HISTORY_UNAVAILABLE
        elif not heard:
            reason = Degraded.CATALOGUE_UNAVAILABLE
        if reason is not None:
            self.metrics.degraded.labels(reason=reason).inc()
        return reason


def _alike(recommender: Recommender, row: int, eligible: Mask, k: int) -> tuple[Rows, Floats] | None:
    return recommender.similar(row, eligible, k) if recommender.likens(row) else None


def described(served: Served, rows: Rows, scores: Floats) -> list[RecommendedItem]:
    """A list as a client reads it: rows become ids, titles and categories."""
    catalogue = served.recommender.catalogue
    found = [(catalogue[int(row)], float(score)) for row, score in zip(rows, scores, strict=True)]
    return [
        RecommendedItem(item_id=item.item_id, title=item.title, categories=list(item.categories), score=score)
        for item, score in found
    ]
