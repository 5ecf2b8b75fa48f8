"""Which bundle is served: loaded beside the running service, proved on its golden requests, taken up by one assignment.

Knows no HTTP and no store, and not who says what should be served (`following.py`). A bundle that cannot be used is
refused with one sentence, which `/readyz` and `GET /bundle` repeat; the service goes on with what it had, which may be
nothing. The bundle before the present one stays in memory, so that going back to it takes no loading.

    bundles = Bundles(root, "movies", threads, on_thread=batcher.on_thread, metrics=metrics)
    await bundles.take_up("3f2a90c11d7e")      # raises BundleError, and then nothing has changed
    served = bundles.served          # read once a request: a swap in between does not mix two bundles
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from model.bundle import BundleError, path_of, read_manifest
from model.catalogue import Item, Mask, Rows
from model.golden import Golden, check, read_golden
from model.manifest import Manifest
from model.recommender import Floats, Recommender
from service import heap, threads
from service.metrics import Metrics
from service.schemas import BundleState
from service.stores.contract import StoredItem

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_GOLDEN_K = 10
_WARM_HISTORY = 50


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A recommender that has proved itself, and its popular list, made once so that it can be had without the model.

    popular_rows, popular_scores: (N,) every row, most popular first. created: unix seconds, where known.
    withdrawn: rows that must not be shown. catalogue_version: up to which what was said of items is part of it.
    """

    recommender: Recommender
    name: str
    version: str
    popular_rows: Rows
    popular_scores: Floats
    created: float | None = None
    withdrawn: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    catalogue_version: int = 0

    @property
    def label(self) -> str:
        """name/version: how answers, metrics and cached tokens name the bundle."""
        return f"{self.name}/{self.version}"

    def popular(self, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """The min(k, eligible) most popular rows among eligible (N,), with their scores."""
        chosen = np.flatnonzero(eligible[self.popular_rows])[:k]
        return self.popular_rows[chosen], self.popular_scores[chosen]

    def with_items(self, items: Sequence[StoredItem], version: int) -> Served:
        """The same bundle with what was said of items since it was made: new, changed or withdrawn ones."""
        recommender = self.recommender.with_items(
            [Item(one.item_id, one.title, one.categories, one.text) for one in items if not one.withdrawn]
        )
        catalogue, known = recommender.catalogue, len(self.popular_rows)
        gone = set(self.withdrawn.tolist()) - set(catalogue.rows(one.item_id for one in items).tolist())
        gone.update(catalogue.rows(one.item_id for one in items if one.withdrawn).tolist())
        added = np.arange(known, len(catalogue), dtype=np.int64)  # nobody has met these yet
        lowest = min(0.0, float(self.popular_scores[-1]))
        return replace(
            self,
            recommender=recommender,
            popular_rows=np.concatenate([self.popular_rows, added]),
            popular_scores=np.concatenate([self.popular_scores, np.full(len(added), lowest, dtype=np.float32)]),
            withdrawn=np.array(sorted(gone), dtype=np.int64),
            catalogue_version=version,
        )


def prove(recommender: Recommender, name: str, version: str, golden: Sequence[Golden] = ()) -> Served:
    """Warms the recommender up and asks for lists, among them those of `golden`, which must be what they were.

    Raises BundleError when an answer is not a list that a user could be given, or not the one that it was.
    """
    items = len(recommender.catalogue)
    if not items:
        raise BundleError(f"the bundle {name}/{version} has an empty catalogue")
    nothing: Rows = np.zeros(0, dtype=np.int64)
    k = min(_GOLDEN_K, items)
    for history in (nothing, np.arange(min(_WARM_HISTORY, items), dtype=np.int64)):
        rows, scores = recommender.recommend(history, k, seen=nothing)
        whole = len(rows) == len(scores) == k and len(set(rows.tolist())) == k
        if not whole or not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
            raise BundleError(
                f"the bundle {name}/{version} failed its golden request: {k} items in order were expected"
            )
    try:
        check(recommender, golden)
    except BundleError as error:
        raise BundleError(f"the bundle {name}/{version} failed its golden requests: {error}") from error
    popular_rows, popular_scores = recommender.neighbours(nothing, np.ones(items, dtype=np.bool_), items)
    if sorted(popular_rows.tolist()) != list(range(items)) or not np.isfinite(popular_scores).all():
        raise BundleError(f"the bundle {name}/{version} has no complete popular list")
    return Served(recommender, name, version, popular_rows, popular_scores)


class OnThread(Protocol):
    """Runs a call on the model thread: `Batcher.on_thread`."""

    def __call__(self, work: Callable[[], None], /) -> Awaitable[None]: ...


class Bundles:
    """The bundle that is served, and how it came to be so. `served` is None until one has proved itself."""

    def __init__(
        self, root: Path, name: str, thread_choice: threads.Threads, on_thread: OnThread, metrics: Metrics
    ) -> None:
        self._root = root
        self._name = name
        self._threads = thread_choice
        self._on_thread = on_thread
        self._metrics = metrics
        self.served: Served | None = None
        self.dress: Callable[[Served], Awaitable[Served]] = _as_it_is
        """Called with each bundle that has proved itself, before it is served: Overlay puts itself here."""
        self.state = BundleState.LOADING
        self.reason: str | None = None
        self.refused: str | None = None  # the version that was refused last, while it matters
        # One thread: each has a heap of its own in glibc, and bundles loaded on all of a pool leave a mark in each.
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._proved: Served | None = None  # what is served, undressed, and what was served before it
        self._previous: Served | None = None

    def published(self) -> list[str]:
        """Labels of the versions in the folder, oldest first; none where it cannot be read."""
        try:
            folders = [path for path in (self._root / self._name).iterdir() if path.is_dir() and path.name[0] != "."]
            return [f"{self._name}/{path.name}" for path in sorted(folders, key=lambda path: path.stat().st_mtime)]
        except OSError:
            return []

    @property
    def version(self) -> str | None:
        """The version that is served."""
        return None if self.served is None else self.served.version

    @property
    def previous_version(self) -> str | None:
        """The version that was served before, and is still in memory."""
        return None if self._previous is None else self._previous.version

    async def take_up(self, version: str) -> None:
        """Serves a version: at once where it is the previous one, else loaded and proved off the event loop.

        Raises BundleError; then what was served is served on, and `reason` says why.
        """
        if version == self.version:
            self.reason = self.refused = None
            return
        try:
            if self._previous is not None and self._previous.version == version:
                await self._serve(self._previous)
                return
            recommender, manifest, golden = await self._off_loop(_read, self._root, self._name, version)
            created = datetime.fromisoformat(manifest.created).timestamp()
            await self.adopt(recommender, self._name, version, created, golden)
        except BundleError as error:
            self.refuse(str(error), version)
            raise
        except Exception as error:  # whatever is in the folder, the service must live
            log.exception("bundle %s/%s could not be loaded", self._name, version)
            reason = (
                f"the bundle {self._name}/{version} could not be loaded ({type(error).__name__}); the log says more"
            )
            self.refuse(reason, version)
            raise BundleError(reason) from error

    async def adopt(
        self,
        recommender: Recommender,
        name: str,
        version: str,
        created: float | None = None,
        golden: Sequence[Golden] = (),
    ) -> None:
        """Proves a recommender and serves it from the next request on. Raises BundleError; then nothing has changed.

        created: unix seconds of its making, where known. golden: lists that it must still give.
        """
        proved = await self._off_loop(self._prove, recommender, name, version, golden)
        proved = replace(proved, created=created)
        await self._on_thread(partial(self._warm, recommender))
        await self._serve(proved)

    async def _off_loop(self, work: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work, *given)

    def close(self) -> None:
        """Frees the thread. Nothing may be loading any more."""
        self._loader.shutdown()

    async def _serve(self, proved: Served) -> None:
        served = await self.dress(proved)  # from here to the assignment nothing is awaited
        if self.served is not None:
            self._metrics.bundle_info.remove(self.served.label)
        self._previous, self._proved = self._proved, proved
        self.served, self.state, self.reason, self.refused = served, BundleState.SERVING, None, None
        self._metrics.bundle_info.labels(bundle=served.label).set(1)
        self._metrics.bundle_loads.labels(outcome="served").inc()
        if proved.created is not None:
            self._metrics.bundle_created.set(proved.created)
        kind, items = served.recommender.kind, len(served.recommender.catalogue)
        log.info("serving bundle %s, kind %s, %d items", served.label, kind, items)

    def _prove(self, recommender: Recommender, name: str, version: str, golden: Sequence[Golden]) -> Served:
        self._apply_threads(recommender)
        return prove(recommender, name, version, golden)

    def _warm(self, recommender: Recommender) -> None:
        """On the model thread, between two batches: its first request would else pay for what is made once a thread."""
        self._apply_threads(recommender)
        recommender.recommend(np.zeros(1, dtype=np.int64), 1)

    def _apply_threads(self, recommender: Recommender) -> None:
        if recommender.kind != "popular":  # counting needs no torch, and importing it costs seconds
            threads.apply(self._threads.count)

    def refuse(self, reason: str, version: str | None = None) -> None:
        """Notes why a bundle is not served. Once for each reason, since a follower may say it twice a second."""
        if reason != self.reason:
            log.error("bundle refused: %s", reason)
            self._metrics.bundle_loads.labels(outcome="refused").inc()
        self.reason, self.refused = reason, version
        if self.served is None:
            self.state = BundleState.REFUSED

    def without(self, reason: str) -> None:
        """Notes that there is nothing to serve."""
        self.state, self.reason = BundleState.NONE, reason
        log.warning("%s in %s: answers are popular items until one is", reason, self._root)


async def _as_it_is(served: Served) -> Served:
    return served


def _read(root: Path, name: str, version: str) -> tuple[Recommender, Manifest, list[Golden]]:
    from model import load_recommender

    path = path_of(root, name, version)
    found = read_manifest(path)
    if (found.name, found.version) != (name, version):
        raise BundleError(f"the bundle at {path} is {found.name}/{found.version} by its manifest")
    heap.settle(found.kind)
    return load_recommender(path), found, read_golden(path)
