"""The text half: a trunk of its own over what items say, and how much of it validation wants in the score.

    words = fit_text_half(prepared, text, recipe.text_half, recipe.trunk, seed=0)
    alpha, tried, lead = choose_alpha(behaviour, words.recommender(...), prepared, recipe.text_half.weights, ...)

The two trunks never see each other in training: their errors differ, and that is what adding their scores lives on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Rows
from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.space import TextSpace
from model.recommender import Dials, Floats, UserTokens
from training.data.prepared import Prepared
from training.evaluate import Metrics, Scorer, evaluate, paired_bootstrap
from training.progress import Progress, silent
from training.stages.loop import EVERY
from training.stages.trunk import FittedTrunk, fit_trunk

if TYPE_CHECKING:  # a fit function runs where pydantic is not
    from training.recipes.continuous import TextHalfPart, TrunkPart


def fit_text_half(
    prepared: Prepared,
    text: Floats,
    part: TextHalfPart,
    trunk_part: TrunkPart,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
) -> FittedTrunk:
    """text (N, D): unit vectors of the encoder. The trunk's own settings, but for those that `part` names."""
    own = trunk_part.model_copy(update={"epochs": part.epochs, "dropout": part.dropout})
    # Another seed than the behaviour half's: equal draws of dropout would make their errors alike.
    return fit_trunk(
        prepared,
        torch.from_numpy(text[:, None]),
        own,
        seed=seed + 1_000_003,
        device=device,
        progress=lambda stage, *rest: progress("text half", *rest),
        checkpoint=checkpoint,
        keep_every=keep_every,
        make_space=TextSpace,
    )


def choose_alpha(
    behaviour: ContinuousRecommender,
    words: ContinuousRecommender,
    prepared: Prepared,
    weights: Sequence[float],
    *,
    users: int,
    seed: int,
) -> tuple[float, dict[str, float], tuple[float, float, float]]:
    """The best alpha by validation NDCG@10, what each gave, and the lead of the best over the behaviour half alone.

    lead: mean and 95 % bootstrap interval over users. alpha is 0 where the interval touches zero: then the text half
    is not worth its time.
    """
    first = Hybrid(behaviour, words, max(weights))
    tokens: dict[int, UserTokens] = {}

    def measured(alpha: float) -> Metrics:
        recommender = behaviour if alpha == 0 else first.with_alpha(alpha)

        def scorer(asked: NDArray[np.int64], histories: list[Rows]) -> Floats:
            new = [n for n, user in enumerate(asked.tolist()) if user not in tokens]
            encoded = first.encode([histories[n] for n in new])
            tokens.update(zip((int(asked[n]) for n in new), encoded, strict=True))
            known = [tokens[user] for user in asked.tolist()]
            if alpha == 0:
                known = [first.behaviour_tokens(token) for token in known]
            tastes = recommender.generate(known, [Dials()] * len(known))
            return np.stack([recommender.score(taste) for taste in tastes])

        checked: Scorer = scorer
        return evaluate(checked, prepared, "validation", users=users, seed=seed)

    alone = measured(0.0)
    found = {weight: measured(weight) for weight in sorted(set(weights)) if weight > 0}
    tried = {"0": alone.ndcg(10)} | {f"{weight:g}": metrics.ndcg(10) for weight, metrics in found.items()}
    best = max(found, key=lambda weight: found[weight].ndcg(10))
    lead = paired_bootstrap(found[best], alone)
    return (best if lead[1] > 0 else 0.0), tried, lead
