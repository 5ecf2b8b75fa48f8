"""The ladder from a history to a list, each step named in the answer:

    model        fresh user tokens, generate, retrieve
    stale        the same with tokens of an older history, when encode fails
    neighbours   the mean of the history's item vectors, when there are no tokens or generate or retrieve fails
    popular      counts, when that fails too, or when there is no history at all (the caller's business)

`climb` is what the batcher runs on the model thread. It never raises, never returns a row that is not eligible,
and returns k rows while k are eligible. Knows no HTTP, no store and no ids.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from model.catalogue import Mask, Rows
from model.recommender import Dials, Floats, Recommender, UserTokens
from service.bundles import Served
from service.schemas import Source

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One request, in rows.

    history: the known items, oldest first, at least one. tokens: from the store, or None; fresh: whether they
    were made from this history. eligible: (N,). asked: time.perf_counter() when it entered the queue.
    """

    served: Served
    history: Rows
    tokens: UserTokens | None
    fresh: bool
    dials: Dials
    eligible: Mask
    k: int
    asked: float


@dataclass(slots=True, eq=False)
class Picked:
    """The list and how it came about. made: tokens that were made for it, worth keeping. Times in milliseconds."""

    rows: Rows
    scores: Floats
    source: Source
    made: UserTokens | None = None
    failed: tuple[str, ...] = ()
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    retrieve_ms: float = 0.0


def climb(questions: Sequence[Question]) -> list[Picked]:
    """One list for each question. Questions for two bundles may meet in a batch, around a swap."""
    started = time.perf_counter()
    picked: dict[int, Picked] = {}
    for served in {id(question.served): question.served for question in questions}.values():
        places = [place for place, question in enumerate(questions) if question.served is served]
        mine = [questions[place] for place in places]
        picked.update(zip(places, _climb(served.recommender, mine), strict=True))
    for place, question in enumerate(questions):
        picked[place].queue_ms = (started - question.asked) * 1000
    return [picked[place] for place in range(len(questions))]


def _climb(recommender: Recommender, questions: Sequence[Question]) -> list[Picked]:
    failed: list[list[str]] = [[] for _ in questions]

    to_encode = [place for place, question in enumerate(questions) if not question.fresh]
    made: dict[int, UserTokens] = {}
    started = time.perf_counter()
    encoded: list[UserTokens | None] = _each("encode", recommender.encode, [questions[p].history for p in to_encode])
    for place, tokens in zip(to_encode, encoded, strict=True):
        if tokens is None:
            failed[place].append("encode")
        else:
            made[place] = tokens
    encode_ms = (time.perf_counter() - started) * 1000

    tokens_of = {p: tokens for p, q in enumerate(questions) if (tokens := made.get(p, q.tokens)) is not None}
    to_generate = list(tokens_of)
    started = time.perf_counter()
    pairs = [(tokens_of[place], questions[place].dials) for place in to_generate]
    tastes = _each("generate", lambda given: _generate(recommender, given), pairs)
    generate_ms = (time.perf_counter() - started) * 1000
    taste_of = dict(zip(to_generate, tastes, strict=True))

    picked = []
    for place, question in enumerate(questions):
        source = Source.MODEL if question.fresh or place in made else Source.STALE
        taste = taste_of.get(place)
        if place in taste_of and taste is None:
            failed[place].append("generate")
        started = time.perf_counter()
        choice = _pick(question, source, taste, failed[place])
        choice.retrieve_ms = (time.perf_counter() - started) * 1000
        choice.made = made.get(place)
        choice.encode_ms = encode_ms if not question.fresh else 0.0
        choice.generate_ms = generate_ms if place in taste_of else 0.0
        picked.append(choice)
    return picked


@dataclass(frozen=True, slots=True)
class _Taste:
    """A recommender's taste, which may itself be None."""

    value: Any


def _generate(recommender: Recommender, given: Sequence[tuple[UserTokens, Dials]]) -> list[_Taste]:
    tastes = recommender.generate([tokens for tokens, _ in given], [dials for _, dials in given])
    return [_Taste(taste) for taste in tastes]


def _each(step: str, work: Callable[[list[In]], Sequence[Out | None]], given: list[In]) -> list[Out | None]:
    """`work` on all at once; should that fail, on each alone, so that one bad apple harms only itself."""
    if not given:
        return []
    try:
        results = work(given)
        if len(results) != len(given):
            raise ValueError(f"{step} gave {len(results)} results for {len(given)} users")
        return list(results)
    except Exception:
        if len(given) == 1:
            log.exception("%s failed", step)
            return [None]
        log.warning("%s failed for a batch of %d; trying one by one", step, len(given))
    alone: list[Out | None] = []
    for one in given:
        alone += _each(step, work, [one])
    return alone


def _pick(question: Question, source: Source, taste: _Taste | None, failed: list[str]) -> Picked:
    recommender, k = question.served.recommender, question.k
    steps: list[tuple[str, Source, Callable[[], tuple[Rows, Floats]]]] = []
    if taste is not None:
        steps.append(("retrieve", source, lambda: recommender.retrieve(taste.value, question.eligible, k)))
    steps.append(
        ("neighbours", Source.NEIGHBOURS, lambda: recommender.neighbours(question.history, question.eligible, k))
    )
    for step, rung, work in steps:
        try:
            rows, scores = _checked(*work(), question)
        except Exception:
            log.exception("%s failed", step)
            failed.append(step)
            continue
        if len(rows) or not question.eligible.any():
            rows, scores = fill(question.served, rows, scores, question.eligible, k)
            return Picked(rows, scores, rung, failed=tuple(failed))
    rows, scores = question.served.popular(question.eligible, k)
    return Picked(rows, scores, Source.POPULAR, failed=tuple(failed))


def _checked(rows: Rows, scores: Floats, question: Question) -> tuple[Rows, Floats]:
    """The list without what a user must never see, whatever the recommender did. Raises ValueError for a broken one."""
    if len(rows) != len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{len(rows)} rows came with {len(scores)} scores, not all of them finite")
    _, first = np.unique(rows, return_index=True)
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[first] = True
    keep &= question.eligible[rows]
    return rows[keep][: question.k], scores[keep][: question.k]


def fill(served: Served, rows: Rows, scores: Floats, eligible: Mask, k: int) -> tuple[Rows, Floats]:
    """A list that came short, filled up with popular items at its last score, so that scores never rise."""
    if len(rows) >= k:
        return rows, scores
    left = eligible.copy()
    left[rows] = False
    more, _ = served.popular(left, k - len(rows))
    last = scores[-1] if len(scores) else np.float32(0)
    return np.concatenate([rows, more]), np.concatenate([scores, np.full(len(more), last, dtype=np.float32)])
