"""Splits: pure functions from (offsets, times) to the part of each event. Nothing is drawn at random.

split = leave_one_out(offsets)
split, cuts = by_time(times, (0.8, 0.9))
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from training.data.prepared import TEST, TRAIN, VALIDATION, DataError

Split = NDArray[np.int8]


def leave_one_out(offsets: NDArray[np.int64]) -> Split:
    """(E,) The last event of each user is TEST, the one before it VALIDATION; users with fewer than 3 only train.

    The protocol of SASRec and of the published tables. It leaks time: other users' training events lie after a
    target (Gusak et al., "Time to Split", 2507.16289), so decide with `by_time` where there are true times.
    """
    split = np.full(int(offsets[-1]), TRAIN, dtype=np.int8)
    last = offsets[1:][np.diff(offsets) >= 3] - 1
    split[last] = TEST
    split[last - 1] = VALIDATION
    return split


def by_time(times: NDArray[np.int64], quantiles: tuple[float, float] = (0.8, 0.9)) -> tuple[Split, tuple[int, int]]:
    """(E,) parts and the two cut times: validation starts at the first, test at the second, for everyone at once.

    The cuts are quantiles of all event times (an event's own time, no interpolation). An event at a cut belongs
    to the later part. Raises DataError when the quantiles do not rise within (0, 1) or leave a part empty.
    """
    low, high = quantiles
    if not 0 < low < high < 1:
        raise DataError(f"time quantiles must rise within (0, 1), not {low} and {high}")
    first, second = (int(cut) for cut in np.quantile(times, [low, high], method="higher"))
    split = np.full(len(times), TRAIN, dtype=np.int8)
    split[times >= first] = VALIDATION
    split[times >= second] = TEST
    for part, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not bool((split == part).any()):
            raise DataError(f"a split by time at quantiles {low} and {high} leaves no {name} event: choose others")
    return split, (first, second)


def split_hash(rule: str, split: Split) -> str:
    """sha256 of the rule's name and every event's part: equal hashes, equal split."""
    return hashlib.sha256(rule.encode() + b"\n" + split.tobytes()).hexdigest()
