"""Amazon Reviews of 2014 and 2018 in their official files: one review, or one product, a line.

    source = read_2014(Path("reviews_Beauty_5.json.gz"))    # meta_Beauty.json.gz is found beside it
    source = read_2018(Path("folder"))                      # All_Beauty_5.json.gz and meta_All_Beauty.json.gz in it

Reviews have reviewerID, asin, overall (1 to 5) and unixReviewTime, which is a day: the order within one day is that of
the file. Some files of 2014 hold Python literals instead of JSON; those are read with ast.literal_eval, which builds
values and runs nothing, one line of bounded length at a time. (He and McAuley, WWW 2016; Ni, Li and McAuley, EMNLP
2019.) The files are not redistributed here.
"""

from __future__ import annotations

import ast
import html
import json
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from model.catalogue import Item
from training.data.files import CHUNK, LINE, LONGEST_LINE, lines
from training.data.prepared import DataError
from training.data.rows import Rejected, check
from training.data.table import Source

TEXT = 2000  # characters of an item's text that are kept
FIELDS = {"reviewerID": "user_id", "asin": "item_id", "overall": "rating", "unixReviewTime": "timestamp"}
SUFFIXES = (".json", ".json.gz")
UNFORMATTED = "getTime"  # a title of 2018 with this in it is a piece of a script (the data set's own advice)

Parse = Callable[[str], Any]


def read_2014(path: Path) -> Source:
    """reviews_X.json.gz or reviews_X_5.json.gz, and meta_X.json.gz; JSON or Python literals."""
    return _read(path, "reviews_", _json_or_literal)


def read_2018(path: Path) -> Source:
    """X.json.gz or X_5.json.gz, and meta_X.json.gz; JSON."""
    return _read(path, "", json.loads)


def _read(path: Path, prefix: str, parse: Parse) -> Source:
    reviews, products = _files(path, prefix)
    interactions = check(_reviews(reviews, parse), origin=reviews.name)
    if products is None:
        return Source(interactions)
    met = set(interactions.item_ids)
    items, refused, repeated = _products(products, parse, met)
    return Source(
        interactions,
        items,
        counts={
            "products_rejected": len(refused),
            "first_products_rejected": [f"{products.name} {told}" for told in refused[:3]],
            "products_repeated": repeated,
        },
    )


def _files(path: Path, prefix: str) -> tuple[Path, Path | None]:
    """The reviews, and the metadata where it lies beside them."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        found = sorted(p for s in SUFFIXES for p in path.glob(f"{prefix}*{s}") if not p.name.startswith("meta_"))
        if not found:
            raise DataError(f"{path} has no {prefix}*.json.gz: give the folder or file of the official reviews")
        if len(found) > 1:
            raise DataError(f"{path} has both {found[0].name} and {found[1].name}: name the file to read")
        path = found[0]
    stem = path.name.removesuffix(".gz").removesuffix(".json").removeprefix(prefix).removesuffix("_5")
    return path, next((p for s in SUFFIXES if (p := path.with_name(f"meta_{stem}{s}")).is_file()), None)


def _reviews(path: Path, parse: Parse) -> Iterator[pl.DataFrame]:
    """Chunks of strings for `check`. A line that is no record has no fields, and is rejected for the first it lacks."""
    schema = dict.fromkeys((*FIELDS.values(), "fault"), pl.String) | {LINE: pl.Int64}
    rows = _review_rows(path, parse)
    empty = True
    while chunk := list(islice(rows, CHUNK)):
        empty = False
        yield pl.DataFrame(chunk, schema, orient="row")
    if empty:
        raise DataError(f"{path.name} is empty")


def _review_rows(path: Path, parse: Parse) -> Iterator[tuple[Any, ...]]:
    for number, line in lines(path):
        record = _record(line, parse)
        if isinstance(record, str):
            yield (*(None for _ in FIELDS), record, number)
        else:
            yield (*(_written(record.get(name)) for name in FIELDS), None, number)


def _record(line: str, parse: Parse) -> dict[str, Any] | str:
    """The record, or what is wrong with the line."""
    if len(line) >= LONGEST_LINE:
        return f"the line is longer than {LONGEST_LINE} characters"
    try:
        record = parse(line)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return "the line is no record"
    return record if isinstance(record, dict) else "the line is no record"


def _json_or_literal(line: str) -> Any:
    """JSON; where it is not, a Python literal (with single quotes, None and True), as the files of 2014 have them."""
    try:
        return json.loads(line)
    except ValueError:
        with warnings.catch_warnings():  # of "\\/" and the like, which these files have
            warnings.simplefilter("ignore")
            return ast.literal_eval(line.strip())


def _written(value: Any) -> str | None:
    """A field as a table would have it; what is no text and no number is missing."""
    if isinstance(value, str):
        return _whole(value)
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _products(path: Path, parse: Parse, met: set[str]) -> tuple[tuple[Item, ...], list[Rejected], int]:
    """Items that reviews name, in the order of the file; lines that are none; and how many came a second time.

    A category's metadata describes twenty products for each one that is in its 5-core: only those that somebody
    reviewed can be told apart from what was never for sale, so only those are taken.
    """
    found: dict[str, Item] = {}
    refused: list[Rejected] = []
    repeated = 0
    for number, line in lines(path):
        record = _record(line, parse)
        if isinstance(record, str):
            refused.append(Rejected(number, record))
            continue
        item_id = _written(record.get("asin"))
        if item_id not in met:
            continue
        if item_id in found:
            repeated += 1
            continue
        found[item_id] = _item(item_id, record)
    return tuple(found.values()), refused, repeated


def _item(item_id: str, record: dict[str, Any]) -> Item:
    """2014: categories is a list of paths; 2018: category is one path, description and feature are lists."""
    title = _clean(record.get("title"))
    paths = record.get("categories") or [record.get("category") or []]
    names = (_clean(name) for path in paths if isinstance(path, list) for name in path)
    parts = [record.get("brand"), *_listed(record.get("feature")), *_listed(record.get("description"))]
    text = " ".join(part for value in parts if (part := _clean(value)))
    return Item(
        item_id, "" if UNFORMATTED in title else title, tuple(dict.fromkeys(filter(None, names))), text[:TEXT].strip()
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _clean(value: Any) -> str:
    return " ".join(html.unescape(_whole(value)).split()) if isinstance(value, str) else ""


def _whole(text: str) -> str:
    """With a question mark for half a surrogate pair, which JSON may name and no file can hold."""
    return text.encode("utf-8", "replace").decode()
