"""The catalogue: what is known of each item, and the only place where ids become rows.

A row number is the item's place in every matrix and index of a bundle. Ids are the user's own strings and
appear in requests, answers and files; rows appear everywhere else. This module knows no model and no HTTP.

    catalogue = Catalogue.read(path)
    rows = catalogue.rows(["1", "no such item"])   # unknown ids are dropped and counted by the caller
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Item:
    """One item as a person would describe it."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()
    text: str = ""


class Catalogue:
    """An immutable list of items; `catalogue[row]` is the item at that row.

    Raises ValueError when an id is empty or appears twice.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = tuple(items)
        self._row_of = {item.item_id: row for row, item in enumerate(self._items)}
        if len(self._row_of) != len(self._items):
            seen: set[str] = set()
            for row, item in enumerate(self._items):
                if item.item_id in seen:
                    raise ValueError(f"item id {item.item_id!r} appears twice in the catalogue (row {row})")
                seen.add(item.item_id)
        if "" in self._row_of:
            raise ValueError(f"the item at row {self._row_of['']} has an empty id")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> Item:
        return self._items[row]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def row(self, item_id: str) -> int | None:
        """The row of an id, or None when the catalogue does not hold it."""
        return self._row_of.get(item_id)

    def rows(self, item_ids: Iterable[str]) -> Rows:
        """Rows of the ids that are known, in the order given. Unknown ids are left out."""
        return np.array([row for i in item_ids if (row := self._row_of.get(i)) is not None], dtype=np.int64)

    def ids(self, rows: Iterable[int]) -> list[str]:
        """Ids of rows, in the order given."""
        return [self._items[int(row)].item_id for row in rows]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Every category of the catalogue, sorted."""
        return tuple(sorted({c for item in self._items for c in item.categories}))

    @cached_property
    def _rows_of_category(self) -> dict[str, Rows]:
        found: dict[str, list[int]] = {}
        for row, item in enumerate(self._items):
            for category in item.categories:
                found.setdefault(category, []).append(row)
        return {category: np.array(rows, dtype=np.int64) for category, rows in found.items()}

    def in_categories(self, categories: Iterable[str]) -> Mask:
        """(N,) True where the item has at least one of the categories. Unknown categories match nothing."""
        mask = np.zeros(len(self), dtype=np.bool_)
        for category in categories:
            if (rows := self._rows_of_category.get(category)) is not None:
                mask[rows] = True
        return mask

    def write(self, path: Path) -> None:
        """One JSON object a line, in row order."""
        with path.open("w", encoding="utf-8") as file:
            for item in self._items:
                record = {
                    "item_id": item.item_id,
                    "title": item.title,
                    "categories": item.categories,
                    "text": item.text,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Reads what `write` wrote."""
        with path.open(encoding="utf-8") as file:
            return cls(_item(json.loads(line)) for line in file)


def _item(record: dict[str, str | Sequence[str]]) -> Item:
    return Item(
        item_id=str(record["item_id"]),
        title=str(record["title"]),
        categories=tuple(record["categories"]),
        text=str(record["text"]),
    )
