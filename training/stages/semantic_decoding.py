"""How much the digits count beside the item-level score, and how much the conditional passes: chosen on validation.

    decoding, report = fit_decoding(prepared, recommender, recipe.decoding, users=6000, seed=0)

First the weight of the digits, by exact scoring. Then that of the corrections: of a handful of weights the best is a
little better than none by chance alone. So one half of the users chooses it, and it is served only where its lead over
the fully masked pass is surer than chance on the other half; the report tells the lead.
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
from training.evaluate import Metrics, evaluate
from training.stages.validation import lead_over, two_halves

if TYPE_CHECKING:
    from training.recipes.semantic import DecodingPart


def fit_decoding(
    prepared: Prepared, recommender: SemanticRecommender, part: DecodingPart, *, users: int, seed: int
) -> tuple[Decoding, dict[str, Any]]:
    """The decoding to serve, and validation NDCG@10 by weight, and the lead of the best (mean, low, high)."""
    exact = _Validation(prepared, recommender.with_decoding(Decoding()), users, seed)
    digits = {weight: exact(weight, 0.0).ndcg(10) for weight in sorted(set(part.digit_weights))}
    chosen = max(digits, key=lambda weight: digits[weight])
    full = Decoding(beam=part.beam, digits=chosen, candidates=part.candidates, weight=1.0, steps=part.steps)
    again = _Validation(prepared, recommender.with_decoding(full), users, seed)
    tried = {weight: again(chosen, weight) for weight in sorted(set(part.weights) - {0.0})} if chosen > 0 else {}
    report: dict[str, Any] = {
        "ndcg@10 by weight of digits": {f"{w:g}": value for w, value in digits.items()},
        "digits": chosen,
        "ndcg@10": {"0": digits[chosen]} | {f"{w:g}": m.ndcg(10) for w, m in tried.items()},
    }
    if not tried:
        return replace(full, weight=0.0), report
    weight = max(tried, key=lambda w: two_halves(tried[w])[0].ndcg(10))
    (_, corrected), (_, alone) = two_halves(tried[weight]), two_halves(again(chosen, 0.0))
    report["lead"] = lead = lead_over(corrected, alone)
    report["weight"] = served = weight if lead is not None and lead[1] > 0 else 0.0
    return replace(full, weight=served), report


class _Validation:
    """Metrics by weights; each history is read and decoded once, whatever they are."""

    def __init__(self, prepared: Prepared, recommender: SemanticRecommender, users: int, seed: int) -> None:
        self._prepared, self._recommender, self._users, self._seed = prepared, recommender, users, seed
        self._tastes: dict[int, SemanticTaste] = {}

    def __call__(self, digits: float, weight: float) -> Metrics:
        """digits: weight of the log-probabilities; weight: of the corrections."""

        def scorer(numbers: NDArray[np.int64], histories: list[Rows]) -> Floats:
            new = [n for n, user in enumerate(numbers.tolist()) if user not in self._tastes]
            made = self._recommender.generate(
                self._recommender.encode([histories[n] for n in new]), [Dials()] * len(new)
            )
            for n, taste in zip(new, made, strict=True):
                self._tastes[int(numbers[n])] = replace(taste, scores=None)
            return np.stack([self._score(self._tastes[user], digits, weight) for user in numbers.tolist()])

        return evaluate(scorer, self._prepared, "validation", users=self._users, seed=self._seed)

    def _score(self, taste: SemanticTaste, digits: float, weight: float) -> Floats:
        share = np.float32(digits / self._recommender.decoding.digits)  # of the weight that the table holds already
        weighed = replace(taste, table=taste.table * share, corrections=taste.corrections * np.float32(weight))
        return self._recommender.score(weighed)
