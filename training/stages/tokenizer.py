"""Fits the sigma-VAE tokenizer on the items' signals.

tokenizer, tokens, health = fit_tokenizer(collaborative, known, text, recipe.tokenizer, seed=0)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.continuous.tokenizer import Tokenizer, TokenizerNoise, TokenizerShape, health
from model.recommender import Floats
from training.progress import Progress, silent
from training.stages.loop import EVERY, Loop, own_randomness

if TYPE_CHECKING:
    from training.recipes.continuous import TokenizerPart


def fit_tokenizer(
    collaborative: Floats,
    known: NDArray[np.bool_],
    text: Floats,
    part: TokenizerPart,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
) -> tuple[Tokenizer, Tensor, dict[str, float]]:
    """collaborative (N, C), known (N,) from training, text (N, T) -> tokenizer, its tokens (N, K, D), health.

    Trained on the items known from training (on all where none is): an item that only a validation or test
    interaction made known must not shape it. checkpoint: a file to go on from (training/stages/loop.py).
    """
    signals = torch.from_numpy(np.concatenate([collaborative, text], axis=1)).to(device)
    known_t = torch.from_numpy(known).to(device)
    used = torch.from_numpy(np.flatnonzero(known) if known.any() else np.arange(len(known))).to(device)
    noise = TokenizerNoise(part.sigma, part.feature_mask, part.block_mask, part.decorrelation)
    generator = torch.Generator(device).manual_seed(seed)
    with own_randomness(seed, device):
        sizes = (part.ways, part.token_dim, part.hidden, part.normalise)
        shape = TokenizerShape(collaborative.shape[1], text.shape[1], *sizes)
        tokenizer = Tokenizer(shape).to(device)
    tokenizer.mean.copy_(signals[used].mean(dim=0))
    # A feature that never varies carries nothing: divide it by one, not by nearly zero.
    std = signals[used].std(dim=0, correction=0)
    tokenizer.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=part.learning_rate)
    loop = Loop(checkpoint, {"tokenizer": tokenizer}, optimiser, generator=generator, device=device, every=keep_every)
    place = loop.place
    while place.epoch < part.epochs:
        order = torch.randperm(len(used), generator=generator, device=device)
        total = 0.0
        for batch in order.split(part.batch):  # an epoch is short: it is taken up between two, never inside one
            rows = used[batch]
            loss = tokenizer.loss(signals[rows], known_t[rows], noise, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        loop.check("the tokenizer", "tokenizer.learning_rate", total)
        values = {"loss": total / len(used)}
        loop.next_epoch(values)
        progress("tokenizer", place.epoch, part.epochs, values)
    loop.finish()
    tokenizer.eval()
    with torch.inference_mode():
        tokens = tokenizer.encode(signals, known_t)
        target = tokenizer.standardise(signals, known_t)
        found = health(tokens[used], target[used], tokenizer.decode(tokens)[used])
    return tokenizer, tokens.clone(), found
