"""The service itself, without HTTP: its parts, and their beginning and end.

    users       what the store knows, through the guard     users.py, guard.py
    bundles     what is served                              bundles.py
    following   what should be served                       following.py
    overlay     what was said of items since                overlay.py
    batcher     the queue and the model's thread            batcher.py, fallback.py
    answers     from a request to an answer                 answers.py
    lists       without a user: popular, similar            lists.py
    insights    what is recommended, for the dashboards     insights.py

A new noun gets a module beside these and an attribute here; routes and middleware are thin shells around the parts.

    service = await Service.open(settings)
    answer = await service.answers.recommend(RecommendRequest(user_id="42"))
    await service.close()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from service import threads
from service.answers import Answers
from service.batcher import Batcher
from service.bundles import Bundles
from service.fallback import Done, Errand, Picked, Question, work
from service.following import Following
from service.guard import Breaker, Guard, State
from service.insights import Insights
from service.lists import Lists
from service.metrics import Metrics
from service.overlay import Overlay
from service.schemas import BundleState
from service.settings import Settings
from service.stores import open_store
from service.stores.contract import Store, StoreUnavailable
from service.users import Users

log = logging.getLogger(__name__)

FOLLOW_S = 0.5  # how often a replica looks for another active bundle


class Service:
    """One running service. Make it with `open`, inside the event loop."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics()
        choice = threads.decide(settings.threads)
        log.info("%s", choice.reason)
        for warning in choice.warnings:
            log.warning("%s", warning)
        self.guard = Guard(store, on_failure=self._count_store_failure)
        self.insights = Insights(self.metrics)
        self.users = Users(self.guard, self.metrics, self.insights, settings.token_ttl_s)
        self.batcher: Batcher[Question | Errand, Picked | Done] = Batcher(
            work,
            queue_size=settings.queue_size,
            max_batch=settings.max_batch,
            max_wait=settings.queue_wait_ms / 1000,
            on_batch=self._count_batch,
        )
        self.bundles = Bundles(settings.bundles, settings.bundle, choice, self.batcher.on_thread, self.metrics)
        self.following = Following(settings.bundles, settings.bundle, self.bundles, self.guard)
        self.overlay = Overlay(self.guard, self.bundles, self.metrics)
        self._watch()
        self.lists = Lists(settings, self.metrics, self.insights, self.bundles, self.overlay, self.users, self.batcher)
        self.answers = Answers(
            settings,
            self.metrics,
            self.insights,
            self.bundles,
            self.overlay,
            self.users,
            self.lists,
            self.batcher,
            self.later,
        )
        self.draining = False
        self._loops: list[asyncio.Task[None]] = []
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
        service.later(service._load())
        service._loops.append(asyncio.create_task(service.overlay.follow(settings.catalogue_poll_ms / 1000)))
        return service

    def begin_draining(self) -> None:
        """Readiness goes and answers ask clients to leave; whoever comes is served until the end."""
        self.draining = True
        self.metrics.ready.set(0)

    async def close(self) -> None:
        """Finishes what was begun: loading, queued requests, tokens to keep. Then frees everything."""
        self.begin_draining()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._background)
        await self.batcher.close()
        await asyncio.gather(*self._background)
        self.bundles.close()
        await self.store.close()
        self.metrics.close()

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: loading has come to an end, well or not, and shutdown has not begun."""
        return self.bundles.state is not BundleState.LOADING and not self.draining

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the requests. The set keeps a reference: the event loop itself holds only a weak one."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _load(self) -> None:
        with suppress(StoreUnavailable):  # then answers say so until it is heard
            await self.overlay.refresh()
        self.insights.know(await asyncio.to_thread(self.bundles.published))
        await self.following.first()
        self.metrics.ready.set(float(self.ready))
        if not self.draining:
            self._loops.append(asyncio.create_task(self.following.follow(FOLLOW_S)))

    def _count_batch(self, size: int, dropped: int, waiting: int) -> None:
        if size:
            self.metrics.batch_size.observe(size)
        self.metrics.dropped.inc(dropped)
        self.metrics.queue.set(waiting)

    def _watch(self) -> None:
        """Gauges that are read where the thing itself is, whenever somebody scrapes."""
        for calls, breaker in (("reads", self.guard.reads), ("writes", self.guard.writes)):
            self.metrics.breaker.labels(calls=calls).set_function(partial(_place_of, breaker))
        overlay, items = self.overlay, self.metrics.overlay_items
        items.labels(kind="withdrawn").set_function(lambda: len(overlay.withdrawn))
        items.labels(kind="unplaced").set_function(lambda: len(overlay.unplaced))
        items.labels(kind="upserted").set_function(lambda: len(overlay.items) - len(overlay.withdrawn))

    def _count_store_failure(self, operation: str) -> None:
        self.metrics.store_failures.labels(operation=operation).inc()


def _place_of(breaker: Breaker) -> int:
    return list(State).index(breaker.state)
