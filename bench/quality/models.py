"""The rows of the table: each a function from data and seed to a scorer, registered under its name.

    fitted = MODELS["popularity"](Ask(prepared, SETS["beauty"], "beauty", seed=0))

Whatever more than one row needs (a trunk, a bundle) is fitted once and kept under runs/quality/<set>; `seconds` counts
it in every row that needs it. To add a row, write a function and decorate it with `@row(name, group)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets import RUNS, Set
from model.catalogue import Rows
from model.recommender import Floats, Recommender
from training.baselines import Ease, Popularity, Transitions
from training.data.prepared import Prepared
from training.evaluate import Scorer, recommender_scorer


@dataclass(frozen=True, slots=True)
class Ask:
    """What a row is fitted on."""

    prepared: Prepared
    set: Set
    set_name: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where parts that rows share are kept."""
        return RUNS / self.set_name

    @property
    def prepared_folder(self) -> Path:
        """Where the prepared arrays lie."""
        return RUNS / "prepared" / self.set_name


@dataclass(frozen=True, slots=True)
class Fitted:
    """scorer: as training.evaluate reads it. seconds: of all fitting, parts that other rows share included, evaluation
    left out; None: what the call took. recommender: what the scorer asks, where it is one that could be served. commit:
    of the code that fitted it, where that was done before this call."""

    scorer: Scorer
    parameters: int
    configuration: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    recommender: Recommender | None = None
    commit: str | None = None

    @classmethod
    def of(cls, recommender: Recommender, parameters: int, configuration: dict[str, Any], **other: Any) -> Fitted:
        """What could be served."""
        return cls(recommender_scorer(recommender), parameters, configuration, recommender=recommender, **other)


@dataclass(frozen=True, slots=True)
class Row:
    """group: under which heading of the page it stands. seeds: what a full table needs."""

    fit: Callable[[Ask], Fitted]
    group: str
    seeds: int


MODELS: dict[str, Row] = {}


def row(name: str, group: str, *, seeds: int = 1) -> Callable[[Callable[[Ask], Fitted]], Callable[[Ask], Fitted]]:
    """Registers a row of the table."""

    def register(fit: Callable[[Ask], Fitted]) -> Callable[[Ask], Fitted]:
        if name in MODELS:
            raise ValueError(f"two rows are called {name!r}")
        MODELS[name] = Row(fit, group, seeds)
        return fit

    return register


# ------------------------------------------------------------------------------------------- without a gradient


@row("popularity", "baselines")
def popularity(ask: Ask) -> Fitted:
    """How often an item was interacted with in training."""
    return Fitted(Popularity.fit(ask.prepared), len(ask.prepared.catalogue))


RECENT = 10


@row("recent-popularity", "baselines")
def recent_popularity(ask: Ask) -> Fitted:
    """The same, over each user's last ten training events: two of the three sets have an order, but no clock."""
    offsets, items = ask.prepared.train_histories()
    last = np.concatenate([items[max(a, b - RECENT) : b] for a, b in pairwise(offsets)])
    counts = np.bincount(last, minlength=len(ask.prepared.catalogue)).astype(np.int64)
    return Fitted(Popularity(counts), len(counts), {"last_events": RECENT})


@row("transition-knn", "baselines")
def transition_knn(ask: Ask) -> Fitted:
    """What followed the last items, decayed over distance; window and decay from validation."""
    fitted = Transitions.chosen(ask.prepared)
    return Fitted(fitted, int(fitted.follows.nnz), {"window": fitted.window, "decay": fitted.decay})


@row("ease", "baselines")
def ease(ask: Ask) -> Fitted:
    """The best linear item-item model in closed form; its penalty from validation."""
    fitted = Ease.chosen(ask.prepared)
    return Fitted(fitted, int(fitted.weights.size), {"penalty": fitted.penalty})


def log_softmax(scores: Floats) -> Floats:
    """(B, N) scores -> log probabilities over the catalogue, so that two models' scores can be added."""
    top = scores.max(axis=1, keepdims=True)
    shifted = scores - top
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def added(first: Scorer, second: Scorer, weight: float) -> Scorer:
    """log p1 + weight * log p2, each over the whole catalogue."""

    def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        one, two = log_softmax(first(users, histories)), log_softmax(second(users, histories))
        return one + np.float32(weight) * two

    return scorer
