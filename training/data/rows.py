"""Rows: from a file of text to checked interactions, with every refusal counted and the first ones told.

What a source (movielens, table) does not know: which timestamps are times, what is a duplicate, how an error
names its line. What this module does not know: any particular data set, items, splits.

    raw = read_delimited(path)                       # every field a string, "line" its line in the file
    interactions = check(raw, origin=path.name)      # typed, rejected rows counted, file order kept
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from training.data.prepared import DataError

LINE = "line"
SHOWN = 10  # rejected rows that are told in full
CHUNK = 100_000  # rows held as Python strings at a time

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
    """Checked interactions, and what was left out.

    The frame has user_id and item_id (strings as in the file), time (int64, seconds or positions), value (float32,
    NaN where there is none) and line; oldest first, ties in file order.
    """

    frame: pl.DataFrame
    read: int
    rejected: int
    first_rejected: tuple[Rejected, ...]
    duplicates: int


# ----------------------------------------------------------------------------------------------------------------
# Text to rows


def read_delimited(
    path: Path,
    *,
    delimiter: str = ",",
    header: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    quoted: bool = True,
) -> pl.DataFrame:
    """Every field as a string beside its line number in the file. `.gz` is read as it is; `header` names the
    columns of a file that has no header line.

    Python's own reader, not polars', takes the fields apart: it knows the line of every row (also after a quoted
    line break) and does not fill ragged rows up. A million rows take about a second.
    Raises DataError when the file is missing, empty, ragged, or no text of that encoding.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding=encoding, newline="") as file:
            dialect = _Quoted if quoted else _Plain
            reader = csv.reader(file, dialect, delimiter=delimiter)
            names = list(header) if header is not None else next(reader, [])
            if not names:
                raise DataError(f"{path.name} is empty")
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise DataError(f"{path.name} names the column {twice[0]!r} twice")
            schema = dict.fromkeys(names, pl.String) | {LINE: pl.Int64}
            rows = _rows(reader, len(names), path.name)
            chunks = [
                pl.DataFrame(chunk, schema, orient="row") for chunk in iter(lambda: list(islice(rows, CHUNK)), [])
            ]
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not {error.encoding} text ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"{path.name} line {reader.line_num}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    if not chunks:
        raise DataError(f"{path.name} has a header but no rows" if header is None else f"{path.name} is empty")
    return pl.concat(chunks)


class _Quoted(csv.excel):
    strict = True


class _Plain(csv.excel):
    quoting = csv.QUOTE_NONE


def _rows(reader: Any, width: int, name: str) -> Iterator[list[Any]]:
    line = reader.line_num + 1
    for row in reader:
        if len(row) == width:
            yield [*row, line]
        elif row:  # a blank line is no row
            raise DataError(f"{name} line {line} has {len(row)} fields where {width} are expected")
        line = reader.line_num + 1


def read_parquet(path: Path) -> pl.DataFrame:
    """Every column as strings beside its row number from 1, so that one set of checks serves every format.

    Dates and times become unix seconds; nested columns are left out (they are none of the canonical ones).
    """
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {error}") from error
    if frame.is_empty():
        raise DataError(f"{path.name} has no rows")
    columns = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime | pl.Date):
            columns.append((pl.col(name).dt.epoch("us") / 1e6).cast(pl.String))
        elif not kind.is_nested() and kind != pl.Binary:
            columns.append(pl.col(name).cast(pl.String))
        if name in ("user_id", "item_id") and kind.is_float():
            raise DataError(f"{path.name}: column {name} holds floats; ids must be strings or integers")
    return frame.select(columns).with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))


# ----------------------------------------------------------------------------------------------------------------
# Rows to interactions


def check(raw: pl.DataFrame, *, origin: str) -> Interactions:
    """Types the columns user_id, item_id, timestamp and, where there is one, rating; other columns are not read.

    Rejected, counted and told: a missing id, a timestamp that is neither number nor ISO date (TIME_RULE) or lies
    before 1970, a rating that is no finite number. Of rows equal in user, item and time the first stays. Raises
    DataError when a column is missing or when nothing is left.
    """
    if missing := [name for name in ("user_id", "item_id", "timestamp") if name not in raw.columns]:
        raise DataError(
            f"{origin} has no column {missing[0]!r}; it has {', '.join(c for c in raw.columns if c != LINE)}"
        )
    rating = pl.col("rating") if "rating" in raw.columns else pl.lit(None, pl.String)
    typed = raw.select(
        LINE,
        "user_id",
        "item_id",
        pl.col("timestamp").str.strip_chars().alias("written"),
        _seconds(pl.col("timestamp").str.strip_chars()).alias("seconds"),
        rating.str.strip_chars().alias("rating"),
        rating.str.strip_chars().cast(pl.Float64, strict=False).alias("value"),
    )
    judged = typed.with_columns(
        pl.when(_blank("user_id"))
        .then(pl.lit("user_id is missing"))
        .when(_blank("item_id"))
        .then(pl.lit("item_id is missing"))
        .when(_blank("written"))
        .then(pl.lit("timestamp is missing"))
        .when(pl.col("seconds").is_null() | ~pl.col("seconds").is_finite())
        .then(pl.format("timestamp '{}' is neither a number nor an ISO date", _short("written")))
        .when(pl.col("seconds") < 0)
        .then(pl.format("timestamp '{}' lies before 1970", _short("written")))
        .when(~_blank("rating") & (pl.col("value").is_null() | pl.col("value").is_infinite()))
        .then(pl.format("rating '{}' is not a number", _short("rating")))
        .alias("reason")
    )
    refused = judged.filter(pl.col("reason").is_not_null())
    first = tuple(Rejected(line, reason) for line, reason in refused.select(LINE, "reason").head(SHOWN).iter_rows())
    kept = (
        judged.filter(pl.col("reason").is_null())
        .sort("seconds", maintain_order=True)  # before the fraction of a second goes
        .select(
            "user_id",
            "item_id",
            pl.col("seconds").floor().cast(pl.Int64).alias("time"),
            pl.col("value").cast(pl.Float32).fill_null(float("nan")),
            LINE,
        )
    )
    if kept.is_empty():
        raise DataError(f"nothing was imported from {origin}: all {len(raw)} rows were rejected ({first[0]}, ...)")
    frame = kept.unique(["user_id", "item_id", "time"], keep="first", maintain_order=True)
    return Interactions(frame, len(raw), len(refused), first, len(kept) - len(frame))


def _blank(name: str) -> pl.Expr:
    return pl.col(name).is_null() | (pl.col(name).str.strip_chars() == "")


def _short(name: str) -> pl.Expr:
    return pl.col(name).str.slice(0, 40)


def _seconds(text: pl.Expr) -> pl.Expr:
    """TIME_RULE, as float64 seconds; null where the text is no time."""
    number = text.cast(pl.Float64, strict=False)
    seconds = (
        pl.when(number >= 1e17)
        .then(number / 1e9)
        .when(number >= 1e14)
        .then(number / 1e6)
        .when(number >= 1e11)
        .then(number / 1e3)
        .otherwise(number)
    )
    # A zone is cut off and subtracted by hand: polars reads a column either all with zones or all without.
    parts = text.str.extract_groups(
        r"^(?<date>\d{4}-\d\d-\d\d)(?:[T ](?<time>\d\d:\d\d)(?<second>:\d\d)?(?<fraction>\.\d+)?)?"
        r"\s?(?:(?<utc>Z|UTC)|(?<sign>[+-])(?<hours>\d\d):?(?<minutes>\d\d))?$"
    )

    def part(name: str, default: str) -> pl.Expr:
        return parts.struct.field(name).fill_null(default)

    local = pl.concat_str([parts.struct.field("date"), pl.lit("T"), part("time", "00:00"), part("second", ":00")])
    zone = part("hours", "0").cast(pl.Float64) * 3600 + part("minutes", "0").cast(pl.Float64) * 60
    sign = pl.when(part("sign", "+") == "-").then(-1.0).otherwise(1.0)
    fraction = pl.concat_str([pl.lit("0"), part("fraction", ".0")]).cast(pl.Float64)
    clock = local.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False)
    return pl.coalesce(seconds, clock.dt.epoch("ms") / 1e3 + fraction - sign * zone)
