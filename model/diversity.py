"""A list's last touch: not the same thing ten times, and not more of what was disliked.

Diversity is maximal marginal relevance (Carbonell and Goldstein 1998). One item after the other is taken, each time the
one with the greatest

    (1 - diversity) * relevance - diversity * (its greatest likeness to an item that is taken already)

relevance is the score, scaled to 0 .. 1 over the candidates, so that `diversity` means the same for log probabilities
as for counts. Likeness is the cosine, as `Recommender.unit_vectors` has it. Knows no recommender.

    order = mmr(scores, vectors, diversity=0.3, k=10)      # places in the candidates, first choice first

Dislikes push away what is like them, as negative examples do in Rocchio's feedback (1971):

    worth = away_from(scores, vectors, disliked)           # relevance, less up to AWAY of its whole range
"""

from __future__ import annotations

import numpy as np

from model.catalogue import Rows
from model.recommender import Floats

CANDIDATES = 200
"""How many of the best items a diverse list is chosen from."""

AWAY = 0.3
"""What an item just like a disliked one loses: this share of what lies between the best candidate and the last."""


def away_from(scores: Floats, vectors: Floats, disliked: Floats) -> Floats:
    """(n,) relevance, 0 .. 1, less AWAY times the greatest cosine to a disliked item, where that is positive.

    scores (n,), unit vectors (n, D), disliked (m, D) with m at least 1. Only the nearest dislike counts, so that a
    user with many of them is not pushed away from everything.
    """
    nearest = np.maximum((vectors @ disliked.T).max(axis=1), 0)
    worth: Floats = (_scaled(scores) - AWAY * nearest).astype(np.float32)
    return worth


def mmr(scores: Floats, vectors: Floats, diversity: float, k: int) -> Rows:
    """(min(k, n),) places among n candidates: scores (n,), unit vectors (n, D), diversity 0 to 1.

    At 0 the list is the best by score; the first item always is, and equals go to the earlier candidate. `mmr_plain`
    is the plain twin.
    """
    wanted = min(k, len(scores))
    relevance = _scaled(scores)
    likeness = np.full(len(scores), -np.inf, dtype=np.float32)
    left = np.ones(len(scores), dtype=np.bool_)
    order = np.empty(wanted, dtype=np.int64)
    for place in range(wanted):
        value = relevance if place == 0 else (1 - diversity) * relevance - diversity * likeness
        order[place] = chosen = int(np.argmax(np.where(left, value, -np.inf)))
        left[chosen] = False
        likeness = np.maximum(likeness, vectors @ vectors[chosen])
    return order


def mmr_plain(scores: Floats, vectors: Floats, diversity: float, k: int) -> Rows:
    """The formula, written out."""
    relevance = _scaled(scores)
    taken: list[int] = []
    while len(taken) < min(k, len(scores)):
        best, most = -1, -np.inf
        for place in range(len(scores)):
            if place in taken:
                continue
            value = float(relevance[place])
            if taken:
                nearest = max(float(vectors[place] @ vectors[other]) for other in taken)
                value = (1 - diversity) * value - diversity * nearest
            if value > most:
                best, most = place, value
        taken.append(best)
    return np.array(taken, dtype=np.int64)


def _scaled(scores: Floats) -> Floats:
    if len(scores) == 0:
        return scores
    low, high = scores.min(), scores.max()
    scaled: Floats = ((scores - low) / (high - low if high > low else 1)).astype(np.float32)
    return scaled
