"""Rows: from text to checked interactions, with every refusal counted and the first ones told.

What a source (movielens, table) does not know: which timestamps are times, and how an error names its line. What this
module does not know: any particular data set, items, what is a duplicate, splits.

    interactions = check(delimited(path), origin=path.name)      # typed, rejected rows counted, file order kept
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.data.files import LATEST, LINE
from training.data.prepared import DataError

SHOWN = 10  # rejected rows that are told in full
TYPES: Final = ("view", "click", "cart", "purchase", "like", "dislike", "rating")  # as the service takes them
UNTYPED, DISLIKE, RATING = -1, TYPES.index("dislike"), TYPES.index("rating")
DISLIKE_BELOW = 3.0  # what is called a rating and lies below is a dislike, as in the service

TIME_RULE = (
    "a number is unix seconds (or a position); from 1e11 on it is milliseconds, from 1e14 microseconds, from 1e17 "
    "nanoseconds; anything else must be an ISO 8601 date or date and time, UTC where it names no zone"
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not taken."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Interactions:
    """E checked interactions in the order of the file, as columns: 25 million of them are 525 MB.

    user_ids, item_ids: strings as in the file, in the order in which accepted rows first name them. read, rejected:
    rows; first_rejected: the first SHOWN. future: how many rows are later than now.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    users: NDArray[np.int32]  # (E,) numbers in user_ids
    items: NDArray[np.int32]  # (E,) numbers in item_ids
    seconds: NDArray[np.float64]  # (E,) unix seconds, or positions
    values: NDArray[np.float32]  # (E,) NaN where there is none
    types: NDArray[np.int8]  # (E,) numbers in TYPES, or UNTYPED
    read: int
    rejected: int = 0
    first_rejected: tuple[Rejected, ...] = ()
    future: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def oldest_first(self) -> Iterator[tuple[str, str, int, float, str | None]]:
        """(user_id, item_id, whole seconds, value, type) of each, rows of the same time in the order of the file."""
        for at in np.argsort(self.seconds, kind="stable").tolist():
            kind = int(self.types[at])
            yield (
                self.user_ids[self.users[at]],
                self.item_ids[self.items[at]],
                int(self.seconds[at]),
                float(self.values[at]),
                None if kind == UNTYPED else TYPES[kind],
            )


class Numbers:
    """Strings to numbers, in the order in which they first appear."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def __call__(self, strings: Iterable[str]) -> NDArray[np.int32]:
        of = self._of
        return np.fromiter((of.setdefault(string, len(of)) for string in strings), np.int32)

    def strings(self) -> tuple[str, ...]:
        """The string of each number."""
        return tuple(self._of)


def rejections(read: int, rejected: int, first: Sequence[object]) -> str:
    """What a person should not overlook, in one sentence. first: of the rejected rows, some."""
    told = [str(row) for row in first[:3]]
    return f"{rejected} of {read} rows were rejected: {'; '.join(told)}{' ...' if rejected > len(told) else ''}"


def check(chunks: Iterable[pl.DataFrame], *, origin: str) -> Interactions:
    """Types the columns user_id, item_id, timestamp and, where there are, rating and type; others are not read.

    chunks: frames of strings with LINE, as `delimited` gives them; where there is a column `fault`, what it holds is
    wrong with the whole row. Rejected, counted and told: a missing id, a timestamp that is neither number nor ISO date
    (TIME_RULE) or lies before 1970 or after 2100, a rating that is no finite number, a type that is none of TYPES.
    Raises DataError when nothing is left.
    """
    users, items = Numbers(), Numbers()
    columns: list[tuple[NDArray[np.generic], ...]] = []
    read = rejected = future = 0
    told: list[Rejected] = []
    now = time.time()
    for raw in chunks:
        typed = _typed(raw)
        read += len(typed)
        if not typed["good"].all():
            refused = typed.filter(~pl.col("good")).select(LINE, _reason())
            rejected += len(refused)
            told += [Rejected(*row) for row in refused.head(SHOWN - len(told)).iter_rows()]
            typed = typed.filter("good")
        seconds = typed["seconds"].to_numpy()
        future += int((seconds > now).sum())
        columns.append(
            (
                users(typed["user_id"].to_list()),
                items(typed["item_id"].to_list()),
                seconds,
                typed["value"].fill_null(float("nan")).to_numpy(),
                typed["type_number"].to_numpy(),
            )
        )
    if rejected == read:
        first = f" ({told[0]}{', ...' if read > 1 else ''})" if told else ""
        of_all = f"all {read} rows were" if read > 1 else "its only row was"
        raise DataError(f"nothing was imported from {origin}: {of_all} rejected{first}")
    # One column at a time: its chunks go before the next column is joined.
    parts = [list(column) for column in zip(*columns, strict=True)]
    del columns
    user, item, seconds, values, types = (np.concatenate(parts.pop(0)) for _ in range(len(parts)))
    return Interactions(
        users.strings(),
        items.strings(),
        user.astype(np.int32, copy=False),
        item.astype(np.int32, copy=False),
        seconds.astype(np.float64, copy=False),
        values.astype(np.float32, copy=False),
        types.astype(np.int8, copy=False),
        read,
        rejected,
        tuple(told),
        future,
    )


def _typed(raw: pl.DataFrame) -> pl.DataFrame:
    """The columns that are read, as written and as numbers, and whether the row is good."""

    def optional(name: str) -> pl.Expr:
        return (pl.col(name) if name in raw.columns else pl.lit(None, pl.String)).str.strip_chars()

    written = raw.select(
        LINE,
        "user_id",
        "item_id",
        pl.col("timestamp").str.strip_chars().alias("written"),
        optional("rating").alias("rating"),
        optional("rating").cast(pl.Float64, strict=False).cast(pl.Float32).alias("value"),
        optional("type").alias("type"),
        optional("fault").alias("fault"),
    )
    typed = written.with_columns(
        _seconds(written["written"]),
        pl.col("type")
        .replace_strict({name: number for number, name in enumerate(TYPES)}, default=None, return_dtype=pl.Int8)
        .fill_null(UNTYPED)
        .alias("type_number"),
    )
    good = (
        pl.col("fault").is_null()
        & ~_blank("user_id")
        & ~_blank("item_id")
        & pl.col("seconds").is_between(0, LATEST, closed="left").fill_null(False)
        & (_blank("rating") | pl.col("value").is_finite().fill_null(False) | pl.col("value").is_nan().fill_null(False))
        & (_blank("type") | (pl.col("type_number") != UNTYPED))
    )
    return typed.with_columns(good.alias("good"))


def _reason() -> pl.Expr:
    return (
        pl.when(pl.col("fault").is_not_null())
        .then(pl.col("fault"))
        .when(_blank("user_id"))
        .then(pl.lit("user_id is missing"))
        .when(_blank("item_id"))
        .then(pl.lit("item_id is missing"))
        .when(_blank("written"))
        .then(pl.lit("timestamp is missing"))
        .when(pl.col("seconds").is_null() | ~pl.col("seconds").is_finite())
        .then(pl.format("timestamp '{}' is neither a number nor an ISO date", _short("written")))
        .when(pl.col("seconds") < 0)
        .then(pl.format("timestamp '{}' lies before 1970", _short("written")))
        .when(pl.col("seconds") >= LATEST)
        .then(pl.format("timestamp '{}' lies after 2100", _short("written")))
        .when(~_blank("rating") & (pl.col("value").is_null() | pl.col("value").is_infinite()))
        .then(pl.format("rating '{}' is not a number", _short("rating")))
        .otherwise(pl.format("type '{}' is none of " + ", ".join(TYPES), _short("type")))
    )


def _blank(name: str) -> pl.Expr:
    return pl.col(name).is_null() | (pl.col(name).str.strip_chars() == "")


def _short(name: str) -> pl.Expr:
    return pl.col(name).str.slice(0, 40)


def _seconds(text: pl.Series) -> pl.Series:
    """TIME_RULE, as float64 seconds; null where the text is no time."""
    number = text.cast(pl.Float64, strict=False)
    frame = pl.DataFrame({"text": text, "number": number})
    value = pl.col("number")
    seconds = (
        pl.when(value >= 1e17)
        .then(value / 1e9)
        .when(value >= 1e14)
        .then(value / 1e6)
        .when(value >= 1e11)
        .then(value / 1e3)
        .otherwise(value)
    )
    if number.null_count():  # the dear part, and most files write times in one way
        seconds = pl.coalesce(seconds, _iso(pl.col("text")))
    return frame.select(seconds.alias("seconds")).to_series()


def _iso(text: pl.Expr) -> pl.Expr:
    # A zone is cut off and subtracted by hand: polars reads a column either all with zones or all without.
    parts = text.str.extract_groups(
        r"^(?<date>\d{4}-\d\d-\d\d)(?:[T ](?<time>\d\d:\d\d)(?<second>:\d\d)?(?<fraction>\.\d+)?)?"
        r"\s?(?:(?<utc>Z|UTC)|(?<sign>[+-])(?<hours>\d\d)(?::?(?<minutes>\d\d))?)?$"
    )

    def part(name: str, default: str) -> pl.Expr:
        return parts.struct.field(name).fill_null(default)

    local = pl.concat_str([parts.struct.field("date"), pl.lit("T"), part("time", "00:00"), part("second", ":00")])
    zone = part("hours", "0").cast(pl.Float64) * 3600 + part("minutes", "0").cast(pl.Float64) * 60
    sign = pl.when(part("sign", "+") == "-").then(-1.0).otherwise(1.0)
    fraction = pl.concat_str([pl.lit("0"), part("fraction", ".0")]).cast(pl.Float64)
    clock = local.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False)
    return clock.dt.epoch("ms") / 1e3 + fraction - sign * zone
