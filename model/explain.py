"""Why a list is what it is: which items of the history hold its items up, and which categories the taste leans to.

Reasons are true by construction: an item of the history is named only when leaving it out of the history, and asking
the model again, lowers the probability of what it is a reason for. Nothing is made up, and nothing is named where
nothing matters. Knows a recommender by its three steps alone.

    explanation = recommender.explain(history, rows)
    explanation.because[0]       # ((history row, how far log p of rows[0] falls without it), ...), most first
    explanation.categories       # (("Drama", 0.31), ...) the probability of each category, most first
    for _ in (steps := Steps(recommender, history, rows)): ...   # the same, and somebody else's turn in between
    explanation = steps.explanation
"""

from __future__ import annotations

from collections.abc import Iterator
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
_TOGETHER, _ITEMS = 8, 400_000  # histories a step, and how many items they may be scored against in all


@dataclass(frozen=True, slots=True)
class Explanation:
    """Probabilities are those of the softmax of the scores over the whole catalogue, what was met included: among what
    was not, the last volume of a series would be no reason for the next one, which leads that field without it too.

    because: for each row of the list (history row, fall) pairs, most first: how far the logarithm of its probability
    falls without that item of the history. All are positive.
    categories: (category, probability), most first. An item counts in each of its categories, so they may add up to
    more than one.
    """

    because: tuple[tuple[tuple[int, float], ...], ...]
    categories: tuple[tuple[str, float], ...]


def leave_one_out(recommender: Recommender, history: Rows, rows: Rows) -> Explanation:
    """The explanation of rows (n,) after a history, without exploring.

    All occurrences of an item are left out together. Of a history with more than LEFT_OUT distinct items the newest
    and those most like the list are tried; the others are not named.
    """
    steps = Steps(recommender, history, rows)
    for _ in steps:
        pass
    return steps.explanation


class Steps:
    """`leave_one_out` a few histories at a time: the whole of it takes dozens of times as long as a list does.

    Iterating computes; `explanation` is there once it has come to its end.
    """

    def __init__(self, recommender: Recommender, history: Rows, rows: Rows) -> None:
        self._recommender, self._history, self._rows = recommender, history, rows
        self.explanation = Explanation(because=((),) * len(rows), categories=())

    def __iter__(self) -> Iterator[None]:
        from model.recommender import Dials

        recommender, history, rows = self._recommender, self._history, self._rows
        if len(history) == 0 or len(rows) == 0:
            return
        candidates = candidates_of(recommender, history, rows)
        histories = [history, *(history[history != row] for row in candidates)]
        together = max(1, min(_TOGETHER, _ITEMS // len(recommender.catalogue)))
        scores, whole = [], None
        for at in range(0, len(histories), together):
            tokens = recommender.encode(histories[at : at + together])
            tastes = recommender.generate(tokens, [Dials()] * len(tokens))
            scores += [recommender.score_rows(taste, rows) - recommender.log_partition(taste) for taste in tastes]
            whole = tastes[0] if at == 0 else whole
            yield
        falls = scores[0] - np.stack(scores[1:])  # (candidates, n)
        categories = _categories(recommender, recommender.score(whole))
        self.explanation = Explanation(tuple(_most(candidates, fall) for fall in falls.T), categories)


def _most(candidates: Rows, fall: Floats) -> tuple[tuple[int, float], ...]:
    """The candidates whose absence lowers it most, and by how much; only what lowers it."""
    order = np.argsort(-fall, kind="stable")[:REASONS]
    return tuple((int(candidates[place]), float(fall[place])) for place in order if fall[place] > 0)


def candidates_of(recommender: Recommender, history: Rows, rows: Rows) -> Rows:
    """The distinct items that are left out in turn, newest first: all of them, or the LEFT_OUT likeliest to matter."""
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
