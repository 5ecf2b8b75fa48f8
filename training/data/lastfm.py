"""HetRec 2011 Last.FM in its official files: who gave which artist a tag, and when.

Users, artists and listening counts come without any time; only tags have one. So the events are tags: the first tag
that a user gave an artist, at its time, with the number of plays as its value where the user also played the artist.
Where the folder holds the plays alone there is no order, and whatever needs one is refused. (Cantador, Brusilovsky and
Kuflik, RecSys 2011; https://grouplens.org/datasets/hetrec-2011/.) The files are not redistributed here.

    source = read(Path("hetrec2011-lastfm-2k"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from model.catalogue import Item
from training.data.files import LINE, delimited, read_delimited
from training.data.prepared import DataError
from training.data.rows import check
from training.data.table import Source

STAMPED, DATED, PLAYS = "user_taggedartists-timestamps.dat", "user_taggedartists.dat", "user_artists.dat"
TAGS_SHOWN = 10  # of an artist, as its text; the first three are its categories
CATEGORIES = 3
NO_ORDER = f"{PLAYS} counts plays and has no times"


def read(folder: Path) -> Source:
    """Tags at their second, else at their day, else plays without order; artists with their names and usual tags."""
    names = [name for name in (STAMPED, DATED, PLAYS) if (folder / name).is_file()]
    if not names or not (folder / "artists.dat").is_file():
        raise DataError(
            f"{folder} has no {'artists.dat' if names else STAMPED}: give the folder with the official files"
        )
    plays = _plays(folder / PLAYS) if PLAYS in names else None
    chunks = _plays_alone(plays) if names[0] == PLAYS and plays is not None else _tagged(folder / names[0], plays)
    interactions = check(chunks, origin=names[0])
    return Source(interactions, _artists(folder), unordered=NO_ORDER if names[0] == PLAYS else "")


def _table(path: Path, *columns: str, encoding: str = "utf-8-sig") -> Iterator[pl.DataFrame]:
    """Chunks of an official file: a header line, tab separated, nothing quoted."""
    for number, chunk in enumerate(delimited(path, delimiter="\t", encoding=encoding, quoted=False)):
        if number == 0 and (missing := [name for name in columns if name not in chunk.columns]):
            raise DataError(f"{path.name} has no column {missing[0]!r}; is this an official Last.FM file?")
        yield chunk


def _plays(path: Path) -> pl.DataFrame:
    table = pl.concat(_table(path, "userID", "artistID", "weight"))
    return table.select(pl.col("userID").alias("user_id"), pl.col("artistID").alias("item_id"), "weight", LINE)


def _plays_alone(plays: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield plays.select("user_id", "item_id", pl.lit("0").alias("timestamp"), pl.col("weight").alias("rating"), LINE)


def _tagged(path: Path, plays: pl.DataFrame | None) -> Iterator[pl.DataFrame]:
    """The first tag of each user and artist; `timestamp` is in milliseconds, or a date of day, month and year.

    A few of the official times lie in 1956 or so; such a tag is taken only where the user gave the artist no other,
    and is then rejected like every time before 1970.
    """
    stamped = path.name == STAMPED
    table = pl.concat(_table(path, "userID", "artistID", *(("timestamp",) if stamped else ("day", "month", "year"))))
    if not stamped:
        day, month = pl.col("day").str.zfill(2), pl.col("month").str.zfill(2)
        table = table.with_columns(pl.format("{}-{}-{}", "year", month, day).alias("timestamp"))
    at = pl.col("timestamp").cast(pl.Int64, strict=False) if stamped else pl.col("timestamp")
    impossible = at < 0 if stamped else at < "1970"
    first = (
        table.with_columns(at.alias("at"), impossible.alias("impossible"))
        .sort("impossible", "at", maintain_order=True)
        .unique(["userID", "artistID"], keep="first", maintain_order=True)
        .sort(LINE)
        .select(pl.col("userID").alias("user_id"), pl.col("artistID").alias("item_id"), "timestamp", LINE)
    )
    if plays is not None:
        first = first.join(plays.drop(LINE), on=["user_id", "item_id"], how="left", maintain_order="left")
        first = first.rename({"weight": "rating"})
    yield first


def _artists(folder: Path) -> tuple[Item, ...]:
    """Artists by name; the tags they were given most often are their text, and the first of them their categories."""
    tags: dict[str, Counter[str]] = {}
    if (folder / DATED).is_file() and (folder / "tags.dat").is_file():
        names = pl.concat(_table(folder / "tags.dat", "tagID", "tagValue", encoding="latin-1"))
        tag_of = dict(zip(names["tagID"], names["tagValue"], strict=True))
        for chunk in _table(folder / DATED, "artistID", "tagID"):
            for artist, tag in chunk.select("artistID", "tagID").iter_rows():
                if tag in tag_of:
                    tags.setdefault(artist, Counter())[tag_of[tag].strip()] += 1
    table = read_delimited(folder / "artists.dat", delimiter="\t", quoted=False)
    if missing := [name for name in ("id", "name") if name not in table.columns]:
        raise DataError(f"artists.dat has no column {missing[0]!r}; is this an official Last.FM file?")
    items = []
    for artist, name in table.select("id", "name").iter_rows():
        usual = [tag for tag, _ in tags.get(artist, Counter()).most_common(TAGS_SHOWN)]
        items.append(Item(artist, name.strip(), tuple(usual[:CATEGORIES]), ", ".join(usual)))
    return tuple(items)
