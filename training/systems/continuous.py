"""ContRec: signals, tokenizer, trunk, head, text half, transitions.

built = build(recipe, run)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.continuous.cold import ColdItems, ColdWords
from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.space import ItemSpace, TextSpace
from model.continuous.transitions import WithTransitions
from model.recommender import Recommender
from model.text import HASHED, KeptEncoder, TextEncoder
from training.language import language_trunk
from training.recipes.continuous import ContinuousRecipe
from training.run import Built, Run
from training.signals import item_signals
from training.stages.head import fit_head
from training.stages.text_half import choose_alpha, fit_text_half
from training.stages.tokenizer import fit_tokenizer
from training.stages.transitions import choose_weight, fit_transitions
from training.stages.trunk import fit_trunk
from training.text import fit_hashed_text


def build(recipe: ContinuousRecipe, run: Run) -> Built:
    """Fits every stage. Raises ValueError with one sentence where a stage comes to nothing."""
    prepared, seed = run.prepared, run.seed
    where: Any = {"device": run.device, "progress": run.progress, "keep_every": run.keep_every}
    with run.stage("signals") as checkpoint:
        signals = item_signals(recipe.signals, run, checkpoint)
    with run.stage("tokenizer") as checkpoint:
        tokenizer, tokens, run.report["tokenizer"] = fit_tokenizer(
            signals.collaborative,
            signals.known,
            signals.text,
            recipe.tokenizer,
            seed=seed,
            checkpoint=checkpoint,
            **where,
        )
    with run.stage("trunk") as checkpoint:
        trunk = None
        if recipe.language.base:
            trunk = language_trunk(recipe.language, recipe.trunk, prepared.catalogue, seed=seed)
        fitted = fit_trunk(prepared, tokens, recipe.trunk, seed=seed, trunk=trunk, checkpoint=checkpoint, **where)
        run.report["trunk"] = {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch}
    anchor = fitted.recommender(prepared, recipe.trunk.max_profile)
    with run.stage("head") as checkpoint:
        head = fit_head(prepared, anchor, recipe.head, recipe.trunk, seed=seed, checkpoint=checkpoint, **where)
        run.report["head"] = {
            "epochs": head.epochs,
            "weight": head.mixture.weight,
            "guidance": head.guidance,
            "lead": head.lead,
            "users": dict(zip(("chose", "lead"), head.users, strict=True)),
        }
    behaviour = anchor.with_head(head.head, head.mixture)
    assert isinstance(fitted.space, ItemSpace)
    kept = KeptEncoder(signals.encoder, recipe.signals.text_encoder)
    behaviour.cold = ColdItems(tokenizer, fitted.space.project.weight, kept)
    beside: dict[str, Recommender] = {"trunk_alone": behaviour if head.mixture.weight == 0 else anchor}
    base: ContinuousRecommender | Hybrid = behaviour
    if recipe.text_half.epochs:
        with run.stage("text_half") as checkpoint:
            words, its = fit_words(recipe, run, signals.texts, signals.encoder, checkpoint)
        alpha, tried, lead = choose_alpha(
            behaviour, words, prepared, recipe.text_half.weights, users=recipe.trunk.validation_users, seed=seed
        )
        run.report["text_half_fit"] = {**its, "alpha": alpha, "tried": tried, "lead": lead}
        base = Hybrid(behaviour, words, alpha) if alpha > 0 else behaviour
        beside |= {"behaviour_half": behaviour, "text_half": words}
    recommender: ContinuousRecommender | Hybrid | WithTransitions = base
    part = recipe.transitions
    if max(part.weights) > 0:
        with run.stage("transitions"):
            counted = fit_transitions(prepared, part.keep, window=part.window, decay=part.decay)
            expert = WithTransitions(base, counted, max(part.weights), part.floor)
            weight, tried, lead = choose_weight(
                expert, prepared, part.weights, users=recipe.trunk.validation_users, seed=seed
            )
        run.report["transitions_fit"] = {"weight": weight, "tried": tried, "lead": lead}
        if weight > 0:
            recommender = expert.with_weight(weight)
            beside["without_transitions"] = base
    fill = functools.partial(recommender.save, include_base=recipe.language.include_base)
    return Built(recommender, fill, beside)


def fit_words(
    recipe: ContinuousRecipe, run: Run, texts: Sequence[str], encoder: TextEncoder, checkpoint: Path | None
) -> tuple[ContinuousRecommender, dict[str, Any]]:
    """The text half alone, ready for new items, and what its epochs gave."""
    part, signals = recipe.text_half, recipe.signals
    if signals.text_encoder == HASHED:
        encoder = fit_hashed_text(texts, signals.text_buckets, part.text_dim)
    fitted = fit_text_half(
        run.prepared,
        encoder.encode(texts),
        part,
        recipe.trunk,
        seed=run.seed,
        device=run.device,
        progress=run.progress,
        checkpoint=checkpoint,
        keep_every=run.keep_every,
    )
    words = fitted.recommender(run.prepared, recipe.trunk.max_profile)
    assert isinstance(fitted.space, TextSpace)
    words.cold = ColdWords(fitted.space.place, KeptEncoder(encoder, signals.text_encoder))
    return words, {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch}
