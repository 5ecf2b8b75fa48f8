"""The last touch on a list: away from what the user disliked, and diverse where that was asked for.

Works on the best CANDIDATES of a list and never adds an item to it. Knows a recommender by its vectors alone.

    rows, scores = shape.of(recommender, rows, scores, k)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from model.catalogue import Rows
from model.diversity import CANDIDATES, away_from, mmr
from model.recommender import Floats, Recommender

MOST_AVOIDED = 200  # dislikes that a list keeps away from; the others are left out of it all the same


@dataclass(frozen=True, slots=True)
class Shape:
    """diversity: 0 to 1. avoid: rows that the user disliked."""

    diversity: float = 0.0
    avoid: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def asked(self) -> bool:
        """Whether the list may come out otherwise than it went in."""
        return self.diversity > 0 or len(self.avoid) > 0

    def depth(self, k: int) -> int:
        """How many items must be picked so that k can be chosen from them."""
        return max(k, CANDIDATES) if self.asked else k

    def of(self, recommender: Recommender, rows: Rows, scores: Floats, k: int) -> tuple[Rows, Floats]:
        """The k chosen of rows (n,), best first, with their scores, which then need not fall: the first k where nothing
        is asked."""
        if not self.asked:
            return rows[:k], scores[:k]
        vectors = recommender.unit_vectors(rows)
        worth = scores
        if len(self.avoid):
            worth = away_from(scores, vectors, recommender.unit_vectors(self.avoid[:MOST_AVOIDED]))
        chosen = mmr(worth, vectors, self.diversity, k)
        return rows[chosen], scores[chosen]
