"""The catalogue of one bundle as a person looks at it: a map in two dimensions, and a search by words.

Made once a bundle, off the event loop: the plane is the PCA of the item vectors (`model.plane`), the search is a scan
over titles folded to plain letters. Bounded whatever the catalogue: the map holds its most popular items. Knows no
HTTP.

    atlas = Atlas(served)
    rows, total = atlas.search("amelie", limit=20)
    atlas.place(vectors)          # (M, W) -> (M, 2) on the map
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.catalogue import Item, Rows
from model.plane import Plane
from model.recommender import Floats
from service.bundles import Served

MAX_POINTS = 20_000
MAX_CATEGORIES = 500
MAX_LABELS = 24
REGION, FEWEST = 0.7, 5


class Atlas:
    """rows: (n,) the items on the map, most popular first. points: (n, 2) their places. before: an older atlas, whose
    plane is kept where the bundle is the same.

    share: of the variance that the map shows. categories: (name, items) by number of items, at most MAX_CATEGORIES.
    labels: (category, x, y) of those that have a region of the map to themselves, most items first.
    """

    def __init__(self, served: Served, before: Atlas | None = None) -> None:
        self.served = served
        catalogue = served.recommender.catalogue
        self._shown: Rows = served.popular_rows[~np.isin(served.popular_rows, served.withdrawn)]
        self.rows: Rows = self._shown[:MAX_POINTS]
        self._directions = served.recommender.unit_vectors(self.rows)
        # An item that is added or withdrawn moves no other on the map.
        same = before is not None and before.served.label == served.label
        self._plane: Plane = before._plane if before is not None and same else Plane.of(self._to_lie_by())
        self.points = self.place(self._directions)
        self.share = self._plane.share
        items = [catalogue[int(row)] for row in self._shown]
        self._texts = [_searchable(item) for item in items]
        counts = Counter(category for item in items for category in dict.fromkeys(item.categories))
        self.categories = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_CATEGORIES]
        names = [name for name, _ in self.categories[:MAX_LABELS]]
        self.labels = regions(self.points, [item.categories for item in items[:MAX_POINTS]], names)

    def _to_lie_by(self) -> Floats:
        """(n, W), n at least 1: where all items are withdrawn theirs, for a plane of nothing would never mend."""
        if len(self.rows):
            return self._directions
        return self.served.recommender.unit_vectors(self.served.popular_rows[:MAX_POINTS])

    @property
    def items(self) -> int:
        """How many items there are to be recommended, on the map or not."""
        return len(self._shown)

    def place(self, vectors: Floats) -> Floats:
        """(M, W) -> (M, 2): where vectors of the items' space lie on the map."""
        return self._plane.project(vectors)

    def place_rows(self, rows: Rows) -> Floats:
        """(m,) -> (m, 2): where items lie, whether the map shows them or not."""
        return self.place(self.served.recommender.unit_vectors(rows))

    def nearest(self, vectors: Floats) -> Rows:
        """(M, W) -> (M,) the item of the map whose direction is nearest to each."""
        nearest: Rows = self.rows[(vectors @ self._directions.T).argmax(axis=1)]
        return nearest

    def search(self, query: str, limit: int) -> tuple[Rows, int]:
        """Rows of items whose title, categories and id hold every word, and how many there are in all.

        Titles that begin with the query come first, then by popularity. No words: the most popular.
        """
        folded = fold(query).strip()
        words = folded.split()
        found = [place for place, text in enumerate(self._texts) if all(word in text for word in words)]
        if words:
            found.sort(key=lambda place: not self._texts[place].startswith(folded))  # stable: popularity stays
        return self._shown[found[:limit]], len(found)


def regions(
    points: Floats, categories: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[str, float, float]]:
    """The middle of each name's points (n, 2), of those names whose points lie together.

    Together: half of them are within REGION of the distance in which half of all points are of the map's middle.
    """
    found = []
    spread = _spread(points)[1]
    for name in names:
        own = points[[place for place, given in enumerate(categories) if name in given]]
        if len(own) >= FEWEST:
            middle, half = _spread(own)
            if half < REGION * spread:
                found.append((name, float(middle[0]), float(middle[1])))
    return found


def _spread(points: Floats) -> tuple[Floats, float]:
    """The middle (2,) of points (n, 2), and the distance from it within which half of them lie."""
    if not len(points):
        return np.zeros(2, dtype=np.float32), 0.0
    middle = np.median(points, axis=0)
    return middle, float(np.median(np.linalg.norm(points - middle, axis=1)))


def fold(text: str) -> str:
    """Small plain letters: what a person types who has no accents on the keyboard."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _searchable(item: Item) -> str:
    return fold("\n".join((item.title, *item.categories, item.item_id)))
