"""ContRec: signals, tokenizer, trunk, head.

built = build(recipe, run)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from model.continuous.cold import ColdItems
from model.text import HASHED, SentenceEncoder, TextEncoder, item_text
from training.collaborative import spectral
from training.language import language_trunk
from training.recipes.continuous import ContinuousRecipe, SignalsPart
from training.run import Built, Run
from training.stages.head import fit_head
from training.stages.tokenizer import fit_tokenizer
from training.stages.trunk import fit_trunk
from training.text import fit_hashed_text


def build(recipe: ContinuousRecipe, run: Run) -> Built:
    """Fits every stage. Raises ValueError with one sentence where a stage comes to nothing."""
    prepared, seed = run.prepared, run.seed
    where: Any = {"device": run.device, "progress": run.progress, "keep_every": run.keep_every}
    with run.stage("signals"):
        offsets, items = prepared.train_histories()
        collaborative, known = spectral(offsets, items, len(prepared.catalogue), recipe.signals.spectral_dim)
        texts = [item_text(item) for item in prepared.catalogue]
        encoder = _text_encoder(recipe.signals, texts)
        text = encoder.encode(texts)
    with run.stage("tokenizer") as checkpoint:
        tokenizer, tokens, run.report["tokenizer"] = fit_tokenizer(
            collaborative, known, text, recipe.tokenizer, seed=seed, checkpoint=checkpoint, **where
        )
    with run.stage("trunk") as checkpoint:
        trunk = None
        if recipe.language.base:
            trunk = language_trunk(recipe.language, recipe.trunk, prepared.catalogue, seed=seed)
        fitted = fit_trunk(prepared, tokens, recipe.trunk, seed=seed, trunk=trunk, checkpoint=checkpoint, **where)
        run.report["trunk"] = {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch}
    with run.stage("head") as checkpoint:
        head = fit_head(
            prepared, fitted.trunk, fitted.space, recipe.head, recipe.trunk, seed=seed, checkpoint=checkpoint, **where
        )
        run.report["head"] = {"epochs": head.epochs, "weight": head.mixture.weight, "lead": head.lead}
    anchor = fitted.recommender(prepared, recipe.trunk.max_profile)
    recommender = anchor.with_head(head.head, head.mixture)
    recommender.cold = ColdItems(tokenizer, fitted.space.project.weight, encoder, recipe.signals.text_encoder)
    fill = functools.partial(recommender.save, include_base=recipe.language.include_base)
    alone = recommender if head.mixture.weight == 0 else anchor
    return Built(recommender, fill, {"trunk_alone": alone})


def _text_encoder(signals: SignalsPart, texts: Sequence[str]) -> TextEncoder:
    if signals.text_encoder == HASHED:
        return fit_hashed_text(texts, signals.text_buckets, signals.text_dim)
    return SentenceEncoder(signals.text_encoder)
