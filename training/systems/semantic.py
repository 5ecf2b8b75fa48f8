"""DiffGRM: signals, semantic ids, network, decoding.

built = build(recipe, run)
"""

from __future__ import annotations

from model.semantic.codes import collisions, digest
from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding
from model.text import HASHED, SentenceEncoder, item_text
from training.collaborative import spectral
from training.recipes.semantic import SemanticRecipe
from training.run import Built, Run
from training.stages.semantic import fit_semantic, recommender_of
from training.stages.semantic_codes import fit_codes
from training.stages.semantic_decoding import fit_decoding
from training.text import fit_hashed_text


def build(recipe: SemanticRecipe, run: Run) -> Built:
    """Fits every stage. Raises ValueError with one sentence where a stage comes to nothing."""
    prepared, seed, signals = run.prepared, run.seed, recipe.signals
    with run.stage("signals"):
        offsets, items = prepared.train_histories()
        collaborative, known = spectral(offsets, items, len(prepared.catalogue), signals.spectral_dim)
        texts = [item_text(item) for item in prepared.catalogue]
        hashed = signals.text_encoder == HASHED
        encoder = (
            fit_hashed_text(texts, signals.text_buckets, signals.text_dim)
            if hashed
            else SentenceEncoder(signals.text_encoder)
        )
        text = encoder.encode(texts)
    with run.stage("codes"):
        encoding = fit_codes(text, collaborative, known, **recipe.codes.model_dump())
        digits = encoding.digits(text, collaborative, known)
        run.report["codes"] = {"codes": encoding.codes, "sha256": digest(digits), **collisions(digits)}
    cold = ColdIds(encoding, encoder, signals.text_encoder)
    with run.stage("network") as checkpoint:
        fitted = fit_semantic(
            prepared,
            cold,
            digits,
            recipe.network,
            seed=seed,
            device=run.device,
            progress=run.progress,
            checkpoint=checkpoint,
            keep_every=run.keep_every,
        )
        run.report["network"] = {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch}
    masked = recommender_of(fitted.network, cold, prepared, Decoding())
    with run.stage("decoding"):
        decoding, run.report["decoding"] = fit_decoding(
            prepared, masked, recipe.decoding, users=recipe.network.validation_users, seed=seed
        )
    recommender = masked.with_decoding(decoding)
    alone = recommender if decoding.weight == 0 else masked
    return Built(recommender, recommender.save, {"fully_masked_alone": alone})
