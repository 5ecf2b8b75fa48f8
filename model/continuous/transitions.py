"""What followed the last items: a third expert beside trunk and words, counted instead of learnt.

    score(i) = base(i) + weight * log((share_i + floor) / floor)
    share_i  = the part of item i in what followed the last `window` items of the history, older ones counting less

A trunk forgets what it saw once; a table of counts does not, and their errors differ. The expert's log probability is
added like that of the text half (hybrid.py), but for a constant of its own: where nothing followed, the score is the
base's. An item that training never met has no counts, and the bonus of the others would bury it: the known items
nearest to it stand in for it, as what follows and as what is followed. Weight and floor come from validation and
travel in the bundle. Knows a recommender by the one interface and what exact retrieval needs.

    recommender = WithTransitions(base, transitions, weight=0.5, floor=1e-3)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from model.catalogue import Item, Mask, Rows
from model.continuous.hybrid import HYBRID, Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.retrieval import ContinuousTaste, best_of, log_partition
from model.files import read_arrays, read_json, write_json
from model.recommender import Dials, Floats, Recommender, UserTokens, Walk, best
from model.sieve import possible

TRANSITIONS = "transitions"  # the folder that tells a bundle with this expert from one without
NEAREST = 10  # items that stand in for a new one
_NOBODY = -1  # fills up the last items of a short history, and the nearest of an item that is near nothing
_BY_OTHERS = -2  # in tokens: an item that others stand in for


@dataclass(frozen=True, slots=True)
class Transitions:
    """How often which items followed each item, as rows of a sparse matrix (N, N).

    starts: (N + 1,) int64, where each item's line begins; rows, counts: (nnz,) int32 and float32, what followed it
    and how often, weighed as training has it. window: how many last items are asked. decay: of the count, an item
    further back.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: Floats
    window: int
    decay: float

    def __len__(self) -> int:
        """N."""
        return len(self.starts) - 1

    def weights(self, last: int) -> Floats:
        """(last,) of the last items, newest first."""
        found: Floats = (self.decay ** np.arange(last)).astype(np.float32)
        return found

    def after(self, rows: Rows, weights: Floats) -> tuple[Rows, Floats]:
        """What followed rows (m,), each with its weight: rows, ascending, and the share of each; all sum to 1."""
        lines = [slice(*self.starts[row : row + 2]) for row in rows]
        followed = [self.rows[line] for line in lines]
        if not any(map(len, followed)):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        counts = [self.counts[line] * weight for line, weight in zip(lines, weights, strict=True)]
        found, places = np.unique(np.concatenate(followed), return_inverse=True)
        sums = np.bincount(places, weights=np.concatenate(counts), minlength=len(found))
        return found.astype(np.int64), (sums / sums.sum()).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Writes both files into a folder that it makes."""
        folder.mkdir()
        arrays = {"starts": self.starts, "rows": self.rows, "counts": self.counts}
        save_file(arrays, folder / "counts.safetensors")
        write_json(folder / "window.json", {"window": self.window, "decay": self.decay})

    @classmethod
    def load(cls, folder: Path) -> Transitions:
        """Reads what `save` wrote; the caller has verified the bundle."""
        return cls(**read_arrays(folder / "counts.safetensors"), **read_json(folder / "window.json"))


@dataclass(frozen=True, slots=True)
class FollowedTaste:
    """base: the taste of the recommender beneath. rows (m,), bonus (m,): what followed, and what it adds to a score."""

    base: ContinuousTaste
    rows: Rows
    bonus: Floats


class WithTransitions(Recommender):
    """weight: of the expert's log probability, above zero.

    floor: the share that an item has which never followed; the smaller, the more it counts to have followed at all.
    near: (n, NEAREST) what stands in for each of the n items that training never met, found anew where it is not given.
    Raises ValueError where the table knows more items than the base, or for a weight or floor that is not positive.
    """

    kind = "continuous"

    def __init__(
        self,
        base: ContinuousRecommender | Hybrid,
        transitions: Transitions,
        weight: float,
        floor: float,
        near: Rows | None = None,
    ) -> None:
        super().__init__(base.catalogue)
        if len(transitions) > len(base.catalogue):
            raise ValueError(f"transitions of {len(transitions)} items for {len(base.catalogue)}")
        if not (weight > 0 and floor > 0):
            raise ValueError(f"weight is {weight}, floor {floor}: without transitions serve the base alone")
        self.base = base
        self.transitions = transitions
        self.weight = weight
        self.floor = floor
        self._unmet = np.flatnonzero(base.counts == 0)  # ascending
        near = base.nearest(self._unmet, base.counts > 0, NEAREST) if near is None else near
        self._near = np.asfortranarray(near)  # `_shares` goes through it column by column

    def with_weight(self, weight: float) -> WithTransitions:
        """The same expert in another proportion."""
        twin = copy.copy(self)
        twin.weight = weight
        return twin

    def with_items(self, items: Sequence[Item]) -> WithTransitions:
        """New items are where their words place them: see the module's opening."""
        twin, old = copy.copy(self), len(self.catalogue)
        twin.base = self.base.with_items(items)
        twin.catalogue, counts = twin.base.catalogue, twin.base.counts
        twin._unmet = np.concatenate([self._unmet, np.arange(old, len(twin.catalogue))])
        # Placed again are those whose words may have changed.
        again = np.isin(twin._unmet, self.catalogue.rows(item.item_id for item in items))
        again[len(self._unmet) :] = True
        near = np.concatenate([self._near, np.zeros((len(again) - len(self._near), NEAREST), dtype=np.int64)])
        near[again] = twin.base.nearest(twin._unmet[again], counts > 0, NEAREST)
        twin._near = np.asfortranarray(near)
        return twin

    def expect_items(self) -> None:
        self.base.expect_items()

    # ------------------------------------------------------------------------------------------------------------
    # The three steps

    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        """condition: the base's, then the rows of the last `window` items, newest first, then the NEAREST stand-ins of
        each of those that training never met. float32 holds rows exactly.

        Tokens are kept and read by other replicas, which may have another row for an item that was added. So they name
        trained rows alone.
        """
        return [
            UserTokens(np.concatenate([token.condition, self._last(history)]), token.profile)
            for token, history in zip(self.base.encode(histories), histories, strict=True)
        ]

    def _last(self, history: Rows) -> Floats:
        last = np.full(self.transitions.window, _NOBODY, dtype=np.float32)
        newest = history[: -self.transitions.window - 1 : -1]
        unmet = np.isin(newest, self._unmet)
        last[: len(newest)] = np.where(unmet, _BY_OTHERS, newest)
        near = self._near[np.searchsorted(self._unmet, newest[unmet])]
        return np.concatenate([last, near.ravel().astype(np.float32)])

    def base_tokens(self, token: UserTokens) -> UserTokens:
        """What the base made of the history."""
        return UserTokens(token.condition[: self.base.condition_width], token.profile)

    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[FollowedTaste]:
        """explore turns the base, and takes as much from what followed: that is what everybody expects."""
        tastes = self.base.generate([self.base_tokens(token) for token in tokens], dials)
        return [self._followed(*one) for one in zip(tokens, dials, tastes, strict=True)]

    def _followed(self, token: UserTokens, dial: Dials, taste: ContinuousTaste) -> FollowedTaste:
        told, window = token.condition[self.base.condition_width :].astype(np.int64), self.transitions.window
        rows, share = self._shares(told[:window], told[window:].reshape(-1, NEAREST))
        bonus = np.float32(self.weight * (1 - dial.explore)) * np.log1p(share / np.float32(self.floor))
        return FollowedTaste(taste, rows, bonus)

    def _shares(self, last: Rows, near: Rows) -> tuple[Rows, Floats]:
        """last: (window,) newest first, or _NOBODY or _BY_OTHERS; near: (m, NEAREST) of the latter. Each item that was
        never met has the mean share of its stand-ins, and in the history they are followed in its place."""
        weights = self.transitions.weights(len(last))
        known = (last >= 0) & (last < len(self.transitions))  # tokens of an earlier version may hold more
        some = near != _NOBODY
        of_each = np.repeat(weights[last == _BY_OTHERS, None] / NEAREST, NEAREST, axis=1)
        asked = np.concatenate([last[known], near[some]]), np.concatenate([weights[known], of_each[some]])
        rows, share = self.transitions.after(*asked)
        if len(self._unmet) == 0:
            return rows, share
        shares = np.zeros(len(self.transitions) + 1, dtype=np.float32)  # the last, which _NOBODY is, stays 0
        shares[rows] = share
        its = shares[self._near.T].sum(axis=0) / np.float32(NEAREST)
        new = its > 0
        return np.concatenate([rows, self._unmet[new]]), np.concatenate([share, its[new]])

    def retrieve(self, taste: FollowedTaste, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """Exact; `score` is the plain twin."""
        bonus = self._bonus(taste)
        candidates = possible(self.base.rough(taste.base) + bonus, self.base.slack(taste.base), eligible, k)
        rows, scores = best_of(self.base.index, taste.base, candidates, len(candidates))
        order = np.argsort(rows)  # so that equal scores go to the lower row
        rows, scores = rows[order], scores[order] + bonus[rows[order]]
        places, scores = best(scores, np.ones(len(rows), dtype=np.bool_), k)
        return rows[places], scores

    def score(self, taste: FollowedTaste) -> Floats:
        found: Floats = self.base.score(taste.base) + self._bonus(taste)
        return found

    def score_rows(self, taste: FollowedTaste, rows: Rows) -> Floats:
        found: Floats = self.base.score_rows(taste.base, rows) + self._bonus(taste)[rows]
        return found

    def log_partition(self, taste: FollowedTaste) -> float:
        rough = self.base.rough(taste.base) + self._bonus(taste)
        return log_partition(rough, lambda rows: self.score_rows(taste, rows))

    def _bonus(self, taste: FollowedTaste) -> Floats:
        bonus = np.zeros(len(self.catalogue), dtype=np.float32)
        bonus[taste.rows] = taste.bonus
        return bonus

    # ------------------------------------------------------------------------------------------------------------
    # For lists, reasons and the eye: the base's affair

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        return self.base.neighbours(rows, eligible, k)

    def unit_vectors(self, rows: Rows) -> Floats:
        return self.base.unit_vectors(rows)

    def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]]:
        return self.base.trace([self.base_tokens(token) for token in tokens], dials)

    # ------------------------------------------------------------------------------------------------------------
    # Files of a bundle

    def save(self, folder: Path, *, include_base: bool = True) -> None:
        """The base as it lies in a bundle of its own, and the table with weight and floor in transitions/."""
        self.base.save(folder, include_base=include_base)
        self.transitions.save(folder / TRANSITIONS)
        # Looking them up again takes seconds where a large catalogue has many that training never met.
        save_file({"near": np.ascontiguousarray(self._near)}, folder / TRANSITIONS / "near.safetensors")
        write_json(folder / TRANSITIONS / "weight.json", {"weight": self.weight, "floor": self.floor})

    @classmethod
    def around(cls, base: ContinuousRecommender | Hybrid, folder: Path) -> WithTransitions:
        """Reads what `save` wrote beside the base, which the caller has read."""
        found, near = (
            read_json(folder / TRANSITIONS / "weight.json"),
            read_arrays(folder / TRANSITIONS / "near.safetensors"),
        )
        return cls(base, Transitions.load(folder / TRANSITIONS), found["weight"], found["floor"], near["near"])


def load_continuous(folder: Path, device: str = "cpu") -> Recommender:
    """A bundle of kind `continuous`, with whatever experts it has; the caller has verified it."""
    half = Hybrid if (folder / HYBRID).exists() else ContinuousRecommender
    base = half.load(folder, device)
    return WithTransitions.around(base, folder) if (folder / TRANSITIONS).exists() else base
