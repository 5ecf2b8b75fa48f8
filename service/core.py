"""The service itself, without HTTP: what happens between a route and the model or the store.

It owns the store, the bundle, the batcher and the metrics, and knows in which order they are asked. Routes and
middleware are thin shells around it.

    service = await Service.open(settings)
    answer = await service.recommend(RecommendRequest(user_id="42"))
    await service.close()
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np

from model.catalogue import Mask, Rows
from model.recommender import Dials, Floats, UserTokens
from service import threads
from service.batcher import Batcher, Overloaded
from service.bundles import Bundles, Served
from service.eligibility import eligible_rows, unknown_ids
from service.errors import ApiError, ErrorCode
from service.fallback import Picked, Question, climb
from service.metrics import Metrics
from service.schemas import (
    BundleState,
    Degraded,
    EventIn,
    EventsAnswer,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Source,
    Timings,
)
from service.settings import Settings
from service.stores import open_store
from service.stores.contract import Event, Store, StoreUnavailable, UserRecord

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_WITHOUT_BUNDLE = "-"  # the name under which tokens are looked up, in vain, while no bundle is loaded


@dataclass(slots=True)
class _User:
    """What the store knew, how long it took, and whether it answered."""

    record: UserRecord
    store_ms: float
    degraded: bool


class Service:
    """One running service. Make it with `open`, inside the event loop."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics()
        self.batcher: Batcher[Question, Picked] = Batcher(
            climb, queue_size=settings.queue_size, max_batch=settings.max_batch, on_batch=self._count_batch
        )
        choice = threads.decide(settings.threads)
        log.info("%s", choice.reason)
        for warning in choice.warnings:
            log.warning("%s", warning)
        self.bundles = Bundles(settings.bundles, settings.bundle, choice, self.batcher.on_thread, self.metrics)
        self.store_ok = True
        self.draining = False
        self._background: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, settings: Settings) -> Service:
        """Opens the store and starts loading the bundle; `ready` tells when that has come to an end.

        Raises what `open_store` raises, and OSError when the metrics port is taken.
        """
        store = await open_store(
            settings.store, timeout=settings.store_timeout_ms / 1000, connections=settings.store_connections
        )
        service = cls(settings, store)
        try:
            if settings.metrics_port:
                service.metrics.serve(settings.host, settings.metrics_port)
        except OSError:
            await store.close()
            raise
        service.batcher.start()
        service._later(service._load())
        return service

    async def close(self) -> None:
        """Finishes what was begun: loading, queued requests, tokens to keep. Then frees everything."""
        self.draining = True
        self.metrics.ready.set(0)
        await asyncio.gather(*self._background)
        await self.batcher.close()
        await asyncio.gather(*self._background)
        await self.store.close()
        self.metrics.close()

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: loading has come to an end, well or not, and shutdown has not begun."""
        return self.bundles.state is not BundleState.LOADING and not self.draining

    async def append(self, events: Sequence[EventIn]) -> EventsAnswer:
        """Keeps events; when this returns they are kept. Raises the typed store_unavailable."""
        now = time.time()
        try:
            appended = await self.store.append([_event(event, now) for event in events])
        except StoreUnavailable as error:
            self._store_failed("append", error)
            message = "the store refuses; none of these events was kept, send them again"
            raise ApiError(ErrorCode.STORE_UNAVAILABLE, message, retry_after=RETRY_AFTER_S) from None
        self.store_ok = True
        self.metrics.events.labels(result="accepted").inc(appended.accepted)
        self.metrics.events.labels(result="repeated").inc(appended.repeated)
        return EventsAnswer(accepted=appended.accepted, repeated=appended.repeated)

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The answer, always from some rung of the ladder. Raises not_available and overloaded, both typed."""
        started = time.perf_counter()
        request.refuse_what_is_not_there()
        recommendation_id = uuid4().hex
        served = self.bundles.served  # once: a swap meanwhile must not mix two bundles
        user = await self._read_user(request.user_id, served)
        history = user.record.history if request.history is None else request.history
        excluded = user.record.seen.union(request.history or ()) if request.exclude_seen else frozenset[str]()

        if served is None:
            picked, items = (
                Picked(_nothing(), _no_scores(), Source.POPULAR),
                await self._from_the_store(request, excluded, user),
            )
            ignored = 0  # without a catalogue no id is unknown
        else:
            catalogue = served.recommender.catalogue
            eligible = eligible_rows(catalogue, excluded=excluded, allow=request.allow, deny=request.deny)
            dials = Dials(explore=request.explore, seed=_seed(request, recommendation_id))
            picked = await self._pick(served, catalogue.rows(history), eligible, dials, request, user.record)
            items = _described(served, picked)
            given = [selection.items for selection in (request.allow, request.deny) if selection is not None]
            ignored = unknown_ids(catalogue, request.history, *given)

        timings = Timings(
            store=round(user.store_ms, 3),
            encode=round(picked.encode_ms, 3),
            generate=round(picked.generate_ms, 3),
            retrieve=round(picked.retrieve_ms, 3),
            total=round((time.perf_counter() - started) * 1000, 3),
        )
        self._count_answer(picked, timings, user.degraded)
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

    # ------------------------------------------------------------------------------------------- the store's part

    async def _read_user(self, user_id: str | None, served: Served | None) -> _User:
        if user_id is None:
            return _User(UserRecord(), 0.0, degraded=False)
        started = time.perf_counter()
        record, degraded = UserRecord(), False
        try:
            record = await self.store.read_user(user_id, _WITHOUT_BUNDLE if served is None else served.label)
            self.store_ok = True
        except StoreUnavailable as error:
            self._store_failed("read_user", error)
            degraded = True
        return _User(record, (time.perf_counter() - started) * 1000, degraded)

    async def _from_the_store(
        self, request: RecommendRequest, excluded: frozenset[str], user: _User
    ) -> list[RecommendedItem]:
        """The popular list while no bundle is loaded: ids and counts are all that is known."""
        deny = set(request.deny.items) if request.deny else set()
        if request.deny and request.deny.categories:
            return []  # nobody can say here what is in a category, and a denied item must never come back
        allow = None if request.allow is None else set(request.allow.items)
        started = time.perf_counter()
        try:
            # Enough to have k left whatever is excluded; with an allow list, anything may be the next match.
            wanted = request.k + len(excluded) + len(deny) if allow is None else 1_000_000
            counts = await self.store.popular(wanted)
        except StoreUnavailable as error:
            self._store_failed("popular", error)
            user.degraded = True
            return []
        finally:
            user.store_ms += (time.perf_counter() - started) * 1000
        left = [
            RecommendedItem(item_id=item_id, title="", categories=[], score=float(count))
            for item_id, count in counts
            if item_id not in excluded and item_id not in deny and (allow is None or item_id in allow)
        ]
        return left[: request.k]

    async def _keep_tokens(self, user_id: str, label: str, version: int, tokens: UserTokens) -> None:
        try:
            await self.store.write_tokens(user_id, label, version, tokens.to_bytes(), self.settings.token_ttl_s)
        except StoreUnavailable as error:  # the answer is out already; the next request encodes once more
            self._store_failed("write_tokens", error)

    def _store_failed(self, operation: str, error: StoreUnavailable) -> None:
        self.metrics.store_failures.labels(operation=operation).inc()
        if self.store_ok:  # once an outage, not once a request
            log.warning("the store does not answer: %s", error)
        self.store_ok = False

    # ------------------------------------------------------------------------------------------- the model's part

    async def _pick(
        self, served: Served, history: Rows, eligible: Mask, dials: Dials, request: RecommendRequest, record: UserRecord
    ) -> Picked:
        # A list by counts is called popular, whoever counted.
        if len(history) == 0 or served.recommender.kind == "popular":
            return self._popular(served, eligible, request.k)
        stored = request.history is None and request.user_id is not None
        tokens = self._cached(record) if stored else None
        fresh = tokens is not None and record.tokens_version is not None and record.tokens_version >= record.version
        if stored:
            self.metrics.tokens.labels(result="hit" if fresh else "miss" if tokens is None else "old").inc()
        question = Question(served, history, tokens, fresh, dials, eligible, request.k, time.perf_counter())
        try:
            async with asyncio.timeout(self.settings.model_timeout_ms / 1000):
                picked = await self.batcher.ask(question)
        except Overloaded as error:
            raise ApiError(ErrorCode.OVERLOADED, str(error), retry_after=RETRY_AFTER_S) from None
        except TimeoutError:
            log.warning("the model did not answer within %d ms", self.settings.model_timeout_ms)
            self.metrics.failures.labels(step="timeout").inc()
            return self._popular(served, eligible, request.k)
        if picked.made is not None and stored and request.user_id is not None:
            self._later(self._keep_tokens(request.user_id, served.label, record.version, picked.made))
        return picked

    def _popular(self, served: Served, eligible: Mask, k: int) -> Picked:
        started = time.perf_counter()
        rows, scores = served.popular(eligible, k)
        return Picked(rows, scores, Source.POPULAR, retrieve_ms=(time.perf_counter() - started) * 1000)

    def _cached(self, record: UserRecord) -> UserTokens | None:
        if record.tokens is None:
            return None
        try:
            return UserTokens.from_bytes(record.tokens)
        except ValueError as error:
            log.warning("user tokens in the store cannot be read and are made again: %s", error)
            return None

    # ------------------------------------------------------------------------------------------------------ around

    async def _load(self) -> None:
        await self.bundles.load()
        self.metrics.ready.set(float(self.ready))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the requests. The set keeps a reference: the event loop itself holds only a weak one."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _count_batch(self, size: int, dropped: int, waiting: int) -> None:
        if size:
            self.metrics.batch_size.observe(size)
        self.metrics.dropped.inc(dropped)
        self.metrics.queue.set(waiting)

    def _count_answer(self, picked: Picked, timings: Timings, degraded: bool) -> None:
        self.metrics.source.labels(source=picked.source).inc()
        for step in picked.failed:
            self.metrics.failures.labels(step=step).inc()
        if degraded:
            self.metrics.degraded.labels(reason=Degraded.HISTORY_UNAVAILABLE).inc()
        spent = timings.model_dump() | {"queue": picked.queue_ms}
        for stage, milliseconds in spent.items():
            if milliseconds:  # a stage that was skipped took no time, and no sample either
                self.metrics.stage_seconds.labels(stage=stage).observe(milliseconds / 1000)


def _event(event: EventIn, now: float) -> Event:
    return Event(
        event_id=event.event_id,
        user_id=event.user_id,
        item_id=event.item_id,
        type=event.type,
        value=event.value,
        time=now if event.time is None else event.time,
        recommendation_id=event.recommendation_id,
    )


def _seed(request: RecommendRequest, recommendation_id: str) -> int:
    """The request's seed, or the first 15 hex digits of the id: a logged id is enough to ask the same again."""
    return int(recommendation_id[:15], 16) if request.seed is None else request.seed


def _described(served: Served, picked: Picked) -> list[RecommendedItem]:
    catalogue = served.recommender.catalogue
    found = [(catalogue[int(row)], float(score)) for row, score in zip(picked.rows, picked.scores, strict=True)]
    return [
        RecommendedItem(item_id=item.item_id, title=item.title, categories=list(item.categories), score=score)
        for item, score in found
    ]


def _nothing() -> Rows:
    return np.zeros(0, dtype=np.int64)


def _no_scores() -> Floats:
    return np.zeros(0, dtype=np.float32)
