"""Why a list is what it is: which items of the history hold its items up, and which categories the taste leans to.

Reasons are true by construction: an item of the history is named only when leaving it out of the history, and asking
the model again, lowers the score of what it is a reason for. Nothing is made up, and nothing is named where nothing
matters. Knows a recommender by its three steps alone.

    explanation = recommender.explain(history, rows)
    explanation.because[0]       # ((history row, how far the score of rows[0] falls without it), ...), most first
    explanation.categories       # (("Drama", 0.31), ...) the probability of each category, most first
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.catalogue import Rows

if TYPE_CHECKING:
    from model.recommender import Floats, Recommender

REASONS = 3  # named for each item
CATEGORIES = 10  # named for the list
LEFT_OUT = 24  # histories with one item left out, at most: what a request that asks for reasons may cost
_NEWEST = 8  # of these, for the newest items, which a sequential model leans on whatever they are like


@dataclass(frozen=True, slots=True)
class Explanation:
    """because: for each row of the list the (history row, fall of the score) pairs, most first, every fall positive.

    categories: (category, probability) under the softmax of the scores over the whole catalogue, most first. An item
    counts in each of its categories, so they may add up to more than one.
    """

    because: tuple[tuple[tuple[int, float], ...], ...]
    categories: tuple[tuple[str, float], ...]


def leave_one_out(recommender: Recommender, history: Rows, rows: Rows) -> Explanation:
    """The explanation of rows (n,) after a history, without exploring.

    All occurrences of an item are left out together. Of a history with more than LEFT_OUT distinct items the newest
    and those most like the list are tried; the others are not named.
    """
    from model.recommender import Dials

    if len(history) == 0 or len(rows) == 0:
        return Explanation(because=((),) * len(rows), categories=())
    candidates = _candidates(recommender, history, rows)
    histories = [history, *(history[history != row] for row in candidates)]
    tastes = recommender.generate(recommender.encode(histories), [Dials()] * len(histories))
    whole, *without = [recommender.score_rows(taste, rows) for taste in tastes]
    falls = np.stack([whole - scores for scores in without])  # (candidates, n)
    because = []
    for fall in falls.T:
        order = np.argsort(-fall, kind="stable")[:REASONS]
        because.append(tuple((int(candidates[place]), float(fall[place])) for place in order if fall[place] > 0))
    return Explanation(tuple(because), _categories(recommender, recommender.score(tastes[0])))


def _candidates(recommender: Recommender, history: Rows, rows: Rows) -> Rows:
    """The distinct items worth leaving out, newest first."""
    distinct = np.array(list(dict.fromkeys(history[::-1].tolist())), dtype=np.int64)
    if len(distinct) <= LEFT_OUT:
        return distinct
    newest, older = distinct[:_NEWEST], distinct[_NEWEST:]
    likeness = (recommender.unit_vectors(older) @ recommender.unit_vectors(rows).T).max(axis=1)
    chosen = np.sort(np.argsort(-likeness, kind="stable")[: LEFT_OUT - _NEWEST])
    return np.concatenate([newest, older[chosen]])


def _categories(recommender: Recommender, scores: Floats) -> tuple[tuple[str, float], ...]:
    shifted = np.exp(scores - scores.max())
    mass = recommender.catalogue.mass((shifted / shifted.sum()).astype(np.float32))
    return tuple(sorted(mass.items(), key=lambda pair: (-pair[1], pair[0]))[:CATEGORIES])
