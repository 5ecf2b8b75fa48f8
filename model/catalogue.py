"""The catalogue: what is known of each item, and the only place where ids become rows.

A row number is the item's place in every matrix and index of a bundle. Ids are the user's own strings and
appear in requests, answers and files; rows appear everywhere else. This module knows no model and no HTTP.

    catalogue = Catalogue.read(path)
    rows = catalogue.rows(["1", "no such item"])   # unknown ids are dropped and counted by the caller
"""

from __future__ import annotations

import hashlib
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

    def with_items(self, items: Iterable[Item]) -> Catalogue:
        """A new catalogue: an item whose id is known replaces it in its row, the others come behind, in order.

        An id that is given twice counts once, as it was given last. Adding one item to 100,000 takes a few
        milliseconds: what is known of the others is copied, not made again.
        """
        held, row_of = list(self._items), dict(self._row_of)
        touched: dict[int, Item | None] = {}  # row -> what stood there before
        for item in items:
            if not item.item_id:
                raise ValueError("an item has an empty id")
            row = row_of.setdefault(item.item_id, len(held))
            touched.setdefault(row, self._items[row] if row < len(self._items) else None)
            if row < len(held):
                held[row] = item
            else:
                held.append(item)
        grown = Catalogue.__new__(Catalogue)
        grown._items, grown._row_of = tuple(held), row_of
        if "_rows_of_category" in vars(self):  # made already, so it is carried on
            grown.__dict__["_rows_of_category"] = self._moved(held, touched)
        return grown

    def _moved(self, held: list[Item], touched: dict[int, Item | None]) -> dict[str, Rows]:
        rows_of = dict(self._rows_of_category)
        nothing: Rows = np.zeros(0, dtype=np.int64)
        for row, before in touched.items():
            old, new = set(before.categories if before else ()), set(held[row].categories)
            for category in old - new:
                rows_of[category] = rows_of[category][rows_of[category] != row]
                if not len(rows_of[category]):
                    del rows_of[category]
            for category in new - old:
                rows = rows_of.get(category, nothing)
                rows_of[category] = np.insert(rows, np.searchsorted(rows, row), row)
        return rows_of

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Every category of the catalogue, sorted."""
        return tuple(sorted(self._rows_of_category))

    @cached_property
    def _rows_of_category(self) -> dict[str, Rows]:
        found: dict[str, list[int]] = {}
        for row, item in enumerate(self._items):
            for category in dict.fromkeys(item.categories):
                found.setdefault(category, []).append(row)
        return {category: np.array(rows, dtype=np.int64) for category, rows in found.items()}

    def in_categories(self, categories: Iterable[str]) -> Mask:
        """(N,) True where the item has at least one of the categories. Unknown categories match nothing."""
        mask = np.zeros(len(self), dtype=np.bool_)
        for category in categories:
            if (rows := self._rows_of_category.get(category)) is not None:
                mask[rows] = True
        return mask

    def mass(self, weights: NDArray[np.float32]) -> dict[str, float]:
        """The sum of weights (N,) over the items of each category; an item counts in each of its categories."""
        return {category: float(weights[rows].sum()) for category, rows in self._rows_of_category.items()}

    def within(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Mask:
        """(N,) True where an item is in one of the allowed categories (none: anywhere) and in no denied one.

        Raises ValueError for a category that no item has: to a person who typed it, matching nothing is no answer.
        """
        allow, deny = tuple(allow), tuple(deny)
        if unknown := [name for name in (*allow, *deny) if name not in self._rows_of_category]:
            raise ValueError(f"no item has the category {unknown[0]!r}")
        mask = self.in_categories(allow) if allow else np.ones(len(self), dtype=np.bool_)
        return mask & ~self.in_categories(deny)

    def enter(self, digest: hashlib._Hash) -> None:
        """Everything that is said of the items, in row order: two catalogues that differ anywhere differ in it."""
        for item in self._items:
            digest.update(json.dumps([item.item_id, item.title, item.categories, item.text]).encode())

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
        return cls(_item(json.loads(line)) for line in lines_of(path))


def lines_of(path: Path) -> Iterator[str]:
    """Read a megabyte at once. Line by line a file lets go of the interpreter's lock every 8 kB, for less time than a
    waiting thread takes to wake, and each time its wait begins anew: while 100,000 items were read, the service stood
    still for half a second."""
    with path.open(encoding="utf-8") as file:
        while lines := file.readlines(2**20):
            yield from lines


def _item(record: dict[str, str | Sequence[str]]) -> Item:
    return Item(
        item_id=str(record["item_id"]),
        title=str(record["title"]),
        categories=tuple(record["categories"]),
        text=str(record["text"]),
    )
