"""The one interface of every recommender, in three steps, and `Popular`, the recommender that needs no training.

    encode(histories)            -> user tokens     the dear step; what the service caches
    generate(user tokens, dials) -> taste           batched; every request brings its own seed
    retrieve(taste, eligible, k) -> rows, scores    one query a request, filters inside, exact

Histories, tastes and answers are in rows; the catalogue turns them into ids. Nothing here knows HTTP, a store
or a file format.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Catalogue, Item, Mask, Rows
from model.explain import Explanation, leave_one_out

Floats = NDArray[np.float32]

_GROUP = 256


@dataclass(frozen=True, slots=True)
class UserTokens:
    """What `encode` learns of one user: the condition and the profile, both float32 vectors.

    condition: (D,) the backbone's state after the last item. profile: (P,) made only from what lies before
    the history that was read; (0,) where a recommender has none.
    """

    condition: Floats
    profile: Floats

    _HEADER: ClassVar[struct.Struct] = struct.Struct("<4sBII")
    _MAGIC: ClassVar[bytes] = b"ctok"
    _VERSION: ClassVar[int] = 1

    def to_bytes(self) -> bytes:
        """Little-endian float32 behind a short header (magic, version, two lengths): safe to read back."""
        header = self._HEADER.pack(self._MAGIC, self._VERSION, len(self.condition), len(self.profile))
        return header + self.condition.astype("<f4").tobytes() + self.profile.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> UserTokens:
        """Reads `to_bytes`. Raises ValueError on anything else."""
        if len(data) < cls._HEADER.size:
            raise ValueError("user tokens are shorter than their header")
        magic, version, condition, profile = cls._HEADER.unpack_from(data)
        if magic != cls._MAGIC or version != cls._VERSION:
            raise ValueError("these bytes are not user tokens of this version")
        if len(data) != cls._HEADER.size + 4 * (condition + profile):
            raise ValueError("user tokens have another length than their header says")
        values = np.frombuffer(data, dtype="<f4", offset=cls._HEADER.size).astype(np.float32)
        return cls(condition=values[:condition], profile=values[condition:])


@dataclass(frozen=True, slots=True)
class Dials:
    """What a request may turn. explore: 0 (the best list, always the same) to 1. seed: of the noise when exploring."""

    explore: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Walk:
    """One preference vector of a taste, as it was denoised; what the page draws.

    times: (T,) falling from 1, which is pure noise. steps: (T, W) the clean estimate after each time, in the space
    of `unit_vectors`; the last is the vector that `generate` gives. share: of the mixture, all walks sum to 1.
    """

    times: tuple[float, ...]
    steps: Floats
    share: float


class Recommender(ABC):
    """What every recommender can do. Subclasses state shapes only where they add to what is said here."""

    kind: ClassVar[str]  # "continuous", "semantic", "popular": names the class in a bundle's manifest

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @abstractmethod
    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        """User tokens for each history (rows, oldest first, any length, empty allowed)."""

    @abstractmethod
    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[Any]:
        """One taste for each user. The same tokens and dials give the same taste, alone or in a batch."""

    @abstractmethod
    def retrieve(self, taste: Any, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """The min(k, eligible) best rows among eligible (N,), best first, with their scores, which never rise."""

    @abstractmethod
    def score(self, taste: Any) -> Floats:
        """(N,) the score of every item: the plain twin of `retrieve`, and what evaluation reads."""

    @abstractmethod
    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """Like `retrieve`, for the mean of the items' own vectors: the rung of the ladder that needs no backbone.

        Rows may be empty; then the list is the most popular one.
        """

    def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]] | None:
        """How `generate` arrives at each taste, step by step; None where nothing is denoised in vectors."""
        return None

    @abstractmethod
    def with_items(self, items: Sequence[Item]) -> Recommender:
        """A new recommender that knows these items too; this one stays as it is.

        An item whose id is known gets its new title, categories and text and keeps its row; the others get the rows
        behind the last, in order. What training learnt of an item is kept whatever its new text says.
        """

    def expect_items(self) -> None:
        """Loads what `with_items` needs to place a text and has not loaded yet, so that no new item waits for it.

        Raises ValueError where it cannot be loaded: such a recommender still answers.
        """
        return None

    def score_rows(self, taste: Any, rows: Rows) -> Floats:
        """(n,) the scores of some rows; `score(taste)[rows]` is the plain twin."""
        return self.score(taste)[rows]

    def log_partition(self, taste: Any) -> float:
        """log sum exp of the scores of all items. Less this, a score is a log probability over the catalogue, and
        comparable between tastes; within one taste it is a constant."""
        return log_sum(self.score(taste))

    def unit_vectors(self, rows: Rows) -> Floats:
        """(n, D) unit vectors whose inner product says how alike two items are.

        Here for recommenders without vectors of their own: title words and categories, hashed with a sign into 256
        dimensions (feature hashing, Weinberger et al. 2009), categories weighing double. An item without a word is
        the zero vector.
        """
        return hashed_items([self.catalogue[int(row)] for row in rows])

    def likens(self, row: int) -> bool:
        """Whether there is anything that others could be like this item by."""
        return bool(self.unit_vectors(np.array([row], dtype=np.int64)).any())

    def similar(self, row: int, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """The items most like one, itself left out."""
        others = eligible.copy()
        others[row] = False
        return self.neighbours(np.array([row], dtype=np.int64), others, k)

    def explain(self, history: Rows, rows: Rows) -> Explanation:
        """Why these rows, after this history: see `model.explain`. Costs a batch of a few dozen histories."""
        return leave_one_out(self, history, rows)

    def recommend(
        self,
        history: Rows,
        k: int = 10,
        *,
        seen: Rows | None = None,
        eligible: Mask | None = None,
        dials: Dials | None = None,
    ) -> tuple[Rows, Floats]:
        """The three steps in one call. `seen` (default: the history) is never returned."""
        mask = np.ones(len(self.catalogue), dtype=np.bool_) if eligible is None else eligible.copy()
        mask[history if seen is None else seen] = False
        (taste,) = self.generate(self.encode([history]), [dials or Dials()])
        return self.retrieve(taste, mask, k)


def log_sum(scores: Floats) -> float:
    """log sum exp of (N,)."""
    top = float(scores.max())
    return top + float(np.log(np.exp(scores - top).sum(dtype=np.float64)))


def best(scores: Floats, eligible: Mask, k: int) -> tuple[Rows, Floats]:
    """The min(k, eligible) best rows of scores (N,), best first; equal scores go to the lower row."""
    found = scores.copy()
    found[np.flatnonzero(~eligible)] = -np.inf
    least = _reached(found, k)
    # Every tie with the last one in, so that the sort below decides it.
    rows = np.flatnonzero(found >= least if least > -np.inf else eligible)
    rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
    return rows.astype(np.int64), scores[rows]


def _reached(scores: Floats, k: int) -> float:
    """What at least k of scores (N,) reach, and few others; -inf where there are fewer than k.

    The k-th greatest of as many maxima as there are groups of `_GROUP` scores, which costs a sixth of partitioning all;
    where those are fewer than k, the k-th greatest score itself.
    """
    if k <= 0:
        return np.inf
    groups = len(scores) // _GROUP
    if groups >= k:
        scores = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    return float(np.partition(scores, len(scores) - k)[len(scores) - k]) if len(scores) >= k else -np.inf


def hashed_items(items: Sequence[Item], width: int = 256) -> Floats:
    """(n, width) unit vectors from title words and categories; see `Recommender.unit_vectors`."""
    vectors = np.zeros((len(items), width), dtype=np.float32)
    for n, item in enumerate(items):
        terms = [(f"t {word}", 1.0) for word in item.title.lower().split()]
        for term, weight in [*terms, *((f"c {category}", 2.0) for category in item.categories)]:
            code = zlib.crc32(term.encode())
            vectors[n, code % width] += weight if code >> 31 else -weight
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


class Popular(Recommender):
    """Counts. The baseline that everyone else must beat, and the last rung of the ladder.

    counts: (N,) interactions of each item, from the training period.
    """

    kind = "popular"

    def __init__(self, catalogue: Catalogue, counts: NDArray[np.int64]) -> None:
        super().__init__(catalogue)
        if counts.shape != (len(catalogue),):
            raise ValueError(f"counts has shape {counts.shape}, the catalogue {len(catalogue)} items")
        self.counts = counts
        self._scores = counts.astype(np.float32)

    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        nothing = np.zeros(0, dtype=np.float32)
        return [UserTokens(condition=nothing, profile=nothing) for _ in histories]

    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[None]:
        if len(tokens) != len(dials):
            raise ValueError(f"{len(tokens)} user tokens but {len(dials)} dials")
        return [None] * len(tokens)

    def retrieve(self, taste: None, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        return best(self._scores, eligible, k)

    def score(self, taste: None) -> Floats:
        return self._scores

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        return best(self._scores, eligible, k)

    def likens(self, row: int) -> bool:
        return bool(self.catalogue[row].categories)

    def similar(self, row: int, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """By the share of common categories (Jaccard), then by count: all that is known of an item here."""
        mine = set(self.catalogue[row].categories)
        shared = np.zeros(len(self.catalogue), dtype=np.float32)
        for category in mine:
            shared += self.catalogue.in_categories([category])
        near = np.flatnonzero(shared)
        sizes = [len(mine.union(self.catalogue[int(other)].categories)) for other in near]
        shared[near] /= np.array(sizes, dtype=np.float32)
        others = eligible.copy()
        others[row] = False
        # A count moves an item by less than one category more or less in common.
        return best(shared + 1e-3 * self._scores / (1 + self._scores.max(initial=0)), others, k)

    def with_items(self, items: Sequence[Item]) -> Popular:
        catalogue = self.catalogue.with_items(items)
        unmet = np.zeros(len(catalogue) - len(self.catalogue), dtype=self.counts.dtype)
        return Popular(catalogue, np.concatenate([self.counts, unmet]))

    def explain(self, history: Rows, rows: Rows) -> Explanation:
        """No item of the history has a part in a list by counts."""
        return Explanation(because=((),) * len(rows), categories=())
