"""Histories -> the newest states of each, which is all that the decoder reads of them.

    states, real = newest_states(encoder, vectors, histories, shape)       # (B, M, W) newest first, (B, M) bool

Histories of like length are read together: a batch with one long history would pad all others to it. What comes out
for a history is the same, up to rounding, whoever is read beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.catalogue import Rows
from model.semantic.network import Encoder, SemanticShape

TOGETHER = 8  # histories a pass: few enough that lengths differ little, enough to fill a matrix product


def newest_states(
    encoder: Encoder, vectors: Tensor, histories: Sequence[Rows], shape: SemanticShape, together: int = TOGETHER
) -> tuple[Tensor, Tensor]:
    """vectors (N, W) V; histories of any length, of which the last `max_history` rows are read."""
    tails = [history[-shape.max_history :] for history in histories]
    order = np.argsort([len(tail) for tail in tails], kind="stable")
    states = vectors.new_zeros(len(tails), shape.memory, shape.width)
    real = torch.zeros(len(tails), shape.memory, dtype=torch.bool, device=vectors.device)
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        lengths = torch.tensor([len(tails[n]) for n in chosen], device=vectors.device)
        rows = np.zeros((len(chosen), len(tails[chosen[-1]])), dtype=np.int64)
        for line, n in enumerate(chosen):
            rows[line, : len(tails[n])] = tails[n]
        read = encoder(vectors[torch.from_numpy(rows).to(vectors.device)])  # (b, L + 1, W)
        index = lengths[:, None] - torch.arange(shape.memory, device=vectors.device)
        line_of = torch.arange(len(chosen), device=vectors.device)[:, None]
        where = torch.from_numpy(chosen).to(vectors.device)
        real[where] = index >= 0
        states[where] = (read[line_of, index.clamp(min=0)] * (index >= 0)[..., None]).to(states.dtype)
    return states, real
