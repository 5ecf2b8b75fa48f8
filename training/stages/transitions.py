"""What followed what in training, as the expert that a bundle carries, and how much of it validation wants.

    transitions = fit_transitions(prepared, keep=256)
    expert = WithTransitions(base, transitions, weight=1.0, floor=1e-3)
    weight, tried, lead = choose_weight(expert, prepared, recipe.transitions.weights, users=6000, seed=0)

The baseline transition kNN (training/baselines.py) counts the same: what a bundle is measured beside, it may also know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.continuous.transitions import Transitions, WithTransitions
from training.data.prepared import Prepared
from training.stages.validation import Validation, best_weight

WINDOW, DECAY = 10, 0.8
FROM_POWER, TO_POWER = 0.5, 0.25


def fit_transitions(prepared: Prepared, keep: int, *, window: int = WINDOW, decay: float = DECAY) -> Transitions:
    """Of each item the `keep` items that followed it most; equal counts go to the lower row.

    256 lose nothing on validation (MovieLens-1M, Beauty, Sports), and are a third of all on MovieLens-1M.
    """
    offsets, items = prepared.train_histories()
    size = len(prepared.catalogue)
    line, rows, counts = count_transitions(offsets, items, size, window=window, decay=decay)
    order = np.lexsort((rows, -counts, line))  # line by line, the most first
    starts = np.searchsorted(line, np.arange(size + 1))
    place = np.empty(len(line), dtype=np.int64)
    place[order] = np.arange(len(line)) - starts[line]
    kept = place < keep
    kept_starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(starts), keep))])
    return Transitions(kept_starts, rows[kept].astype(np.int32), counts[kept], window, decay)


def count_transitions(
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    size: int,
    *,
    window: int = WINDOW,
    decay: float = DECAY,
    from_power: float = FROM_POWER,
    to_power: float = TO_POWER,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Training histories, and of how many items -> pairs (i, j) in ascending order with their weighed counts, (nnz,).

    The sum over (i, then j d later, d <= window) of decay^(d-1), divided by n_i^from_power * n_j^to_power, n the counts
    of the items, so that neither a popular item in the history nor a popular candidate drowns the rest. The powers are
    the best of eight pairs on the validation targets of MovieLens-1M, and close to it on those of Beauty and ML-100K.
    Memory: some hundred bytes for each pair that was found, and seven hundred for each event.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    codes: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    sums: NDArray[np.float64] = np.zeros(0)
    for distance in range(1, window + 1):
        same = user[:-distance] == user[distance:]
        found = items[:-distance][same].astype(np.int64) * size + items[distance:][same]
        codes, places = np.unique(np.concatenate([codes, found]), return_inverse=True)
        weights = np.concatenate([sums, np.full(len(found), decay ** (distance - 1))])
        sums = np.bincount(places, weights=weights, minlength=len(codes)).astype(np.float64)
    line, rows = codes // size, codes % size
    known = np.maximum(np.bincount(items, minlength=size), 1).astype(np.float64)
    return line, rows, (sums * known[line] ** -from_power * known[rows] ** -to_power).astype(np.float32)


def choose_weight(
    expert: WithTransitions,
    prepared: Prepared,
    weights: Sequence[float],
    *,
    users: int,
    seed: int,
) -> tuple[float, dict[str, float], tuple[float, float, float]]:
    """The best weight, what each gave on validation, and the lead of the best over the base alone: see `best_weight`.
    expert: with any weight. One of weights is above zero."""
    validate = Validation(expert, prepared, users, seed)
    alone = validate(expert.base, expert.base_tokens)
    found = {weight: validate(expert.with_weight(weight)) for weight in sorted(set(weights)) if weight > 0}
    return best_weight(found, alone)
