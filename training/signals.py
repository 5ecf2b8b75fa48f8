"""What is known of an item before any sequence is read: a collaborative and a text embedding, as the recipe says.

signals = item_signals(recipe.signals, run, checkpoint)
signals.collaborative, signals.known, signals.text        # (N, C), (N,), (N, T)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.recommender import Floats
from model.text import HASHED, SentenceEncoder, TextEncoder, item_text
from training.collaborative import spectral
from training.recipes.continuous import SignalsPart
from training.run import Run
from training.stages.lightgcn import fit_lightgcn
from training.text import fit_hashed_text


@dataclass(frozen=True)
class Signals:
    """known: whether training interactions know the item. encoder: what gave `text` of `texts`, for new items."""

    collaborative: Floats
    known: NDArray[np.bool_]
    text: Floats
    texts: list[str]
    encoder: TextEncoder


def item_signals(part: SignalsPart, run: Run, checkpoint: Path | None = None) -> Signals:
    """Raises ValueError where a text encoder cannot be loaded."""
    offsets, items = run.prepared.train_histories()
    size = len(run.prepared.catalogue)
    if part.collaborative == "lightgcn":
        collaborative, known = fit_lightgcn(
            offsets,
            items,
            size,
            dim=part.spectral_dim,
            layers=part.lightgcn_layers,
            epochs=part.lightgcn_epochs,
            rate=part.lightgcn_rate,
            seed=run.seed,
            device=run.device,
            progress=run.progress,
            checkpoint=checkpoint,
            keep_every=run.keep_every,
        )
    else:
        collaborative, known = spectral(offsets, items, size, part.spectral_dim)
    texts = [item_text(item) for item in run.prepared.catalogue]
    encoder = _text_encoder(part, texts, run.device)
    return Signals(collaborative, known, encoder.encode(texts), texts, encoder)


def _text_encoder(part: SignalsPart, texts: Sequence[str], device: str) -> TextEncoder:
    if part.text_encoder == HASHED:
        return fit_hashed_text(texts, part.text_buckets, part.text_dim)
    return SentenceEncoder(part.text_encoder, device=device)
