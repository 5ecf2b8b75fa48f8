"""What is recommended, as a recommender's owner asks it: how much of the catalogue, how popular, how mixed, to whom,
and what comes of it.

Everything goes into metrics of a bounded number of series; nothing is kept about a user. A recommendation's id ends
in a digit that tells the rung of the ladder (`from_rung`) and eight that tell its bundle (`new_id`), so that an event
that cites it counts for both in any replica, without looking anything up.

    insights.answered(served, rows, history_length=12)      # once an answer
    insights.ranked(served)                                 # once an answer whose items the asker chose
    insights.cited(recommendation_id, "click")              # once an event that was kept
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from itertools import combinations, product
from typing import Final, get_args
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Catalogue, Rows
from service.bundles import Served
from service.metrics import Metrics
from service.schemas import EventType, Source

WINDOW_S: Final = 3600.0
"""An item counts as shown for this long."""

LOOKED_AT: Final = 10
"""Diversity and popularity are of the head of the list, which is what people see."""

BUNDLES: Final = 8
"""How many bundles have series of their own: of a process that swaps for years, the last ones."""

_MARK: Final = 8
_OTHER: Final = "other"
_RUNGS: Final = {source: format(place, "x") for place, source in enumerate(Source)}
_SOURCES: Final = {digit: source for source, digit in _RUNGS.items()}


def mark(bundle: str) -> str:
    """Eight hex digits that stand for a bundle's label."""
    return hashlib.sha256(bundle.encode()).hexdigest()[:_MARK]


def new_id(bundle: str | None) -> str:
    """A new recommendation's id: 24 random hex digits, then the bundle's mark."""
    return uuid4().hex[:-_MARK] + mark(bundle or "")


def from_rung(recommendation_id: str, source: Source) -> str:
    """The id with the rung that the answer came from in the digit before the mark."""
    return f"{recommendation_id[: -_MARK - 1]}{_RUNGS[source]}{recommendation_id[-_MARK:]}"


def diversity(catalogue: Catalogue, rows: Rows) -> float | None:
    """Mean Jaccard distance between the categories of two items of the list, 0 (all alike) to 1 (nothing in common).

    None where fewer than two items have categories.
    """
    sets = [frozenset(categories) for row in rows if (categories := catalogue[int(row)].categories)]
    if len(sets) < 2:
        return None
    distances = [1 - len(one & other) / len(one | other) for one, other in combinations(sets, 2)]
    return sum(distances) / len(distances)


class Insights:
    """Counts of one service. Its methods take some 30 microseconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: OrderedDict[str, str] = OrderedDict()  # mark -> label, the newest last
        self._label = ""
        self._shown: NDArray[np.float64] = np.zeros(0)  # when each row was last shown, by time.monotonic
        self._popularity: NDArray[np.float64] = np.zeros(0)  # 1 for the most popular row, 0 for the least
        metrics.shown_items.set_function(self._shown_lately)

    def answered(self, served: Served, rows: Rows, history_length: int | None) -> None:
        """Counts one list. rows: as it was answered, best first. history_length: None of a list that was made for no
        user: it was shown, and says nothing of what users are recommended."""
        self.ranked(served)
        metrics = self._metrics
        self._shown[rows] = time.monotonic()
        if history_length is None:
            return
        metrics.history_items.observe(history_length)
        if len(rows) == 0:
            return
        head = rows[:LOOKED_AT]
        metrics.list_popularity.observe(float(self._popularity[head].mean()))
        if (mixed := diversity(served.recommender.catalogue, head)) is not None:
            metrics.list_diversity.observe(mixed)

    def ranked(self, served: Served) -> None:
        """Counts one list that can be cited, and says nothing of its items: those of /rank are the asker's own."""
        if served.label != self._label or len(self._shown) != len(served.recommender.catalogue):
            self._take_up(served)
        self._metrics.lists.labels(bundle=served.label).inc()

    def cited(self, recommendation_id: str, event_type: str) -> None:
        """Counts an event that follows from a recommendation; `other` where its bundle is not known here any more."""
        bundle = self._known.get(recommendation_id[-_MARK:], _OTHER)
        source = _SOURCES.get(recommendation_id[-_MARK - 1 : -_MARK], _OTHER) if bundle != _OTHER else _OTHER
        self._metrics.cited_events.labels(bundle=bundle, source=source, type=event_type).inc()

    def know(self, labels: Iterable[str]) -> None:
        """Bundles that were served before this process was: what cites them still counts. The newest come last."""
        for label in list(labels)[-BUNDLES:]:
            self._known.setdefault(mark(label), label)

    def _take_up(self, served: Served) -> None:
        items = len(served.recommender.catalogue)
        shown = np.full(items, -np.inf)
        if served.label == self._label:  # the same bundle with more items than before
            shown[: len(self._shown)] = self._shown[:items]
        self._label, self._shown = served.label, shown
        places = np.empty(items, dtype=np.int64)
        places[served.popular_rows] = np.arange(items)
        self._popularity = 1 - places / max(1, items - 1)
        self._metrics.catalogue_items.set(items)
        self._known[mark(served.label)] = served.label
        self._known.move_to_end(mark(served.label))
        while len(self._known) > BUNDLES:
            _, forgotten = self._known.popitem(last=False)
            with suppress(KeyError):  # it may have been known and never served here
                self._metrics.lists.remove(forgotten)
            for source, event_type in product((*Source, _OTHER), get_args(EventType)):
                with suppress(KeyError):  # not every type was cited
                    self._metrics.cited_events.remove(forgotten, source, event_type)

    def _shown_lately(self) -> float:
        return float(np.count_nonzero(self._shown > time.monotonic() - WINDOW_S))
