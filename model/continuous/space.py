"""The item space: continuous tokens -> the vectors that the trunk reads, the head denoises and the index holds.

    E_i = P(tokens_i) + r_i        P: the K tokens projected together;  r_i: a learnt residual per item
    score(i | v) = <v, E_i> + b_i  one more dimension in the index, so an inner product carries popularity for free

It knows tokens and rows; nothing of histories or of how the tokens were made. The residual is dropped for some
items in training, so that an item without one (new, known by its text alone) is a case the trunk has seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ItemSpace(nn.Module):
    """tokens: (N, K, D) from the tokenizer, frozen. width: of E."""

    tokens: Tensor

    def __init__(self, tokens: Tensor, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        items, ways, dim = tokens.shape
        self.register_buffer("tokens", tokens.flatten(1), persistent=False)  # (N, K * D)
        self.project = nn.Linear(ways * dim, width, bias=False)
        # Both halves start small: a catalogue softmax that starts confident spends its first epochs unlearning.
        nn.init.normal_(self.project.weight, std=0.02 / math.sqrt(ways * dim), generator=generator)
        self.residual = nn.Parameter(torch.randn(items, width, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.zeros(items))

    def forward(self, residual_drop: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """(N, width) the vectors E. residual_drop: share of items that go without their residual this time."""
        residual: Tensor = self.residual
        if residual_drop > 0:
            draw = torch.rand(len(residual), 1, generator=generator, device=residual.device)
            residual = residual * (draw >= residual_drop)
        vectors: Tensor = self.project(self.tokens) + residual
        return vectors
