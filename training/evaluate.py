"""Evaluation: every item of the catalogue is ranked for every user; nothing is sampled.

A scorer is any function from user numbers and histories to scores, so that a trained bundle, a baseline and the
oracle of the synthetic data pass through the same lines. This module knows no torch and no files.

    metrics = evaluate(recommender_scorer(recommender), prepared, "test")
    metrics.as_dict()       # {"hr@10": ..., "ndcg@10": ..., "coverage@10": ..., "unmasked": {...}, ...}
    print(markdown(compare({"popular": ..., "contrec": ...}, prepared, "test")))

The rules (literature.md 5): item level; items of the history masked (primary, since the service never returns
them) and unmasked beside it; ties pessimistic, so a scorer that gives everything one score finds nothing;
float32. A target that is already in its history can only be missed when masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Rows
from model.recommender import Dials, Floats, Recommender, best
from training.data.prepared import EvaluationSet, Part, Prepared

Scorer = Callable[[NDArray[np.int64], list[Rows]], Floats]
"""(users (B,), B histories) -> (B, N) float32, higher is better."""

CUTOFFS = (5, 10, 20)
COVERAGE_AT = 10
MISS = np.iinfo(np.int64).max  # the rank of a target that cannot be returned


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one scorer reached. Ranks are kept, one per user, so that two scorers can be compared user by user."""

    part: Part
    users: NDArray[np.int64]  # (n,) user numbers
    ranks: NDArray[np.int64]  # (n,) from 1, items of the history masked; MISS where the target is one of them
    unmasked_ranks: NDArray[np.int64]  # (n,) from 1
    coverage: float  # share of the catalogue that is in at least one masked top-10 list

    def hr(self, k: int, *, masked: bool = True) -> float:
        """Share of users whose target is among the first k. With one target this is also recall."""
        return float(((self.ranks if masked else self.unmasked_ranks) <= k).mean())

    def ndcg(self, k: int, *, masked: bool = True) -> float:
        """Mean of 1 / log2(rank + 1) where rank <= k, else 0."""
        return float(self.user_ndcg(k, masked=masked).mean())

    def user_ndcg(self, k: int = 10, *, masked: bool = True) -> NDArray[np.float64]:
        """(n,) NDCG@k of each user: what a paired bootstrap draws from."""
        ranks = self.ranks if masked else self.unmasked_ranks
        return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks.astype(np.float64)), 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "part": self.part,
            "users": len(self.users),
            **self._table(masked=True),
            f"coverage@{COVERAGE_AT}": self.coverage,
            "unmasked": self._table(masked=False),
        }

    def _table(self, *, masked: bool) -> dict[str, float]:
        hits = {f"hr@{k}": self.hr(k, masked=masked) for k in CUTOFFS}
        return hits | {f"ndcg@{k}": self.ndcg(k, masked=masked) for k in CUTOFFS}


def evaluate(
    scorer: Scorer, prepared: Prepared, part: Part, *, batch: int = 256, users: int | None = None, seed: int = 0
) -> Metrics:
    """Ranks the target of every user of a part, or of a subset of that many users drawn with the seed.

    Raises ValueError when the part asks nobody, and as `rank` does.
    """
    asked = _subset(prepared.evaluation(part), users, seed)
    if len(asked) == 0:
        raise ValueError(f"no user has a {part} target: the data is too small for this split")
    return rank(scorer, asked, len(prepared.catalogue), part, batch=batch)


def rank(scorer: Scorer, asked: EvaluationSet, size: int, part: Part, *, batch: int = 256) -> Metrics:
    """Ranks the target of each history that is asked, in a catalogue of that size.

    Memory: two batches of scores, 4 * batch * N bytes each, and a mask of a quarter of one. Raises ValueError when
    scores have the wrong shape or a NaN.
    """
    recommended = np.zeros(size, dtype=np.bool_)
    ranks: list[NDArray[np.int64]] = []
    unmasked_ranks: list[NDArray[np.int64]] = []
    for start in range(0, len(asked), batch):
        part_of = slice(start, start + batch)
        histories, targets = asked.histories[part_of], asked.targets[part_of]
        scores = _scores(scorer, asked.users[part_of], histories, size)
        seen = _seen(histories, size)
        lines = np.arange(len(targets))
        # The target itself is among those at least as good, which makes the count a rank from 1.
        reached = scores >= scores[lines, targets][:, None]
        unmasked_ranks.append(reached.sum(axis=1, dtype=np.int64))
        masked = (reached & ~seen).sum(axis=1, dtype=np.int64)
        ranks.append(np.where(seen[lines, targets], MISS, masked))
        for line in lines:
            recommended[best(scores[line], ~seen[line], COVERAGE_AT)[0]] = True
    return Metrics(
        part=part,
        users=asked.users,
        ranks=np.concatenate(ranks),
        unmasked_ranks=np.concatenate(unmasked_ranks),
        coverage=float(recommended.mean()),
    )


def _subset(asked: EvaluationSet, users: int | None, seed: int) -> EvaluationSet:
    if users is None or users >= len(asked):
        return asked
    if users < 1:
        raise ValueError(f"users must be at least 1, not {users}")
    kept = np.sort(np.random.default_rng(seed).permutation(len(asked))[:users])
    return EvaluationSet(asked.users[kept], [asked.histories[i] for i in kept], asked.targets[kept])


def _scores(scorer: Scorer, users: NDArray[np.int64], histories: list[Rows], size: int) -> Floats:
    scores = np.asarray(scorer(users, histories), dtype=np.float32)
    if scores.shape != (len(users), size):
        raise ValueError(f"the scorer gave scores of shape {scores.shape}, not {(len(users), size)}")
    wrong = np.isnan(scores).any(axis=1)
    if wrong.any():
        raise ValueError(f"the scorer gave NaN for user number {users[int(np.argmax(wrong))]}")
    return scores


def _seen(histories: Sequence[Rows], size: int) -> NDArray[np.bool_]:
    seen = np.zeros((len(histories), size), dtype=np.bool_)
    for line, history in enumerate(histories):
        seen[line, history] = True
    return seen


def recommender_scorer(recommender: Recommender) -> Scorer:
    """The scorer of anything with the one interface: encode, generate with the default dials, score."""

    def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        tastes = recommender.generate(recommender.encode(histories), [Dials()] * len(histories))
        return np.stack([recommender.score(taste) for taste in tastes])

    return scorer


# ----------------------------------------------------------------------------------------------------------------
# Tables


def measure(
    scorers: Mapping[str, Scorer], prepared: Prepared, part: Part, *, users: int | None = None, seed: int = 0
) -> dict[str, Metrics]:
    """Every scorer on the same users, in the order given."""
    return {name: evaluate(scorer, prepared, part, users=users, seed=seed) for name, scorer in scorers.items()}


def rows_of(measured: Mapping[str, Metrics]) -> list[dict[str, Any]]:
    """One row a scorer: its name under "scorer", then `Metrics.as_dict`."""
    return [{"scorer": name, **metrics.as_dict()} for name, metrics in measured.items()]


def compare(
    scorers: Mapping[str, Scorer], prepared: Prepared, part: Part, *, users: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """`measure` and `rows_of` in one."""
    return rows_of(measure(scorers, prepared, part, users=users, seed=seed))


def lead(measured: Mapping[str, Metrics]) -> str:
    """By how much the first scorer leads the best of the others in masked NDCG@10, and how surely: one sentence."""
    (first, mine), *others = measured.items()
    name, rival = max(others, key=lambda other: other[1].ndcg(10))
    mean, low, high = paired_bootstrap(mine, rival)
    return (
        f"{first} less {name}, the best of the others, in NDCG@10: {mean:+.4f} "
        f"(95 % interval over users, paired bootstrap: {low:+.4f} to {high:+.4f})"
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `compare` as a Markdown table: masked metrics, then the two unmasked ones that papers report."""
    columns = [*(f"hr@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in CUTOFFS), f"coverage@{COVERAGE_AT}"]
    beside = ["hr@10", "ndcg@10"]
    head = ["scorer", *columns, *(f"{name} unmasked" for name in beside), "users"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        numbers = [row[name] for name in columns] + [row["unmasked"][name] for name in beside]
        cells = [str(row["scorer"]), *(f"{number:.4f}" for number in numbers), str(row["users"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired_bootstrap(
    better: Metrics, worse: Metrics, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of NDCG@10 (masked) over the same users, with the bounds of its 95 % bootstrap interval."""
    if not np.array_equal(better.users, worse.users) or better.part != worse.part:
        raise ValueError("a paired comparison needs the same users of the same part")
    difference = better.user_ndcg() - worse.user_ndcg()
    generator = np.random.default_rng(seed)
    means = [difference[generator.integers(len(difference), size=len(difference))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
