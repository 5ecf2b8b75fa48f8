"""Validation of recommenders that read histories alike: each history is encoded once, whatever is tried behind it.

validate = Validation(recommender, prepared, users=6000, seed=0)
alone, found = validate(base), {weight: validate(first.with_weight(weight)) for weight in (0.5, 1.0)}
weight, tried, lead = best_weight(found, alone)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Rows
from model.recommender import Dials, Floats, Recommender, UserTokens
from training.data.prepared import Prepared
from training.evaluate import Metrics, evaluate, paired_bootstrap


class Validation:
    """reader: encodes for all. users: at most this many, drawn by the seed, as `evaluate` draws them."""

    def __init__(self, reader: Recommender, prepared: Prepared, users: int, seed: int) -> None:
        self._reader, self._prepared, self._users, self._seed = reader, prepared, users, seed
        self._tokens: dict[int, UserTokens] = {}

    def __call__(
        self, recommender: Recommender, its: Callable[[UserTokens], UserTokens] = lambda token: token
    ) -> Metrics:
        """its: what of the reader's tokens the recommender knows."""

        def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
            new = [n for n, user in enumerate(users.tolist()) if user not in self._tokens]
            encoded = self._reader.encode([histories[n] for n in new])
            self._tokens.update(zip((int(users[n]) for n in new), encoded, strict=True))
            tokens = [its(self._tokens[user]) for user in users.tolist()]
            tastes = recommender.generate(tokens, [Dials()] * len(tokens))
            return np.stack([recommender.score(taste) for taste in tastes])

        return evaluate(scorer, self._prepared, "validation", users=self._users, seed=self._seed)


def two_halves(metrics: Metrics) -> tuple[Metrics, Metrics]:
    """Every second user to choose by, the others to say how sure the choice is: the best of many on the users who chose
    it leads by chance. The second half is empty where there is one user. Coverage stays that of all.
    """
    first, second = (
        replace(
            metrics, users=metrics.users[n::2], ranks=metrics.ranks[n::2], unmasked_ranks=metrics.unmasked_ranks[n::2]
        )
        for n in (0, 1)
    )
    return first, second


FEWEST = 20


def lead_over(found: Metrics, alone: Metrics) -> tuple[float, float, float] | None:
    """Mean lead in NDCG@10 and its 95 % bootstrap interval over users; None of fewer than FEWEST, whose interval is too
    narrow: that of one user has no width at all."""
    return paired_bootstrap(found, alone) if len(alone.users) >= FEWEST else None


def best_weight(
    found: Mapping[float, Metrics], alone: Metrics
) -> tuple[float, dict[str, float], tuple[float, float, float]]:
    """found: what an expert gave at each weight above zero; alone: without it.

    The best weight by NDCG@10, 0 where none is better than nothing, what each gave, and the lead of the best weight
    above zero over `alone`: mean and 95 % bootstrap interval over users. The best on validation is the best guess: to
    ask for a surer lead costs small data most experts, for what helps tens of thousands of users helps a thousand as
    well, and cannot prove it; and a weight that gains nothing loses nothing either.
    """
    tried = {"0": alone.ndcg(10)} | {f"{weight:g}": metrics.ndcg(10) for weight, metrics in found.items()}
    best = max(found, key=lambda weight: found[weight].ndcg(10))
    lead = paired_bootstrap(found[best], alone)
    return (best if lead[0] > 0 else 0.0), tried, lead
