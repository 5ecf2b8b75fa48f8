"""Sources by name: what each reads, and what it needs to be given.

source = read("ml-100k", Path("ml-100k"))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training.data import movielens, synthetic, table
from training.data.prepared import DataError
from training.data.synthetic import Sizes
from training.data.table import Source

KNOWN: dict[str, Callable[[Path], Source]] = {
    "ml-100k": movielens.read_100k,
    "ml-latest-small": movielens.read_csv,
}
SOURCES = (*KNOWN, "table", "synthetic")


def read(source: str, path: Path | None, *, items: Path | None = None, sizes: Sizes | None = None) -> Source:
    """What a named source holds, before anything is cleaned or split. Raises DataError."""
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
    return table.read(path, items=items) if source == "table" else KNOWN[source](path)
