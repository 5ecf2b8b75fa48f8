"""Sources by name: what each reads, where its public original lies, and what it needs to be given.

source = read("ml-100k", Path("ml-100k"))
source = read("ml-1m", None)                                                  # downloads it once
source = read("amazon-2014", None, download=Download(category="Beauty", cache=Path("cache")))
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training.data import amazon, lastfm, movielens, synthetic, table
from training.data.download import DownloadError, Fetched, Passing, fetch
from training.data.place import put_in_place, unfinished
from training.data.prepared import DataError
from training.data.synthetic import Sizes
from training.data.table import Source

GROUPLENS = "https://files.grouplens.org/datasets"
SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
CATEGORY = re.compile(r"[A-Za-z_]+")


@dataclass(frozen=True, slots=True)
class Download:
    """How a public set is brought where no path is given.

    category: which of Amazon's. cache: the folder of all downloads (default: CONTREC_CACHE, else contrec in the user's
    own cache folder). mirror: an address under which the originals lie by host and path. passing: told how far it is.
    options: of `fetch`.
    """

    category: str | None = None
    cache: Path | None = None
    mirror: str | None = None
    passing: Passing = lambda sentence: None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The cache."""
        if given := self.cache or os.environ.get("CONTREC_CACHE"):
            return Path(given)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrec"


@dataclass(frozen=True, slots=True)
class Known:
    """A public data set. urls: one zip, or files that are read as they are, with {category} where there are many.

    members: the files of the zip that are read, none for all that is needed is the file itself. published: what is
    appended to a URL to find its checksum.
    """

    read: Callable[[Path], Source]
    urls: tuple[str, ...]
    members: tuple[str, ...] = ()
    published: str | None = None


def _movielens(name: str, read: Callable[[Path], Source], *members: str, published: str | None = ".md5") -> Known:
    return Known(read, (f"{GROUPLENS}/movielens/{name}.zip",), members, published)


KNOWN: dict[str, Known] = {
    "ml-100k": _movielens("ml-100k", movielens.read_100k, "u.data", "u.item"),
    "ml-1m": _movielens("ml-1m", movielens.read_1m, "ratings.dat", "movies.dat"),
    "ml-25m": _movielens("ml-25m", movielens.read_csv, "ratings.csv", "movies.csv"),
    "ml-32m": _movielens("ml-32m", movielens.read_csv, "ratings.csv", "movies.csv"),
    "ml-latest-small": _movielens("ml-latest-small", movielens.read_csv, "ratings.csv", "movies.csv", published=None),
    "amazon-2014": Known(
        amazon.read_2014, (f"{SNAP}/reviews_{{category}}_5.json.gz", f"{SNAP}/meta_{{category}}.json.gz")
    ),
    "amazon-2018": Known(
        amazon.read_2018,
        (f"{MCAULEY}/categoryFilesSmall/{{category}}_5.json.gz", f"{MCAULEY}/metaFiles2/meta_{{category}}.json.gz"),
    ),
    "lastfm": Known(
        lastfm.read,
        (f"{GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",),
        (lastfm.STAMPED, lastfm.DATED, lastfm.PLAYS, "artists.dat", "tags.dat"),
    ),
}
SOURCES = (*KNOWN, "table", "synthetic")


def read(
    source: str,
    path: Path | None,
    *,
    items: Path | None = None,
    sizes: Sizes | None = None,
    download: Download | None = None,
) -> Source:
    """What a named source holds, before anything is cleaned or split.

    path: its files; without it a public set is downloaded. Raises DataError.
    """
    download = download or Download()
    if source not in SOURCES:
        raise DataError(f"source must be one of {', '.join(SOURCES)}, not {source!r}")
    if items is not None and source != "table":
        raise DataError(f"the source {source} brings its own items; an items table goes with the source table")
    if sizes is not None and source != "synthetic":
        raise DataError(f"sizes are for the source synthetic, not for {source}")
    if source == "synthetic":
        if path is not None:
            raise DataError("the source synthetic is made up and reads no path")
        return synthetic.generate(sizes or Sizes()).source()
    if path is None and source == "table":
        raise DataError("the source table needs the path of its files")
    if source == "table":
        assert path is not None
        return table.read(path, items=items)
    known = KNOWN[source]
    if download.category is not None and (path is not None or "{category}" not in known.urls[0]):
        raise DataError("a category is for downloading amazon-2014 or amazon-2018, and goes without a path")
    if path is not None:
        return known.read(path)
    path, origin = bring(source, download)
    read_source = known.read(path)
    return replace(read_source, facts={**read_source.facts, "origin": [asdict(fetched) for fetched in origin]})


def bring(source: str, download: Download) -> tuple[Path, list[Fetched]]:
    """The folder (or file) of a public set, downloaded where it is not yet there, and where it came from.

    Raises DownloadError.
    """
    known, category, mirror = KNOWN[source], download.category, download.mirror
    urls = known.urls
    if "{category}" in urls[0]:
        if category is None or not CATEGORY.fullmatch(category):
            raise DownloadError(
                f"the source {source} needs the path of its files, or a category to download (Beauty, say)"
            )
        urls = tuple(url.format(category=category) for url in urls)
    if mirror:
        urls = tuple(f"{mirror.rstrip('/')}/{url.removeprefix('https://')}" for url in urls)
    folder = download.folder / source
    try:
        fetched = [
            fetch(
                url,
                folder / url.rpartition("/")[2],
                published=known.published,
                passing=download.passing,
                **download.options,
            )
            for url in urls
        ]
    except DownloadError as error:
        raise DownloadError(
            f"{error}; if you have the files of {source}, give their folder: contrec data prepare {source} FOLDER"
        ) from error
    except OSError as error:
        raise DownloadError(f"{folder} cannot be written ({error.strerror}): choose another with --cache") from error
    first = folder / urls[0].rpartition("/")[2]
    return (_unpacked(first, folder / "files", known.members) if known.members else first), fetched


def _unpacked(archive: Path, folder: Path, members: tuple[str, ...]) -> Path:
    """The members by their bare names, wherever in the archive they lie; the folder appears whole."""
    if folder.is_dir() and folder.stat().st_mtime >= archive.stat().st_mtime:
        return folder
    try:
        with unfinished(folder) as new:
            with zipfile.ZipFile(archive) as source:
                for name in source.namelist():
                    if (bare := name.rpartition("/")[2]) in members:
                        with source.open(name) as packed, (new / bare).open("wb") as file:
                            shutil.copyfileobj(packed, file, 1 << 20)
            put_in_place(new, folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise DownloadError(f"{archive} cannot be unpacked: {error}") from error
    return folder
