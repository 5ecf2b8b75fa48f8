"""The text half: a trunk of its own over what items say, and how much of it validation wants in the score.

    words = fit_text_half(prepared, text, recipe.text_half, recipe.trunk, seed=0)
    alpha, tried, lead = choose_alpha(behaviour, words.recommender(...), prepared, recipe.text_half.weights, ...)

The two trunks never see each other in training: their errors differ, and that is what adding their scores lives on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.space import TextSpace
from model.recommender import Floats
from training.data.prepared import Prepared
from training.progress import Progress, silent
from training.stages.loop import EVERY
from training.stages.trunk import FittedTrunk, fit_trunk
from training.stages.validation import Validation, best_weight

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
    own = trunk_part.model_copy(update=part.model_dump(include={"epochs", "dropout", "learning_rate", "kernel"}))
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
        make_space=functools.partial(TextSpace, residual=part.residual),
        section="text_half",
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
    """The best alpha, what each gave on validation, and the lead of the best over the behaviour half alone:
    see `best_weight`. One of the weights is above zero."""
    first = Hybrid(behaviour, words, max(weights))
    validate = Validation(first, prepared, users, seed)
    alone = validate(behaviour, first.behaviour_tokens)
    found = {weight: validate(first.with_alpha(weight)) for weight in sorted(set(weights)) if weight > 0}
    return best_weight(found, alone)
