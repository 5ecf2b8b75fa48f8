"""Prepare: from a source to one folder of prepared arrays, with what was read, refused and kept written in facts.

prepared = prepare("ml-100k", Path("ml-100k"), Path("prepared/ml-100k"))
prepared = prepare("ml-1m", None, Path("prepared/ml-1m"))                                  # downloads it once
prepared = prepare("table", Path("clicks.csv"), Path("prepared/clicks"), split="time")
prepared = prepare("synthetic", None, Path("prepared/demo"))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Catalogue, Item
from training.data.clean import Cleaning, Events, clean
from training.data.prepared import PARTS, TEST, TRAIN, VALIDATION, DataError, Negatives, Prepared, refuse_occupied
from training.data.rows import TIME_RULE, rejections
from training.data.sources import SOURCES, Download, read
from training.data.splits import by_time, leave_one_out, split_hash
from training.data.synthetic import Sizes
from training.data.table import Source

__all__ = ["SOURCES", "SPLITS", "UNIX_FROM", "assemble", "overlooked", "prepare", "read"]

SplitName = Literal["leave-one-out", "time"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

UNIX_FROM = 100_000_000  # 1973: a smaller timestamp is a position, not a time


def prepare(
    source: str,
    path: Path | None,
    out: Path,
    *,
    items: Path | None = None,
    split: str = "leave-one-out",
    quantiles: tuple[float, float] = (0.8, 0.9),
    cleaning: Cleaning | None = None,
    only_interacted: bool = False,
    sizes: Sizes | None = None,
    download: Download | None = None,
) -> Prepared:
    """Reads a source, cleans it, splits it, writes the folder `out` whole, and returns what it wrote.

    source: one of SOURCES. path: its folder or file; none for synthetic, which takes `sizes` instead, and none for a
    public set that is to be downloaded. items: an items table of its own (table only). only_interacted: leaves items
    that nobody interacted with out of the catalogue; by default they stay, since a service can recommend them from
    their text. Raises DataError, one sentence that names file, line or setting, and then writes nothing.
    """
    refuse_occupied(out)  # now, not after an hour's reading
    prepared = assemble(
        read(source, path, items=items, sizes=sizes, download=download),
        name=source,
        split=split,
        quantiles=quantiles,
        cleaning=cleaning,
        only_interacted=only_interacted,
    )
    prepared.write(out)
    return prepared


def overlooked(facts: Mapping[str, Any]) -> list[str]:
    """Of what was read, what a person should not overlook: sentences."""
    cleaning, told = facts["cleaning"], []
    if cleaning["rows_rejected"]:
        told.append(rejections(cleaning["rows_read"], cleaning["rows_rejected"], cleaning["first_rejected"]))
    if cleaning["ignored_columns"]:
        told.append(f"columns that were not read: {', '.join(cleaning['ignored_columns'])}")
    if cleaning["times_in_future"]:
        told.append(f"times later than now: {cleaning['times_in_future']}")
    return told


def assemble(
    source: Source,
    *,
    name: str,
    split: str = "leave-one-out",
    quantiles: tuple[float, float] = (0.8, 0.9),
    cleaning: Cleaning | None = None,
    only_interacted: bool = False,
) -> Prepared:
    """Prepared arrays of a source. Users are numbered in the order in which the file first names them.

    Catalogue rows follow the items table; ids that only interactions name come after it, without a title.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if source.unordered:
        raise DataError(
            f"{source.unordered}: with {split} the held-out event would be an arbitrary one, not the next; "
            "give data with timestamps"
        )
    interactions = source.interactions
    cleaned = clean(interactions, cleaning or Cleaning())
    events = cleaned.events
    catalogue, row_of, unlisted, unvisited = _catalogue(source, events, only_interacted=only_interacted)
    users, at = np.unique(events.users, return_inverse=True)  # numbers rise in the order of the file
    offsets = np.searchsorted(at, np.arange(len(users) + 1)).astype(np.int64)
    times = events.times
    unix = bool(times.min() >= UNIX_FROM)

    rule: dict[str, Any] = {"rule": split}
    cuts: tuple[int, int] | None = None
    if split == "time":
        if not unix:
            raise DataError(
                f"a split by time needs unix times, and these timestamps (the smallest is {times.min()}) are "
                "positions: use leave-one-out"
            )
        parts, cuts = by_time(times, quantiles)
        rule |= {"quantiles": list(quantiles), "cuts": list(cuts)}
    else:
        parts = leave_one_out(offsets)
    rule["hash"] = split_hash(split, parts)

    prepared = Prepared(
        catalogue=catalogue,
        users=tuple(interactions.user_ids[user] for user in users.tolist()),
        offsets=offsets,
        items=row_of[events.items],
        times=times,
        values=events.values,
        split=parts,
        negatives=_negatives(cleaned.negatives, users, row_of, _bounds(offsets, times, parts, cuts)),
    )
    asked = {f"{part}_targets": len(prepared.evaluation(part)) for part in PARTS}
    prepared.facts.update(
        {
            "source": name,
            **source.facts,
            "counts": {
                "users": len(users),
                "items": len(catalogue),
                "items_interacted": len(np.unique(events.items)),
                "events": len(events),
                "train_events": int((parts == TRAIN).sum()),
                "negatives": len(prepared.negatives or ()),
                "train_negatives": len(prepared.train_negatives()[1]),
                **asked,
            },
            "cleaning": {
                "rows_read": interactions.read,
                "rows_accepted": len(interactions),
                "rows_rejected": interactions.rejected,
                "first_rejected": [str(row) for row in interactions.first_rejected],
                "times_in_future": interactions.future,
                **cleaned.counts,
                "items_not_in_table": unlisted,
                "items_without_interaction": unvisited,
                "only_interacted": only_interacted,
                "ignored_columns": list(source.ignored_columns),
                **source.counts,
            },
            "split": rule,
            "has_unix_time": unix,
            "time_rule": TIME_RULE,
        }
    )
    return prepared


def _catalogue(
    source: Source, events: Events, *, only_interacted: bool
) -> tuple[Catalogue, NDArray[np.int32], int, int]:
    """The catalogue; the row of each number of item_ids, -1 where it holds none; how many of its items no table
    describes; and how many of the table nobody interacted with."""
    item_ids = source.interactions.item_ids
    interacted = {item_ids[number] for number in np.unique(events.items).tolist()}  # below: in the order of the file
    listed = {item.item_id for item in source.items}
    unlisted = [item_id for item_id in item_ids if item_id in interacted and item_id not in listed]
    kept = [item for item in source.items if item.item_id in interacted or not only_interacted]
    catalogue = Catalogue([*kept, *(Item(item_id) for item_id in unlisted)])
    rows = (catalogue.row(item_id) for item_id in item_ids)
    row_of = np.fromiter((-1 if row is None else row for row in rows), np.int32, len(item_ids))
    return catalogue, row_of, len(unlisted), len(listed - interacted)


def _bounds(
    offsets: NDArray[np.int64], times: NDArray[np.int64], parts: NDArray[np.int8], cuts: tuple[int, int] | None
) -> NDArray[np.int64]:
    """(2, U) the time from which on a user's negatives belong to validation, and to test."""
    users = len(offsets) - 1
    if cuts is not None:
        return np.repeat(np.array(cuts, dtype=np.int64)[:, None], users, axis=1)
    bounds = np.full((2, users), np.iinfo(np.int64).max)
    for line, part in enumerate((VALIDATION, TEST)):
        at = np.flatnonzero(parts == part)  # one event of each user who is asked
        bounds[line, np.searchsorted(offsets, at, side="right") - 1] = times[at]
    return bounds


def _negatives(
    events: Events, users: NDArray[np.int32], row_of: NDArray[np.int32], bounds: NDArray[np.int64]
) -> Negatives | None:
    """Negatives of users who are kept with items of the catalogue."""
    events = events.taken(np.isin(events.users, users) & (row_of[events.items] >= 0))
    if not len(events):
        return None
    at = np.searchsorted(users, events.users)
    split = np.full(len(events), TRAIN, dtype=np.int8)
    split[events.times >= bounds[0, at]] = VALIDATION
    split[events.times >= bounds[1, at]] = TEST
    offsets = np.searchsorted(at, np.arange(len(users) + 1)).astype(np.int64)
    return Negatives(offsets, row_of[events.items], events.times, events.values, split)
