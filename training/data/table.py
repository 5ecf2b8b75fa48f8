"""Any table: CSV, CSV.gz, TSV or Parquet with the canonical columns.

interactions   user_id, item_id, timestamp, rating?, type?     anything else is ignored, and named
items          item_id, title?, categories?, text?       optional; categories joined by |, or in Parquet a list

source = read(Path("my-data"))                                # a folder with interactions.* and perhaps items.*
source = read(Path("clicks.csv"), items=Path("films.parquet"))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from model.catalogue import Item
from training.data.files import CHUNK, LINE, delimited, read_parquet
from training.data.prepared import DataError
from training.data.rows import Interactions, check

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp", "rating", "type")
ITEM_COLUMNS = ("item_id", "title", "categories", "text")
NEEDED = ("user_id", "item_id", "timestamp")


@dataclass(frozen=True, slots=True)
class Source:
    """What every source gives: checked interactions, the items that it describes, and columns that nobody reads."""

    interactions: Interactions
    items: tuple[Item, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # what else should be remembered of where it came from
    counts: dict[str, Any] = field(default_factory=dict)  # what else was left out
    unordered: str = ""  # why nobody can say which of a user's events came first; empty: they can


def read(path: Path, *, items: Path | None = None) -> Source:
    """Reads a folder or a file of interactions, with its items table where there is one.

    Raises DataError, with file and line, for what cannot be taken at all; single bad rows are rejected and counted.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        folder, found = path, _find(path, "interactions")
        if found is None:
            raise DataError(f"{folder} has no interactions table (interactions{', interactions'.join(SUFFIXES)})")
        path, items = found, items or _find(folder, "items")
    ignored: list[str] = []
    interactions = check(_noting(_chunks(path), INTERACTION_COLUMNS, NEEDED, path, ignored), origin=path.name)
    if items is None:
        return Source(interactions, ignored_columns=tuple(ignored))
    table = pl.concat(_noting(_chunks(items), ITEM_COLUMNS, NEEDED[1:2], items, ignored))
    return Source(interactions, items_of(table, origin=items.name), tuple(ignored))


def items_of(table: pl.DataFrame, *, origin: str) -> tuple[Item, ...]:
    """Items in the order of the table, which has the column item_id. Raises DataError for a missing or repeated id."""
    absent = pl.lit("").alias
    columns = [pl.col(name) if name in table.columns else absent(name) for name in (*ITEM_COLUMNS, LINE)]
    found: dict[str, Item] = {}
    for item_id, title, categories, text, line in table.select(columns).iter_rows():
        listed = categories if isinstance(categories, list) else (categories or "").split("|")
        if not (item_id or "").strip():
            raise DataError(f"{origin} line {line}: item_id is missing")
        if item_id in found:
            raise DataError(f"{origin} line {line}: item_id {item_id!r} appears a second time")
        names = dict.fromkeys(name for part in listed if (name := (part or "").strip()))
        found[item_id] = Item(item_id, (title or "").strip(), tuple(names), (text or "").strip())
    return tuple(found.values())


def _chunks(path: Path) -> Iterator[pl.DataFrame]:
    name = path.name.removesuffix(".gz")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path.name} is none of {', '.join(SUFFIXES)}")
    if name.endswith(".parquet"):
        return read_parquet(path).iter_slices(CHUNK)
    return delimited(path, delimiter="\t" if name.endswith(".tsv") else ",")


def _noting(
    chunks: Iterator[pl.DataFrame], known: tuple[str, ...], needed: tuple[str, ...], path: Path, ignored: list[str]
) -> Iterator[pl.DataFrame]:
    """The chunks without the columns that nobody reads, whose names go into `ignored`."""
    for number, chunk in enumerate(chunks):
        names = [name for name in chunk.columns if name != LINE]
        if missing := [name for name in needed if name not in names]:
            some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise DataError(f"{path.name} has no column {missing[0]!r}; it has {some}")
        if number == 0:
            ignored += [f"{path.name}: {name}" for name in names if name not in known]
        taken = [name for name in names if name in known]
        for name in taken:
            kind = chunk.schema[name]
            if kind != pl.String and (name, kind) != ("categories", pl.List(pl.String)):
                raise DataError(f"{path.name}: column {name} holds {kind}, which is no text")
        yield chunk.select([*taken, LINE])


def _find(folder: Path, stem: str) -> Path | None:
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has both {found[0].name} and {found[1].name}: name the file to read")
    return found[0] if found else None
