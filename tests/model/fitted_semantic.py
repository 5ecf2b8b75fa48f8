"""A small DiffGRM fitted on the contract's toy walks: real stages, a few seconds, the right answer visible by eye."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding
from model.semantic.recommender import SemanticRecommender
from model.text import HASHED, KeptEncoder, item_text
from tests.contracts.recommender_contract import ITEMS
from tests.model.fitted import toy_prepared
from training.collaborative import spectral
from training.data.prepared import Prepared
from training.recipes.semantic import NetworkPart
from training.stages.semantic import FittedNetwork, fit_semantic, recommender_of
from training.stages.semantic_codes import fit_codes
from training.text import fit_hashed_text

PART = NetworkPart(
    width=32,
    heads=2,
    feed_forward=64,
    decoder_feed_forward=32,
    encoder_layers=2,
    decoder_layers=2,
    digit_dim=8,
    memory=3,
    max_history=6,
    dropout=0.0,
    residual_drop=0.1,
    label_smoothing=0.05,
    item=1.0,
    joint=1.0,
    digits=0.5,
    decode_share=1.0,
    negatives=1_000,
    view_share=1.0,
    tokens_per_step=128,
    epochs=14,
    patience=8,
    learning_rate=1e-2,
    warmup_steps=5,
    weight_decay=0.01,
    validation_users=1_000,
    bf16=False,
)


@dataclass(frozen=True)
class Fitted:
    """Every part of the toy model, as training made it."""

    prepared: Prepared
    cold: ColdIds
    digits: np.ndarray
    network: FittedNetwork

    def recommender(self, decoding: Decoding) -> SemanticRecommender:
        """The whole model, decoding set by hand."""
        return recommender_of(self.network.network, self.cold, self.prepared, decoding)


@functools.cache
def fitted() -> Fitted:
    """Fitted once a session."""
    prepared = toy_prepared()
    collaborative, known = spectral(*prepared.train_histories(), ITEMS, 8)
    texts = [item_text(item) for item in prepared.catalogue]
    encoder = fit_hashed_text(texts, 256, 8)
    text = encoder.encode(texts)
    encoding = fit_codes(text, collaborative, known, digits=4, codes=256, text_dim=4, collaborative_dim=8)
    digits = encoding.digits(text, collaborative, known)
    cold = ColdIds(encoding, KeptEncoder(encoder, HASHED))
    network = fit_semantic(prepared, cold, digits, PART, seed=0)
    return Fitted(prepared, cold, digits, network)
