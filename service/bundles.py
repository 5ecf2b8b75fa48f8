"""Which bundle is served: loaded beside the running service, proved on a golden request, taken up by one assignment.

Knows no HTTP and no store. A bundle that cannot be used is refused with one sentence, which `/readyz` and
`GET /bundle` repeat; the service goes on with what it had, which may be nothing.

    bundles = Bundles(root, "movies", threads, on_thread=batcher.on_thread)
    await bundles.load()
    served = bundles.served          # read once a request: a swap in between does not mix two bundles
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from model.bundle import BundleError, Manifest, active, read_manifest
from model.catalogue import Item, Mask, Rows
from model.recommender import Floats, Recommender
from service import threads
from service.metrics import Metrics
from service.schemas import BundleState
from service.stores.contract import StoredItem

log = logging.getLogger(__name__)

_GOLDEN_K = 10
_WARM_HISTORY = 50


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A recommender that has proved itself, and its popular list, made once so that it can be had without the model.

    popular_rows, popular_scores: (N,) every row, most popular first. withdrawn: rows that must not be shown.
    catalogue_version: up to which what was said of items is part of it.
    """

    recommender: Recommender
    name: str
    version: str
    popular_rows: Rows
    popular_scores: Floats
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


def prove(recommender: Recommender, name: str, version: str) -> Served:
    """Warms the recommender up and asks the golden request, the empty history. Runs on the model thread.

    Raises BundleError when the answer is not a list that a user could be given.
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
    popular_rows, popular_scores = recommender.neighbours(nothing, np.ones(items, dtype=np.bool_), items)
    if sorted(popular_rows.tolist()) != list(range(items)) or not np.isfinite(popular_scores).all():
        raise BundleError(f"the bundle {name}/{version} has no complete popular list")
    return Served(recommender, name, version, popular_rows, popular_scores)


class OnThread(Protocol):
    """Runs a call on the model thread: `Batcher.on_thread`."""

    def __call__(self, work: Callable[[], Served], /) -> Awaitable[Served]: ...


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

    async def load(self) -> None:
        """Loads the active version, off the event loop. Never raises: what is wrong becomes `state` and `reason`."""
        try:
            path = active(self._root, self._name)
            if path is None:
                self.state, self.reason = BundleState.NONE, f"no version of the bundle {self._name!r} is active"
                log.warning("%s in %s: answers are popular items until one is", self.reason, self._root)
                return
            recommender, manifest = await asyncio.to_thread(_read, path)
            await self.adopt(recommender, self._name, manifest.version)
            self._metrics.bundle_created.set(datetime.fromisoformat(manifest.created).timestamp())
        except BundleError as error:
            self._refuse(str(error))
            log.error("bundle refused: %s", error)
        except Exception as error:  # whatever is in the folder, the service must live
            self._refuse(f"the bundle {self._name} could not be loaded ({type(error).__name__}); the log says more")
            log.exception("bundle refused")

    async def adopt(self, recommender: Recommender, name: str, version: str) -> None:
        """Proves a recommender and serves it from the next request on. Raises BundleError; then nothing has changed."""
        served = await self._on_thread(partial(self._prove, recommender, name, version))
        served = await self.dress(served)  # from here to the assignment nothing is awaited
        if self.served is not None:
            self._metrics.bundle_info.remove(self.served.label)
        self.served, self.state, self.reason = served, BundleState.SERVING, None
        self._metrics.bundle_info.labels(bundle=served.label).set(1)
        self._metrics.bundle_loads.labels(outcome="served").inc()
        log.info("serving bundle %s, kind %s, %d items", served.label, recommender.kind, len(recommender.catalogue))

    def _prove(self, recommender: Recommender, name: str, version: str) -> Served:
        if recommender.kind != "popular":  # counting needs no torch, and importing it costs seconds
            threads.apply(self._threads.count)
        return prove(recommender, name, version)

    def _refuse(self, reason: str) -> None:
        self._metrics.bundle_loads.labels(outcome="refused").inc()
        self.reason = reason
        if self.served is None:
            self.state = BundleState.REFUSED


async def _as_it_is(served: Served) -> Served:
    return served


def _read(path: Path) -> tuple[Recommender, Manifest]:
    from model import load_recommender

    return load_recommender(path), read_manifest(path)
