"""The ladder from a history to a list, each step named in the answer:

    model        fresh user tokens, generate, retrieve
    stale        the same with tokens of an older history, when encode fails
    neighbours   the mean of the history's item vectors, when there are no tokens or generate or retrieve fails
    popular      counts, when that fails too, or when there is no history at all (the caller's business)

`climb` never raises, never returns a row that is not eligible, and returns k rows while k are eligible. `work` is what
the batcher runs on the model thread: questions climb together, and errands, which need that thread for something else,
are run one by one. Knows no HTTP, no store and no ids.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from model.catalogue import Mask, Rows
from model.recommender import Dials, Floats, Recommender, UserTokens, best
from service.bundles import Served
from service.schemas import Source
from service.shaping import Shape

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(slots=True, eq=False)
class Question:
    """One request, in rows.

    history: the known items, oldest first, at least one. tokens: from the store, or None; fresh: whether they
    were made from this history. eligible: (N,). asked: time.perf_counter() when it entered the queue. shape: what
    becomes of the list in the end.
    """

    served: Served
    history: Rows
    tokens: UserTokens | None
    fresh: bool
    dials: Dials
    eligible: Mask
    k: int
    asked: float
    shape: Shape = field(default_factory=Shape)


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


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """Something else for the model thread, asked for through the same bounded queue."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What an errand came to. value: None where it failed; the log says why."""

    value: Any
    failed: bool = False


def work(batch: Sequence[Question | Errand]) -> list[Picked | Done]:
    """Answers in order; see the module."""
    questions = [asked for asked in batch if isinstance(asked, Question)]
    picked = iter(climb(questions))
    return [next(picked) if isinstance(asked, Question) else _run(asked) for asked in batch]


def _run(errand: Errand) -> Done:
    try:
        return Done(errand.work())
    except Exception:
        log.exception("an errand failed")
        return Done(None, failed=True)


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
    recommender, eligible, depth = question.served.recommender, question.eligible, question.shape.depth(question.k)
    wanted = min(depth, int(np.count_nonzero(eligible)))
    steps: list[tuple[str, Source, Callable[[], tuple[Rows, Floats]]]] = []
    if taste is not None:
        steps.append(("retrieve", source, lambda: recommender.retrieve(taste.value, eligible, depth)))
        # What retrieve left short is done again over all that is allowed, by the plain twin.
        steps.append(("score", source, lambda: best(recommender.score(taste.value), eligible, depth)))
    steps.append(("neighbours", Source.NEIGHBOURS, lambda: recommender.neighbours(question.history, eligible, depth)))
    for step, rung, work in steps:
        try:
            rows, scores = _checked(*work(), eligible, depth)
        except Exception:
            log.exception("%s failed", step)
            failed.append(step)
            continue
        if step == "retrieve" and len(rows) < wanted:
            log.warning("retrieve gave %d of %d items; it is done again exactly", len(rows), wanted)
            failed.append(step)
        elif len(rows) or not wanted:
            rows, scores = fill(question.served, rows, scores, eligible, depth)
            return shaped(question, Picked(rows, scores, rung, failed=tuple(failed)))
    rows, scores = question.served.popular(eligible, depth)
    return shaped(question, Picked(rows, scores, Source.POPULAR, failed=tuple(failed)))


def shaped(question: Question, picked: Picked) -> Picked:
    """The list cut to k, away from dislikes and diverse where that was asked for."""
    recommender, k = question.served.recommender, question.k
    try:
        picked.rows, picked.scores = question.shape.of(recommender, picked.rows, picked.scores, k)
    except Exception:
        log.exception("the list could not be shaped")
        picked.failed += ("shape",)
        picked.rows, picked.scores = picked.rows[:k], picked.scores[:k]
    return picked


def popular(question: Question) -> Picked:
    """The lowest rung, which needs no model and no thread of its own."""
    started = time.perf_counter()
    rows, scores = question.served.popular(question.eligible, question.shape.depth(question.k))
    picked = shaped(question, Picked(rows, scores, Source.POPULAR))
    picked.retrieve_ms = (time.perf_counter() - started) * 1000
    return picked


def _checked(rows: Rows, scores: Floats, eligible: Mask, k: int) -> tuple[Rows, Floats]:
    """The list without what a user must never see, whatever the recommender did. Raises ValueError for a broken one."""
    if len(rows) != len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{len(rows)} rows came with {len(scores)} scores, not all of them finite")
    _, first = np.unique(rows, return_index=True)
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[first] = True
    keep &= eligible[rows]
    return rows[keep][:k], scores[keep][:k]


def fill(served: Served, rows: Rows, scores: Floats, eligible: Mask, k: int) -> tuple[Rows, Floats]:
    """A list that came short, filled up with popular items at its last score, so that scores never rise."""
    if len(rows) >= k:
        return rows, scores
    left = eligible.copy()
    left[rows] = False
    more, _ = served.popular(left, k - len(rows))
    last = scores[-1] if len(scores) else np.float32(0)
    return np.concatenate([rows, more]), np.concatenate([scores, np.full(len(more), last, dtype=np.float32)])
