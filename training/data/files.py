"""Files: from bytes to rows of text that know their line, chunk by chunk, so that a file may be larger than memory.

Knows delimited text, Parquet and lines; no data set, no column by name, no check of a value.

    for chunk in delimited(path): ...     # every field a string, LINE its line in the file
    table = read_delimited(path)          # the same at once, for small files
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import polars as pl

from training.data.prepared import DataError

LINE = "\0line"  # no table has a column of that name
CHUNK = 100_000  # rows held as Python strings at a time
LATEST = 4_102_444_800  # the year 2100, in unix seconds: a later time is a mistake of units or of typing
LONGEST_LINE = 1 << 20  # characters; a longer line is no row of a table


def read_delimited(path: Path, **options: Any) -> pl.DataFrame:
    """All chunks of `delimited` in one frame."""
    return pl.concat(delimited(path, **options))


def delimited(
    path: Path,
    *,
    delimiter: str = ",",
    header: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    quoted: bool = True,
) -> Iterator[pl.DataFrame]:
    """Chunks in which every field is a string beside its line number in the file. `.gz` is read as it is; `header`
    names the columns of a file that has no header line. A delimiter of several characters takes no quotes.

    Python's own reader, not polars', takes the fields apart: it knows the line of every row (also after a quoted
    line break) and does not fill ragged rows up.
    Raises DataError when the file is missing, empty, ragged, or no text of that encoding.
    """
    with opened(path, encoding) as file:
        reader = _Reader(file, delimiter, quoted)
        try:
            names = list(header) if header is not None else reader.header()
            if not names:
                raise DataError(f"{path.name} is empty")
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise DataError(f"{path.name} names the column {twice[0]!r} twice")
            schema = dict.fromkeys(names, pl.String) | {LINE: pl.Int64}
            rows = reader.rows(len(names), path.name)
            empty = True
            while chunk := list(islice(rows, CHUNK)):
                empty = False
                yield pl.DataFrame(chunk, schema, orient="row")
        except csv.Error as error:
            raise DataError(f"{path.name} line {reader.reached}: {error}") from error
    if empty:
        raise DataError(f"{path.name} has a header but no rows" if header is None else f"{path.name} is empty")


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Lines that are not blank with their numbers from 1, plain or gzip. A line longer than LONGEST_LINE comes cut to
    that length: what it was cannot be read back, and memory stays bounded. Raises DataError like `delimited`.
    """
    with opened(path, encoding) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            rest = line
            while len(rest) == LONGEST_LINE and not rest.endswith("\n"):
                rest = file.readline(LONGEST_LINE)
            if line.strip():
                yield number, line


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[IO[str]]:
    """The text of a file, plain or gzip; whatever goes wrong while it is read is one sentence of a DataError."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding=encoding, newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        place = _undecodable(path, encoding)
        raise DataError(f"{path.name}{place} is not {error.encoding} text ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _undecodable(path: Path, encoding: str) -> str:
    """Where the first line is that is no text of that encoding. Only the error asks: it reads the file once more."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return f" line {number}"
    return ""


class _Quoted(csv.excel):
    strict = True


class _Plain(csv.excel):
    quoting = csv.QUOTE_NONE


class _Reader:
    """Takes rows apart and knows the line of each."""

    def __init__(self, file: Iterable[str], delimiter: str, quoted: bool) -> None:
        self._fields: Iterator[list[str]]
        self._csv: Any = None
        if len(delimiter) == 1:
            self._fields = self._csv = csv.reader(file, _Quoted if quoted else _Plain, delimiter=delimiter)
        else:
            self._fields = (line.split(delimiter) if (line := raw.rstrip("\r\n")) else [] for raw in file)
        self.line = 0  # the last one of the rows that were given

    @property
    def reached(self) -> int:
        """The last line that was read, perhaps in the middle of a row."""
        return int(self._csv.line_num) if self._csv else self.line

    def header(self) -> list[str]:
        names = next(self._fields, [])
        self.line = max(1, self.reached)
        return names

    def rows(self, width: int, name: str) -> Iterator[list[Any]]:
        """Fields and line of each row. Raises DataError for a row of another width; a blank line is no row."""
        for row in self._fields:
            line = self.line + 1
            self.line = max(line, self.reached)
            if len(row) == width:
                row.append(line)  # type: ignore[arg-type]  # the line's number beside its fields
                yield row
            elif row:
                raise DataError(f"{name} line {line} has {len(row)} fields where {width} are expected")


def read_parquet(path: Path) -> pl.DataFrame:
    """Every column as strings beside its row number from 1, so that one set of checks serves every format.

    Dates and times become unix seconds; those after 2100 stay dates, since as numbers they would pass for milliseconds.
    Nested and binary columns are left as they are.
    """
    try:
        frame = pl.read_parquet(path, glob=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {error}") from error
    if frame.is_empty():
        raise DataError(f"{path.name} has no rows")
    columns = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime | pl.Date):
            seconds, date = pl.col(name).dt.epoch("us") / 1e6, pl.col(name).dt.strftime("%Y-%m-%d")
            columns.append(pl.when(seconds < LATEST).then(seconds.cast(pl.String)).otherwise(date).alias(name))
        elif kind.is_nested() or kind == pl.Binary:
            columns.append(pl.col(name))
        else:
            columns.append(pl.col(name).cast(pl.String))
        if name in ("user_id", "item_id") and kind.is_float():
            raise DataError(f"{path.name}: column {name} holds floats; ids must be strings or integers")
    return frame.select(columns).with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))
