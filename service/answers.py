"""From a request to an answer: the user, the eligible items, the list, and what is told about how it came to be.

Knows no HTTP; the ladder is in `fallback.py`, what the store knows in `users.py`, lists without a user in `lists.py`.

    answer = await answers.recommend(RecommendRequest(user_id="42"))
    answer = await answers.rank(RankRequest(user_id="42", items=["17", "3"]))
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from model.catalogue import Rows
from model.recommender import Dials
from service import logs
from service.batcher import Batcher, Overloaded
from service.bundles import Bundles, Served
from service.eligibility import eligible_rows, unknown_ids
from service.errors import ApiError, ErrorCode
from service.fallback import Done, Errand, Picked, Question, popular
from service.insights import Insights, from_rung, new_id
from service.lists import Lists, described
from service.metrics import Metrics
from service.overlay import Overlay
from service.reasons import explaining, next_step
from service.schemas import (
    CategoryShare,
    RankAnswer,
    RankRequest,
    Reason,
    ReasonKind,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Selection,
    Source,
    Timings,
)
from service.settings import Settings
from service.shaping import Shape
from service.users import RETRY_AFTER_S, User, Users

log = logging.getLogger(__name__)

_WITHOUT_BUNDLE = "-"  # the name under which tokens are looked up, in vain, while no bundle is loaded


@dataclass(frozen=True, slots=True)
class Answers:
    """The parts that an answer is made with. later: runs work beside the requests."""

    settings: Settings
    metrics: Metrics
    insights: Insights
    bundles: Bundles
    overlay: Overlay
    users: Users
    lists: Lists
    batcher: Batcher[Question | Errand, Picked | Done]
    later: Callable[[Coroutine[Any, Any, None]], None]

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The answer, always from some rung of the ladder. Raises the typed overloaded."""
        started = time.perf_counter()
        # Once: a swap meanwhile must not mix two bundles, nor may what was heard since excuse a list made before it.
        served, heard = self.bundles.served, self.overlay.known
        if served is not None and (request.user_id is not None or request.history):
            self._check_room()
        recommendation_id = new_id(None if served is None else served.label)
        user = await self.users.read(request.user_id, _WITHOUT_BUNDLE if served is None else served.label)
        record = user.record
        history = record.history if request.history is None else request.history
        # What was disliked never comes back, also where seen items may.
        excluded = record.disliked
        if request.exclude_seen:
            excluded = excluded.union(record.seen, request.history or ())
        shares = None

        if served is None:
            picked = _picked_nothing()
            items = await self._counted(user, request.k, excluded=excluded, allow=request.allow, deny=request.deny)
            ignored = 0  # without a catalogue no id is unknown
        else:
            catalogue = served.recommender.catalogue
            known = catalogue.rows(history)
            question = Question(
                served,
                known,
                tokens=None,
                fresh=False,
                dials=Dials(explore=request.explore, seed=_seed(request, recommendation_id)),
                eligible=eligible_rows(served, excluded=excluded, allow=request.allow, deny=request.deny),
                k=request.k,
                asked=time.perf_counter(),
                shape=Shape(request.diversity, catalogue.rows(sorted(record.disliked))),
            )
            stored = request.user_id if request.history is None else None
            picked = await self._pick(question, stored, user)
            items = described(served, picked.rows, picked.scores)
            if request.explain:
                shares = await self._explain(served, picked, known, items)
            self.insights.answered(served, picked.rows, len(known))
            given = [selection.items for selection in (request.allow, request.deny) if selection is not None]
            ignored = unknown_ids(catalogue, request.history, *given)

        answer = RecommendAnswer(
            items=items,
            source=picked.source,
            ignored=ignored,
            bundle=None if served is None else served.label,
            recommendation_id=from_rung(recommendation_id, picked.source),
            timings_ms=self._count(picked, user, started),
        )
        if request.explain:
            answer.categories = shares or []
        if (degraded := self.lists.degraded(user.degraded, heard)) is not None:
            answer.degraded = degraded
        return answer

    async def rank(self, request: RankRequest) -> RankAnswer:
        """The candidates in order: the same rungs as `recommend`, with nothing else eligible. Raises overloaded."""
        started = time.perf_counter()
        served, heard = self.bundles.served, self.overlay.known
        recommendation_id = new_id(None if served is None else served.label)
        user = await self.users.read(request.user_id, _WITHOUT_BUNDLE if served is None else served.label)
        history = user.record.history if request.history is None else request.history
        candidates = list(dict.fromkeys(request.items))
        allowed = Selection(items=candidates)

        if served is None:
            picked = _picked_nothing()
            items = await self._counted(user, len(candidates), allow=allowed)
            found = {item.item_id for item in items}
            unknown = [item_id for item_id in candidates if item_id not in found]
        else:
            catalogue = served.recommender.catalogue
            eligible = eligible_rows(served, allow=allowed)
            unknown = [i for i in candidates if (row := catalogue.row(i)) is None or not eligible[row]]
            question = Question(
                served,
                catalogue.rows(history),
                tokens=None,
                fresh=False,
                dials=Dials(),
                eligible=eligible,
                k=len(candidates),
                asked=time.perf_counter(),
            )
            picked = await self._pick(question, request.user_id if request.history is None else None, user)
            items = described(served, picked.rows, picked.scores)
            self.insights.ranked(served)
        answer = RankAnswer(
            items=items,
            unknown=unknown,
            source=picked.source,
            ignored=0 if served is None else unknown_ids(served.recommender.catalogue, request.history),
            bundle=None if served is None else served.label,
            recommendation_id=from_rung(recommendation_id, picked.source),
            timings_ms=self._count(picked, user, started),
        )
        if (degraded := self.lists.degraded(user.degraded, heard)) is not None:
            answer.degraded = degraded
        return answer

    def _check_room(self) -> None:
        """Raises the typed overloaded before anything is spent on a request that the model would refuse."""
        try:
            self.batcher.check()
        except Overloaded as error:
            raise ApiError(ErrorCode.OVERLOADED, str(error), retry_after=RETRY_AFTER_S) from None

    async def _pick(self, question: Question, stored: str | None, user: User) -> Picked:
        """stored: the user whose own history this is, and whose tokens may be used and kept."""
        served = question.served
        # A list by counts is called popular, whoever counted.
        if len(question.history) == 0 or served.recommender.kind == "popular":
            return popular(question)
        if stored is not None:
            question.tokens = user.tokens()
            question.fresh = question.tokens is not None and user.fresh(self.overlay.newest(user.record.history))
            result = "hit" if question.fresh else "miss" if question.tokens is None else "old"
            self.metrics.tokens.labels(result=result).inc()
        try:
            picked = await self.batcher.ask(question, timeout=self.settings.model_timeout_ms / 1000)
        except Overloaded as error:
            raise ApiError(ErrorCode.OVERLOADED, str(error), retry_after=RETRY_AFTER_S) from None
        except TimeoutError:
            log.warning("the model did not answer within %d ms", self.settings.model_timeout_ms)
            self.metrics.failures.labels(step="timeout").inc()
            return popular(question)
        assert isinstance(picked, Picked)
        if picked.made is not None and stored is not None:
            self.later(self.users.keep_tokens(stored, served, user.record.version, picked.made))
        return picked

    async def _explain(
        self, served: Served, picked: Picked, history: Rows, items: Sequence[RecommendedItem]
    ) -> list[CategoryShare]:
        """Gives the items their reasons; returns the categories. Whatever fails, the list stands without reasons."""
        for item in items:
            item.reasons = []
        steps, found = explaining(served.recommender, picked.source, history, picked.rows), None
        with suppress(Overloaded, TimeoutError):
            async with asyncio.timeout(self.settings.model_timeout_ms / 1000):
                while found is None:
                    done = await self.batcher.ask(Errand(partial(next_step, steps)))
                    assert isinstance(done, Done)
                    if done.failed:
                        break
                    found = done.value
        if found is None:
            self.metrics.failures.labels(step="explain").inc()
            return []
        kind, explanation = found
        for item, because in zip(items, explanation.because, strict=True):
            item.reasons = _reasons(served, kind, because)
        return [CategoryShare(category=name, probability=share) for name, share in explanation.categories]

    async def _counted(
        self,
        user: User,
        k: int,
        *,
        excluded: frozenset[str] = frozenset(),
        allow: Selection | None = None,
        deny: Selection | None = None,
    ) -> list[RecommendedItem]:
        started = time.perf_counter()
        items = await self.lists.counted(k, excluded=excluded, allow=allow, deny=deny)
        user.store_ms += (time.perf_counter() - started) * 1000
        if items is None:
            user.degraded = True
        return items or []

    def _count(self, picked: Picked, user: User, started: float) -> Timings:
        timings = Timings(
            store=round(user.store_ms, 3),
            queue=round(picked.queue_ms, 3),
            encode=round(picked.encode_ms, 3),
            generate=round(picked.generate_ms, 3),
            retrieve=round(picked.retrieve_ms, 3),
            total=round((time.perf_counter() - started) * 1000, 3),
        )
        self.metrics.source.labels(source=picked.source).inc()
        logs.note(source=picked.source)
        for step in picked.failed:
            self.metrics.failures.labels(step=step).inc()
        for stage, milliseconds in timings.model_dump().items():
            if milliseconds:  # a stage that was skipped took no time, and no sample either
                self.metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)
        return timings


def _picked_nothing() -> Picked:
    return Picked(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), Source.POPULAR)


def _reasons(served: Served, kind: ReasonKind, because: Sequence[tuple[int, float]]) -> list[Reason]:
    """An item of the history that was withdrawn counts for the list still, but is not named."""
    catalogue = served.recommender.catalogue
    named = [(catalogue[row], weight) for row, weight in because if row not in served.withdrawn]
    return [Reason(item_id=item.item_id, title=item.title, kind=kind, weight=weight) for item, weight in named]


def _seed(request: RecommendRequest, recommendation_id: str) -> int:
    """The request's seed, or the first 12 hex digits of the id: a logged id is enough to ask the same again."""
    return int(recommendation_id[:12], 16) if request.seed is None else request.seed
