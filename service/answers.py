"""From a request to an answer: the user, the eligible items, the list, and what is told about how it came to be.

Knows no HTTP; the ladder is in `fallback.py`, what the store knows in `users.py`.

    answer = await answers.recommend(RecommendRequest(user_id="42"))
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.catalogue import Mask, Rows
from model.recommender import Dials
from service import logs
from service.batcher import Batcher, Overloaded
from service.bundles import Bundles, Served
from service.eligibility import eligible_rows, unknown_ids
from service.errors import ApiError, ErrorCode
from service.fallback import Picked, Question
from service.insights import Insights, new_id
from service.metrics import Metrics
from service.schemas import Degraded, RecommendAnswer, RecommendedItem, RecommendRequest, Source, Timings
from service.settings import Settings
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
    users: Users
    batcher: Batcher[Question, Picked]
    later: Callable[[Coroutine[Any, Any, None]], None]

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The answer, always from some rung of the ladder. Raises not_available and overloaded, both typed."""
        started = time.perf_counter()
        request.refuse_what_is_not_there()
        served = self.bundles.served  # once: a swap meanwhile must not mix two bundles
        recommendation_id = new_id(None if served is None else served.label)
        user = await self.users.read(request.user_id, _WITHOUT_BUNDLE if served is None else served.label)
        history = user.record.history if request.history is None else request.history
        excluded = user.record.seen.union(request.history or ()) if request.exclude_seen else frozenset[str]()

        if served is None:
            nothing = Picked(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), Source.POPULAR)
            picked, items = nothing, await self._from_the_store(request, excluded, user)
            ignored = 0  # without a catalogue no id is unknown
        else:
            catalogue = served.recommender.catalogue
            eligible = eligible_rows(catalogue, excluded=excluded, allow=request.allow, deny=request.deny)
            dials = Dials(explore=request.explore, seed=_seed(request, recommendation_id))
            known = catalogue.rows(history)
            picked = await self._pick(served, known, eligible, dials, request, user)
            items = described(served, picked)
            self.insights.answered(served, picked.rows, len(known))
            given = [selection.items for selection in (request.allow, request.deny) if selection is not None]
            ignored = unknown_ids(catalogue, request.history, *given)

        timings = Timings(
            store=round(user.store_ms, 3),
            queue=round(picked.queue_ms, 3),
            encode=round(picked.encode_ms, 3),
            generate=round(picked.generate_ms, 3),
            retrieve=round(picked.retrieve_ms, 3),
            total=round((time.perf_counter() - started) * 1000, 3),
        )
        self._count(picked, timings, user.degraded)
        answer = RecommendAnswer(
            items=items,
            source=picked.source,
            ignored=ignored,
            bundle=None if served is None else served.label,
            recommendation_id=recommendation_id,
            timings_ms=timings,
        )
        if user.degraded:
            answer.degraded = Degraded.HISTORY_UNAVAILABLE
        return answer

    async def _pick(
        self, served: Served, history: Rows, eligible: Mask, dials: Dials, request: RecommendRequest, user: User
    ) -> Picked:
        # A list by counts is called popular, whoever counted.
        if len(history) == 0 or served.recommender.kind == "popular":
            return self._popular(served, eligible, request.k)
        stored = request.history is None and request.user_id is not None
        tokens = user.tokens() if stored else None
        fresh = tokens is not None and user.fresh
        if stored:
            self.metrics.tokens.labels(result="hit" if fresh else "miss" if tokens is None else "old").inc()
        question = Question(served, history, tokens, fresh, dials, eligible, request.k, time.perf_counter())
        try:
            picked = await self.batcher.ask(question, timeout=self.settings.model_timeout_ms / 1000)
        except Overloaded as error:
            raise ApiError(ErrorCode.OVERLOADED, str(error), retry_after=RETRY_AFTER_S) from None
        except TimeoutError:
            log.warning("the model did not answer within %d ms", self.settings.model_timeout_ms)
            self.metrics.failures.labels(step="timeout").inc()
            return self._popular(served, eligible, request.k)
        if picked.made is not None and stored and request.user_id is not None:
            self.later(self.users.keep_tokens(request.user_id, served.label, user.record.version, picked.made))
        return picked

    def _popular(self, served: Served, eligible: Mask, k: int) -> Picked:
        started = time.perf_counter()
        rows, scores = served.popular(eligible, k)
        return Picked(rows, scores, Source.POPULAR, retrieve_ms=(time.perf_counter() - started) * 1000)

    async def _from_the_store(
        self, request: RecommendRequest, excluded: frozenset[str], user: User
    ) -> list[RecommendedItem]:
        """The popular list while no bundle is loaded: ids and counts are all that is known."""
        deny = set(request.deny.items) if request.deny else set()
        if request.deny and request.deny.categories:
            return []  # nobody can say here what is in a category, and a denied item must never come back
        allow = None if request.allow is None else set(request.allow.items)
        started = time.perf_counter()
        # Enough to have k left whatever is excluded; with an allow list, anything may be the next match.
        wanted = request.k + len(excluded) + len(deny) if allow is None else 1_000_000
        counts = await self.users.popular(wanted)
        user.store_ms += (time.perf_counter() - started) * 1000
        if counts is None:
            user.degraded = True
            return []
        left = [
            RecommendedItem(item_id=item_id, title="", categories=[], score=float(count))
            for item_id, count in counts
            if item_id not in excluded and item_id not in deny and (allow is None or item_id in allow)
        ]
        return left[: request.k]

    def _count(self, picked: Picked, timings: Timings, degraded: bool) -> None:
        self.metrics.source.labels(source=picked.source).inc()
        logs.note(source=picked.source)
        for step in picked.failed:
            self.metrics.failures.labels(step=step).inc()
        if degraded:
            self.metrics.degraded.labels(reason=Degraded.HISTORY_UNAVAILABLE).inc()
        for stage, milliseconds in timings.model_dump().items():
            if milliseconds:  # a stage that was skipped took no time, and no sample either
                self.metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)


def described(served: Served, picked: Picked) -> list[RecommendedItem]:
    """The list as a client reads it: rows become ids, titles and categories."""
    catalogue = served.recommender.catalogue
    found = [(catalogue[int(row)], float(score)) for row, score in zip(picked.rows, picked.scores, strict=True)]
    return [
        RecommendedItem(item_id=item.item_id, title=item.title, categories=list(item.categories), score=score)
        for item, score in found
    ]


def _seed(request: RecommendRequest, recommendation_id: str) -> int:
    """The request's seed, or the first 15 hex digits of the id: a logged id is enough to ask the same again."""
    return int(recommendation_id[:15], 16) if request.seed is None else request.seed
