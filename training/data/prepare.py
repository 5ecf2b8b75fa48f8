"""Prepare: from a source to one folder of prepared arrays, with what was read, refused and kept written in facts.

prepared = prepare("ml-100k", Path("ml-100k"), Path("prepared/ml-100k"))
prepared = prepare("table", Path("clicks.csv"), Path("prepared/clicks"), split="time")
prepared = prepare("synthetic", None, Path("prepared/demo"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from model.catalogue import Catalogue, Item
from training.data import movielens, synthetic, table
from training.data.prepared import PARTS, TRAIN, DataError, Prepared
from training.data.rows import LINE, TIME_RULE
from training.data.splits import by_time, leave_one_out, split_hash
from training.data.synthetic import Sizes
from training.data.table import Source

SourceName = Literal["ml-100k", "ml-latest-small", "table", "synthetic"]
SplitName = Literal["leave-one-out", "time"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
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
    min_user: int = 1,
    only_interacted: bool = False,
    sizes: Sizes | None = None,
) -> Prepared:
    """Reads a source, splits it, writes the folder `out` whole, and returns what it wrote.

    source: one of SOURCES. path: its folder or file; none for synthetic, which takes `sizes` instead. items: an
    items table of its own (table only). min_user: users with fewer events are left out. only_interacted: leaves
    items that nobody interacted with out of the catalogue; by default they stay, since a service can recommend
    them from their text. Raises DataError, one sentence that names file, line or setting, and then writes nothing.
    """
    prepared = assemble(
        read(source, path, items=items, sizes=sizes),
        name=source,
        split=split,
        quantiles=quantiles,
        min_user=min_user,
        only_interacted=only_interacted,
    )
    prepared.write(out)
    return prepared


def read(source: str, path: Path | None, *, items: Path | None = None, sizes: Sizes | None = None) -> Source:
    """What a named source holds, before anything is split."""
    if source not in SOURCES:
        raise DataError(f"source must be one of {', '.join(SOURCES)}, not {source!r}")
    if items is not None and source != "table":
        raise DataError(f"the source {source} brings its own items; an items table goes with the source table")
    if source == "synthetic":
        if path is not None:
            raise DataError("the source synthetic is made up and reads no path")
        return synthetic.generate(sizes or Sizes()).source()
    if sizes is not None:
        raise DataError(f"sizes are for the source synthetic, not for {source}")
    if path is None:
        raise DataError(f"the source {source} needs the path of its files")
    if source == "table":
        return table.read(path, items=items)
    return movielens.read_100k(path) if source == "ml-100k" else movielens.read_latest_small(path)


def assemble(
    source: Source,
    *,
    name: str,
    split: str = "leave-one-out",
    quantiles: tuple[float, float] = (0.8, 0.9),
    min_user: int = 1,
    only_interacted: bool = False,
) -> Prepared:
    """Prepared arrays of a source. Users are numbered in the order in which the file first names them.

    Catalogue rows follow the items table; ids that only interactions name come after it, without a title.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    frame = source.interactions.frame
    everyone = frame["user_id"].n_unique()
    if min_user > 1:
        frame = frame.filter(pl.len().over("user_id") >= min_user)
        if frame.is_empty():
            raise DataError(f"no user has min_user = {min_user} events or more")
    users = frame.group_by("user_id").agg(pl.col(LINE).min()).sort(LINE)["user_id"]
    catalogue, unlisted, unvisited = _catalogue(source.items, frame, only_interacted=only_interacted)

    numbers = pl.DataFrame({"user_id": users, "user": np.arange(len(users), dtype=np.int64)})
    # Already oldest first with ties in file order; a stable sort by user keeps that within each user.
    frame = frame.join(numbers, on="user_id", how="left", maintain_order="left").sort("user", maintain_order=True)
    offsets = np.searchsorted(frame["user"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64)
    times = frame["time"].to_numpy().astype(np.int64)
    unix = bool(times.min() >= UNIX_FROM)

    rule: dict[str, Any] = {"rule": split}
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
        users=tuple(users),
        offsets=offsets,
        items=catalogue.rows(frame["item_id"]).astype(np.int32),
        times=times,
        values=frame["value"].to_numpy().astype(np.float32),
        split=parts,
    )
    asked = {f"{part}_targets": len(prepared.evaluation(part)) for part in PARTS}
    prepared.facts.update(
        {
            "source": name,
            **source.facts,
            "counts": {
                "users": len(users),
                "items": len(catalogue),
                "items_interacted": int(frame["item_id"].n_unique()),
                "events": len(frame),
                "train_events": int((parts == TRAIN).sum()),
                **asked,
            },
            "cleaning": {
                "rows_read": source.interactions.read,
                "rows_rejected": source.interactions.rejected,
                "first_rejected": [str(row) for row in source.interactions.first_rejected],
                "duplicates_dropped": source.interactions.duplicates,
                "min_user": min_user,
                "users_dropped": everyone - len(users),
                "items_not_in_table": unlisted,
                "items_without_interaction": unvisited,
                "only_interacted": only_interacted,
                "ignored_columns": list(source.ignored_columns),
            },
            "split": rule,
            "has_unix_time": unix,
            "time_rule": TIME_RULE,
        }
    )
    return prepared


def _catalogue(items: tuple[Item, ...], frame: pl.DataFrame, *, only_interacted: bool) -> tuple[Catalogue, int, int]:
    """The catalogue, how many of its items no table describes, and how many of the table nobody interacted with."""
    named = frame.group_by("item_id").agg(pl.col(LINE).min()).sort(LINE)["item_id"].to_list()
    interacted, listed = set(named), {item.item_id for item in items}
    unlisted = [item_id for item_id in named if item_id not in listed]
    kept = [item for item in items if item.item_id in interacted or not only_interacted]
    unvisited = len(listed - interacted)
    return Catalogue([*kept, *(Item(item_id) for item_id in unlisted)]), len(unlisted), unvisited
