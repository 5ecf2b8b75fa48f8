"""Baselines: what a trained bundle is measured beside, each fitted on training events alone.

    popularity       how often an item was interacted with
    transition kNN   what followed the last items of the history, decayed over distance (the sequential baseline);
                     window and decay are chosen on validation, as the penalty of EASE is
    EASE             the best linear item-item model in closed form (Steck 2019, arXiv 1905.03375)

They read prepared arrays only, and give scorers for `training.evaluate`. Transition kNN and EASE need no gradient
and are hard to beat: on ContRec's own splits no published generative model is known to (literature.md 3.4).

    scorers = {"contrec": recommender_scorer(recommender)} | fit_baselines(prepared)
    print(markdown(compare(scorers, prepared, "test")))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg import lapack

from model.catalogue import Rows
from model.recommender import Floats
from training.data.prepared import Prepared
from training.evaluate import Scorer, evaluate
from training.stages.transitions import DECAY, FROM_POWER, TO_POWER, WINDOW, count_transitions

FLOAT64_UP_TO = 8_000  # items: above, EASE computes in float32 to stay within memory
EASE_GRID = (25.0, 100.0, 250.0, 500.0)
KNN_GRID = ((10, 0.8), (10, 0.5), (5, 0.8), (5, 0.5))  # window and decay

_Fitted = TypeVar("_Fitted", bound=Scorer)


@dataclass(frozen=True, slots=True)
class Popularity:
    """counts: (N,) training events of each item."""

    counts: NDArray[np.int64]

    @classmethod
    def fit(cls, prepared: Prepared) -> Popularity:
        return cls(prepared.train_counts())

    def __call__(self, users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        return np.broadcast_to(self.counts.astype(np.float32), (len(users), len(self.counts)))


@dataclass(frozen=True, slots=True)
class Transitions:
    """score(j) = sum over the last `window` items i, d back, of decay^(d-1) * follows[i, j].

    follows: (N, N) sparse, as `count_transitions` has it.
    """

    follows: scipy.sparse.csr_array[Any]
    window: int
    decay: float

    @classmethod
    def fit(
        cls,
        prepared: Prepared,
        *,
        window: int = WINDOW,
        decay: float = DECAY,
        from_power: float = FROM_POWER,
        to_power: float = TO_POWER,
    ) -> Transitions:
        size = len(prepared.catalogue)
        line, rows, counts = count_transitions(
            *prepared.train_histories(),
            size,
            window=window,
            decay=decay,
            from_power=from_power,
            to_power=to_power,
        )
        follows = scipy.sparse.csr_array((counts, (line, rows)), shape=(size, size))
        return cls(follows, window, decay)

    @classmethod
    def chosen(
        cls,
        prepared: Prepared,
        *,
        grid: Sequence[tuple[int, float]] = KNN_GRID,
        users: int = 10_000,
        seed: int = 0,
    ) -> Transitions:
        """The window and decay with the best NDCG@10 on (at most `users`) validation targets; counted in training only.

        The first of the grid where the data has no validation target.
        """
        fits = [partial(cls.fit, prepared, window=window, decay=decay) for window, decay in grid]
        return _best(fits, prepared, users, seed) if _has_validation(prepared) else fits[0]()

    def __call__(self, users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        lines, rows, weights = [], [], []
        for line, history in enumerate(histories):
            last = history[: -self.window - 1 : -1]
            lines += [line] * len(last)
            rows += last.tolist()
            weights += [self.decay**distance for distance in range(len(last))]
        size = self.follows.shape[0]
        recent = scipy.sparse.coo_array(
            (np.array(weights, dtype=np.float32), (lines, rows)), shape=(len(histories), size)
        ).tocsr()
        return np.asarray((recent @ self.follows).toarray(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ease:
    """score = x B with x the 0/1 history and B = I - P / diag(P), P = (X^T X + penalty I)^-1, X the training users.

    Memory: at most four (N, N) matrices while lambda is chosen, float64 up to 8,000 items and float32 above: 0.45
    GiB for the 3,706 items of ML-1M, 2.2 GiB for the 12,101 of Beauty. Time: N^3 operations for each lambda.
    """

    weights: NDArray[Any]  # (N, N), the diagonal 0
    penalty: float

    @classmethod
    def fit(cls, prepared: Prepared, *, penalty: float) -> Ease:
        """With a given penalty (lambda), on training events alone."""
        return cls(_ease(_gram(prepared), penalty), penalty)

    @classmethod
    def chosen(
        cls, prepared: Prepared, *, grid: Sequence[float] = EASE_GRID, users: int = 10_000, seed: int = 0
    ) -> Ease:
        """The penalty with the best NDCG@10 on (at most `users`) validation targets; the weights see training only.

        Falls back to the middle of the grid where the data has no validation target.
        """
        gram = _gram(prepared)
        fits = [lambda penalty=penalty: cls(_ease(gram, penalty), penalty) for penalty in grid]
        return _best(fits, prepared, users, seed) if _has_validation(prepared) else fits[len(fits) // 2]()

    def __call__(self, users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        return np.asarray(_binary(histories, len(self.weights)).astype(self.weights.dtype) @ self.weights, np.float32)


def _has_validation(prepared: Prepared) -> bool:
    return len(prepared.evaluation("validation")) > 0


def _best(fits: Sequence[Callable[[], _Fitted]], prepared: Prepared, users: int, seed: int) -> _Fitted:
    """What the best of them gives; the first of equals. No more than two are held at a time."""
    best: tuple[float, _Fitted] | None = None
    for fit in fits:
        fitted = fit()
        reached = evaluate(fitted, prepared, "validation", users=users, seed=seed).ndcg(10)
        if best is None or reached > best[0]:
            best = reached, fitted
        del fitted  # before the next is made
    assert best is not None
    return best[1]


def _gram(prepared: Prepared) -> NDArray[Any]:
    offsets, items = prepared.train_histories()
    histories = [items[start:stop].astype(np.int64) for start, stop in pairwise(offsets)]
    size = len(prepared.catalogue)
    interacted = _binary(histories, size)
    gram = (interacted.T @ interacted).toarray()
    return np.asarray(gram, dtype=np.float64 if size <= FLOAT64_UP_TO else np.float32)


def _ease(gram: NDArray[Any], penalty: float) -> NDArray[Any]:
    matrix = np.array(gram, order="F")
    matrix[np.diag_indices_from(matrix)] += penalty
    # Cholesky, then the inverse in the same memory: half the time and a third of the memory of a general inverse.
    double = matrix.dtype == np.float64
    potrf, potri = (lapack.dpotrf, lapack.dpotri) if double else (lapack.spotrf, lapack.spotri)
    matrix, failed = potrf(matrix, lower=True, overwrite_a=True, clean=False)
    if failed == 0:
        matrix, failed = potri(matrix, lower=True, overwrite_c=True)
    if failed:
        raise ValueError(f"EASE cannot invert its matrix with penalty {penalty}: take a larger one")
    lower: NDArray[Any] = np.tril(matrix)
    del matrix
    lower += np.tril(lower, -1).T  # P
    diagonal = np.diagonal(lower).copy()
    lower /= -diagonal
    np.fill_diagonal(lower, 0.0)
    return lower


def _binary(histories: Sequence[Rows], size: int) -> scipy.sparse.csr_array[Any]:
    """(B, N) 1 where an item is in a history, float32."""
    unique = [np.unique(history) for history in histories]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *unique])
    starts = np.concatenate([[0], np.cumsum([len(found) for found in unique])])
    return scipy.sparse.csr_array((np.ones(len(rows), dtype=np.float32), rows, starts), shape=(len(histories), size))


# ----------------------------------------------------------------------------------------------------------------
# The table


def fit_baselines(prepared: Prepared, *, ease: bool = True) -> dict[str, Scorer]:
    """Popularity, transition kNN and EASE by name. EASE may be left out where N^2 floats are too many."""
    scorers: dict[str, Scorer] = {
        "popularity": Popularity.fit(prepared),
        "transition kNN": Transitions.chosen(prepared),
    }
    if ease:
        scorers["EASE"] = Ease.chosen(prepared)
    return scorers
