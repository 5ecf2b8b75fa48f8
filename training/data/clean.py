"""Cleaning: from checked interactions to each user's events, oldest first, with everything left out counted.

    cleaned = clean(interactions, Cleaning(threshold=4, min_user=5, min_item=5))

In this order: what the user did not like (a dislike, or rated low) is set apart as true
negatives; repeated rows go; users and items with too few events go, again and again until none is left; events of the
same time are put in the order of the file or shuffled. Knows no file, no catalogue and no split.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.data.prepared import DataError
from training.data.rows import DISLIKE, DISLIKE_BELOW, RATING, Interactions

Ties = Literal["file", "shuffle"]
TIES: tuple[Ties, ...] = get_args(Ties)


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is taken.

    threshold: any row's rating below it is a true negative; without one, what is below DISLIKE_BELOW in rows of type
    rating. A row without a rating is none. min_user, min_item: events that a user, an item must have (both at k: the
    k-core). once: only the first event of each user with each item. ties: events of one user at the same time keep the
    order of the file, or are shuffled by `seed`.
    """

    threshold: float | None = None
    min_user: int = 1
    min_item: int = 1
    once: bool = False
    ties: str = "file"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ties not in TIES:
            raise DataError(f"ties must be one of {', '.join(TIES)}, not {self.ties!r}")
        if self.min_user < 1 or self.min_item < 1:
            raise DataError(f"min_user and min_item must be 1 or more, not {self.min_user} and {self.min_item}")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise DataError(f"threshold must be a number, not {self.threshold}")


@dataclass(frozen=True, slots=True)
class Events:
    """Events as columns, one user after the other, each user's oldest first."""

    users: NDArray[np.int32]  # (E,) numbers of Interactions.user_ids
    items: NDArray[np.int32]  # (E,) numbers of Interactions.item_ids
    times: NDArray[np.int64]  # (E,) whole seconds, or positions
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    def taken(self, mask: NDArray[np.bool_]) -> Events:
        """Those where the mask is True."""
        return Events(self.users[mask], self.items[mask], self.times[mask], self.values[mask])


@dataclass(frozen=True, slots=True)
class Cleaned:
    """events: what users did. negatives: what they did not like. counts: what was left out, for the facts."""

    events: Events
    negatives: Events
    counts: dict[str, Any]


def clean(interactions: Interactions, cleaning: Cleaning) -> Cleaned:
    """Raises DataError when nothing is left."""
    disliked = interactions.types == DISLIKE
    # NaN, no rating, is below nothing.
    if cleaning.threshold is not None:
        disliked |= interactions.values < cleaning.threshold
    else:
        disliked |= (interactions.types == RATING) & (interactions.values < DISLIKE_BELOW)
    events, repeated = _ordered(interactions, ~disliked, cleaning)
    negatives, _ = _ordered(interactions, disliked, cleaning)
    if not len(events):
        raise DataError(
            f"nothing is left: every rating lies below the threshold {cleaning.threshold:g}"
            if cleaning.threshold is not None
            else "nothing is left: every event is a dislike"
        )
    unique = len(events)
    users, items = _count(events.users, len(interactions.user_ids)), _count(events.items, len(interactions.item_ids))
    kept = _core(events, users, items, cleaning.min_user, cleaning.min_item)
    if not kept.any():
        asked = f"min_user = {cleaning.min_user}"
        if cleaning.min_item > 1:
            asked += f" and no item min_item = {cleaning.min_item}"
        raise DataError(f"no user has {asked} events or more")
    counts = {
        **asdict(cleaning),
        "duplicates_dropped": repeated,
        "true_negatives": len(negatives),
        "users_dropped": int((users > 0).sum()),
        "items_dropped": int((items > 0).sum()),
        "events_dropped_with_them": unique - int(kept.sum()),
    }
    if not kept.all():
        events = events.taken(kept)
    counts["users_dropped"] -= int((_count(events.users, len(users)) > 0).sum())
    counts["items_dropped"] -= int((_count(events.items, len(items)) > 0).sum())
    return Cleaned(events, negatives, counts)


def _ordered(rows: Interactions, mask: NDArray[np.bool_], cleaning: Cleaning) -> tuple[Events, int]:
    """The rows of a mask, by user and time, and how many of them were repeated.

    Of rows equal in user, item and whole second (with `once`: in user and item) the oldest stays, and of those the
    first of the file.
    """
    whole = bool(mask.all())
    picked = slice(None) if whole else mask
    users, seconds = rows.users[picked], rows.seconds[picked]
    order = np.lexsort((seconds, users))  # stable: ties stay in the order of the file
    users, seconds = users[order], seconds[order]
    items, values = rows.items[picked][order], rows.values[picked][order]
    times = np.floor(seconds).astype(np.int64)
    del order
    key = {"user": users, "item": items} | ({} if cleaning.once else {"time": times})
    first = pl.DataFrame(key).select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    repeated = len(users) - int(first.sum())
    events = Events(users, items, times, values)
    if repeated:
        events, seconds = events.taken(first), seconds[first]
    if cleaning.ties == "shuffle":
        drawn = np.random.default_rng(cleaning.seed).random(len(events))
        order = np.lexsort((drawn, seconds, events.users))
        events = Events(events.users[order], events.items[order], events.times[order], events.values[order])
    return events, repeated


def _count(numbers: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    return np.bincount(numbers, minlength=size)


def _core(
    events: Events, users: NDArray[np.int64], items: NDArray[np.int64], min_user: int, min_item: int
) -> NDArray[np.bool_]:
    """(E,) True for the largest set of events in which every user has min_user and every item min_item of them."""
    kept = np.ones(len(events), dtype=np.bool_)
    while True:
        enough = (users[events.users] >= min_user) & (items[events.items] >= min_item) & kept
        if enough.sum() == kept.sum():
            return kept
        kept = enough
        users = _count(events.users[kept], len(users))
        items = _count(events.items[kept], len(items))
