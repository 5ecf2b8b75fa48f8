"""Why an answer is what it is, by the rung that it came from, in rows.

    model, stale   what leaving an item out of the history does to the score (model.explain), measured, not guessed
    neighbours     which items of the history each item is most like: that is all this rung goes by
    popular        nothing: no item of the history had a part in it

Runs on the model thread, in steps between which others have their turn. Knows no HTTP and no ids.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TypeVar

import numpy as np

from model.catalogue import Rows
from model.explain import REASONS, Explanation, Steps
from model.recommender import Recommender
from service.schemas import ReasonKind, Source

log = logging.getLogger(__name__)

Found = TypeVar("Found")


def explaining(
    recommender: Recommender, source: Source, history: Rows, rows: Rows
) -> Generator[None, None, tuple[ReasonKind, Explanation]]:
    """Returns the reasons of rows (n,) and what kind they are of; each `next` is a step on the model thread.

    Raises what the recommender raises, on its last resort.
    """
    if source in (Source.MODEL, Source.STALE):
        try:
            steps = Steps(recommender, history, rows)
            yield from steps
            return ReasonKind.LEFT_OUT, steps.explanation
        except Exception:
            log.exception("explain failed; reasons are by likeness")
    if source is Source.POPULAR or not len(history):
        return ReasonKind.ALIKE, Explanation(because=((),) * len(rows), categories=())
    return ReasonKind.ALIKE, _alike(recommender, history, rows)


def next_step(steps: Generator[None, None, Found]) -> Found | None:
    """One step further: None while there are more, else what they came to."""
    try:
        next(steps)
    except StopIteration as end:
        found: Found = end.value
        return found
    return None


def _alike(recommender: Recommender, history: Rows, rows: Rows) -> Explanation:
    distinct = np.unique(history)
    likeness = recommender.unit_vectors(rows) @ recommender.unit_vectors(distinct).T  # (n, distinct)
    because = []
    for found in likeness:
        order = np.argsort(-found, kind="stable")[:REASONS]
        because.append(tuple((int(distinct[place]), float(found[place])) for place in order if found[place] > 0))
    return Explanation(tuple(because), ())
