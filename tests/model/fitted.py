"""A small ContRec fitted on the contract's toy walks: real stages, a few seconds, the right answer visible by eye."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.continuous.cold import ColdItems
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from model.continuous.tokenizer import Tokenizer
from model.text import HASHED, HashedText, KeptEncoder, item_text
from tests.contracts.recommender_contract import ITEMS, toy_catalogue, toy_histories
from training.collaborative import spectral
from training.data.prepared import Prepared
from training.data.splits import leave_one_out
from training.recipe import Recipe, load_recipe
from training.stages.head import FittedHead, fit_head
from training.stages.tokenizer import fit_tokenizer
from training.stages.trunk import FittedTrunk, fit_trunk
from training.text import fit_hashed_text

# Every number that the answer hangs on is set here, so that tuning a recipe for real data moves no test.
OVERRIDES = (
    "signals.spectral_dim=8",
    "signals.text_dim=8",
    "signals.text_buckets=256",
    "tokenizer.token_dim=8",
    "tokenizer.hidden=16",
    "tokenizer.epochs=5",
    "trunk.width=32",
    "trunk.layers=2",
    "trunk.heads=2",
    "trunk.feed_forward=64",
    "trunk.kernel=4",
    "trunk.max_history=6",
    "trunk.max_profile=12",
    "trunk.dropout=0.0",
    "trunk.tokens_per_step=128",
    "trunk.epochs=4",
    "trunk.patience=8",
    "trunk.learning_rate=7e-3",
    "trunk.warmup_steps=5",
    "trunk.bf16=false",
    "text_half.learning_rate=7e-3",
    "head.hidden=32",
    "head.blocks=2",
    "head.epochs=1",
    "head.steps_per_epoch=60",
    "head.positions_per_step=256",
    "head.learning_rate=2e-3",
    "head.samples=4",
    "head.times=[0.8, 0.6]",
)


@dataclass(frozen=True)
class Fitted:
    """Every part of the toy model, as training made it."""

    prepared: Prepared
    recipe: Recipe
    encoder: HashedText
    tokenizer: Tokenizer
    trunk: FittedTrunk
    head: FittedHead

    def recommender(self, weight: float) -> ContinuousRecommender:
        """The whole model with the mixture's weight set by hand."""
        part = self.recipe.head
        anchor = self.trunk.recommender(self.prepared, self.recipe.trunk.max_profile)
        anchor.cold = ColdItems(self.tokenizer, self.trunk.space.project.weight, KeptEncoder(self.encoder, HASHED))
        return anchor.with_head(self.head.head, Mixture(part.samples, part.times, weight))


def toy_prepared() -> Prepared:
    """The contract's walks, split leave-one-out."""
    walks = toy_histories()
    offsets = np.cumsum([0, *map(len, walks)]).astype(np.int64)
    events = int(offsets[-1])
    return Prepared(
        catalogue=toy_catalogue(),
        users=tuple(f"u{user}" for user in range(len(walks))),
        offsets=offsets,
        items=np.concatenate(walks).astype(np.int32),
        times=np.arange(events, dtype=np.int64),
        values=np.full(events, np.nan, dtype=np.float32),
        split=leave_one_out(offsets),
    )


@functools.cache
def fitted() -> Fitted:
    """Fitted once a session."""
    prepared, recipe = toy_prepared(), load_recipe("contrec", "tiny", OVERRIDES)
    collaborative, known = spectral(*prepared.train_histories(), ITEMS, recipe.signals.spectral_dim)
    texts = [item_text(item) for item in prepared.catalogue]
    encoder = fit_hashed_text(texts, recipe.signals.text_buckets, recipe.signals.text_dim)
    tokenizer, tokens, _ = fit_tokenizer(collaborative, known, encoder.encode(texts), recipe.tokenizer, seed=0)
    trunk = fit_trunk(prepared, tokens, recipe.trunk, seed=0)
    head = fit_head(prepared, trunk.recommender(prepared, recipe.trunk.max_profile), recipe.head, recipe.trunk, seed=0)
    return Fitted(prepared, recipe, encoder, tokenizer, trunk, head)


def elsewhere(base: ContinuousRecommender, vectors: Tensor, bias: Tensor | None = None) -> ContinuousRecommender:
    """The same trunk and head over items that lie elsewhere."""
    bias, counts = base.bias if bias is None else bias, torch.from_numpy(base.counts)
    parts = base.catalogue, base.trunk, base.head, vectors, bias, counts, base.mixture
    return ContinuousRecommender(*parts, max_profile=base.max_profile)
