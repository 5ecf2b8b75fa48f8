"""DiffGRM: signals, semantic ids, network, decoding.

built = build(recipe, run)
"""

from __future__ import annotations

from model.semantic.codes import collisions, digest
from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding
from model.text import KeptEncoder
from training.recipes.semantic import SemanticRecipe
from training.run import Built, Run
from training.signals import item_signals
from training.stages.semantic import fit_semantic, recommender_of
from training.stages.semantic_codes import fit_codes
from training.stages.semantic_decoding import fit_decoding


def build(recipe: SemanticRecipe, run: Run) -> Built:
    """Fits every stage. Raises ValueError with one sentence where a stage comes to nothing."""
    prepared, seed, signals = run.prepared, run.seed, recipe.signals
    with run.stage("signals") as checkpoint:
        found = item_signals(signals, run, checkpoint)
        collaborative, known, text = found.collaborative, found.known, found.text
    with run.stage("codes"):
        encoding = fit_codes(text, collaborative, known, **recipe.codes.model_dump())
        digits = encoding.digits(text, collaborative, known)
        run.report["codes"] = {"codes": encoding.codes, "sha256": digest(digits), **collisions(digits)}
    cold = ColdIds(encoding, KeptEncoder(found.encoder, signals.text_encoder))
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
