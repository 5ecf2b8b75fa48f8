"""MovieLens in its official files: 100K (`u.data`, `u.item`), 1M (`ratings.dat`, `movies.dat`), and 25M, 32M and
latest-small (`ratings.csv`, `movies.csv`).

Every rating is one interaction and its value the rating, as in the published leave-one-out tables. The files come
from GroupLens (https://grouplens.org/datasets/movielens/) and are not redistributed here.

    source = read_100k(Path("ml-100k"))
    source = read_1m(Path("ml-1m"))
    source = read_csv(Path("ml-25m"))
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.catalogue import Item
from training.data.files import LINE, delimited, read_delimited
from training.data.prepared import DataError
from training.data.rows import check
from training.data.table import Source, items_of

# u.item: id, title, release date, video release date, IMDb URL, then one flag for each genre in this order (README).
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
RATING = ("user_id", "item_id", "rating", "timestamp")
NO_GENRE = "(no genres listed)"


def read_100k(folder: Path) -> Source:
    """u.data (tab separated: user, item, rating, unix seconds) and u.item (latin-1, joined by |)."""
    ratings, films = _files(folder, "u.data", "u.item")
    interactions = delimited(ratings, delimiter="\t", header=RATING, encoding="ascii", quoted=False)
    header = ("item_id", "title", "release", "video_release", "url", *GENRES)
    table = read_delimited(films, delimiter="|", header=header, encoding="latin-1", quoted=False)
    items = []
    for row in table.iter_rows(named=True):
        if wrong := [genre for genre in GENRES if row[genre] not in ("0", "1")]:
            raise DataError(f"{films.name} line {row[LINE]}: genre flag {wrong[0]!r} is {row[wrong[0]]!r}, not 0 or 1")
        genres = tuple(genre for genre in GENRES[1:] if row[genre] == "1")  # "unknown" says that there is none
        items.append(Item(row["item_id"], row["title"].strip(), genres))
    return Source(check(interactions, origin=ratings.name), tuple(items))


def read_1m(folder: Path) -> Source:
    """ratings.dat (UserID::MovieID::Rating::Timestamp) and movies.dat (MovieID::Title::Genres, latin-1)."""
    ratings, films = _files(folder, "ratings.dat", "movies.dat")
    interactions = delimited(ratings, delimiter="::", header=RATING, encoding="ascii")
    table = read_delimited(films, delimiter="::", header=("item_id", "title", "categories"), encoding="latin-1")
    return Source(check(interactions, origin=ratings.name), items_of(table, origin=films.name))


def read_csv(folder: Path) -> Source:
    """ratings.csv (userId, movieId, rating, timestamp) and movies.csv (movieId, title, genres joined by |)."""
    ratings, films = _files(folder, "ratings.csv", "movies.csv")
    names = {"userId": "user_id", "movieId": "item_id"}
    interactions = (_renamed(chunk, names, ratings) for chunk in delimited(ratings))
    table = _renamed(read_delimited(films), {"movieId": "item_id", "genres": "categories"}, films)
    table = table.with_columns(pl.col("categories").replace(NO_GENRE, ""))
    return Source(check(interactions, origin=ratings.name), items_of(table, origin=films.name))


def _files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        if not (folder / name).is_file():
            raise DataError(f"{folder} has no {name}: give the folder with the official MovieLens files")
    return [folder / name for name in names]


def _renamed(table: pl.DataFrame, names: dict[str, str], path: Path) -> pl.DataFrame:
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; is this an official MovieLens file?")
    return table.rename(names)
