"""How much the conditional passes are worth: the weight of their corrections, chosen on validation.

    decoding, report = fit_decoding(prepared, recommender, recipe.decoding, users=6000, seed=0)

Of a handful of weights the best is a little better than none by chance alone; it is served only where its lead over
the fully masked pass is surer than that, and the report tells the lead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Rows
from model.recommender import Dials, Floats
from model.semantic.decoding import Decoding
from model.semantic.recommender import SemanticRecommender, SemanticTaste
from training.data.prepared import Prepared
from training.evaluate import Metrics, evaluate, paired_bootstrap

if TYPE_CHECKING:
    from training.recipes.semantic import DecodingPart


def fit_decoding(
    prepared: Prepared, recommender: SemanticRecommender, part: DecodingPart, *, users: int, seed: int
) -> tuple[Decoding, dict[str, Any]]:
    """The decoding to serve, and validation NDCG@10 by weight with the lead of the best (mean, low, high)."""
    full = Decoding(beam=part.beam, candidates=part.candidates, weight=1.0, steps=part.steps)
    trial = recommender.with_decoding(full)
    tastes: dict[int, SemanticTaste] = {}  # each history is read and looked at again once, whatever the weights

    def measure(weight: float) -> Metrics:
        def scorer(numbers: NDArray[np.int64], histories: list[Rows]) -> Floats:
            new = [n for n, user in enumerate(numbers.tolist()) if user not in tastes]
            made = trial.generate(trial.encode([histories[n] for n in new]), [Dials()] * len(new))
            tastes.update(zip((int(numbers[n]) for n in new), made, strict=True))
            of_users = [tastes[user] for user in numbers.tolist()]
            weighed = [replace(t, corrections=t.corrections * np.float32(weight)) for t in of_users]
            return np.stack([trial.score(taste) for taste in weighed])

        return evaluate(scorer, prepared, "validation", users=users, seed=seed)

    alone = measure(0.0)
    tried = {weight: measure(weight) for weight in sorted(set(part.weights) - {0.0})}
    report: dict[str, Any] = {"ndcg@10": {"0": alone.ndcg(10)} | {f"{w:g}": m.ndcg(10) for w, m in tried.items()}}
    if not tried:
        return replace(full, weight=0.0), report
    weight = max(tried, key=lambda w: tried[w].ndcg(10))
    report["lead"] = lead = paired_bootstrap(tried[weight], alone)
    report["weight"] = chosen = weight if lead[1] > 0 else 0.0
    return replace(full, weight=chosen), report
