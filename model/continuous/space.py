"""The item space: continuous tokens -> the vectors that the trunk reads, the head denoises and the index holds.

    E_i = P(tokens_i) + r_i        P: the K tokens projected together;  r_i: a learnt residual per item
    score(i | v) = <v, E_i> + b_i  one more dimension in the index, so an inner product carries popularity for free

`ItemSpace` is ContRec's, `TextSpace` the text half's, `TableSpace` a plain SASRec's. They know tokens and rows; nothing
of histories or of how the tokens were made. An item that is new, known by its text alone, goes without residual. To
drop the residual of some items in training, so that this is a case the trunk has seen, harms the known items and the
new ones too (docs/quality.md, New items).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Space(nn.Module):
    """What the trunk is trained with: vectors for all items, and a bias each."""

    bias: nn.Parameter  # (N,)

    def forward(self) -> Tensor:
        """(N, width) the vectors E."""
        raise TypeError(f"{type(self).__name__} makes no vectors")

    def placed(self) -> Tensor | None:
        """(N, width) where each item would lie if it were new; None where nothing is said of items."""
        return None


class ItemSpace(Space):
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

    def forward(self) -> Tensor:
        """(N, width) the vectors E."""
        return self.placed() + self.residual

    def placed(self) -> Tensor:
        vectors: Tensor = self.project(self.tokens)
        return vectors


class TextSpace(Space):
    """The item space of the text half: E_i from the item's words alone, so that a new item lies where it belongs.

        E_i = P x_i + MLP(x_i) [+ r_i]    x: the text embedding, centred and scaled as the training catalogue has it

    Without residual, what cannot be said from the text is the behaviour half's affair. With it, items that say little
    but are met often (films of a few genres) have a vector of their own here too, and a new one has its words alone.
    text: (N, 1, D) unit vectors of the encoder, frozen. The linear map keeps what texts have in common; the hidden
    layer lets training bend it to what is bought together.
    """

    text: Tensor

    def __init__(self, text: Tensor, width: int, *, hidden: int = 512, residual: bool = False) -> None:
        super().__init__()
        flat = text.flatten(1)  # (N, D)
        self.register_buffer("text", flat, persistent=False)
        self.place = TextPlace(flat.shape[1], width, hidden)
        self.place.mean.copy_(flat.mean(dim=0))
        # One scale for all dimensions: how much a direction varies is what the encoder says of its weight. Unit vectors
        # vary by up to 1 / sqrt(D); where they hardly do (all items of one text), a new item's must not be blown up.
        least = 0.1 / math.sqrt(flat.shape[1])
        self.place.scale.copy_((flat - self.place.mean).square().mean().sqrt().clamp(min=least))
        self.bias = nn.Parameter(torch.zeros(len(flat)))
        self.residual = nn.Parameter(torch.randn(len(flat), width) * 0.02) if residual else None

    def forward(self) -> Tensor:
        """(N, width) the vectors E."""
        return self.placed() if self.residual is None else self.placed() + self.residual

    def placed(self) -> Tensor:
        vectors: Tensor = self.place(self.text)
        return vectors


class TextPlace(nn.Module):
    """The map from a text embedding to the text half's item space, which new items go through too."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(dim, width, bias=False)
        out = nn.Linear(hidden, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), out)
        # Small, as in ItemSpace: about .02 an element of E, to which both maps give their share.
        nn.init.normal_(self.linear.weight, std=0.02 / math.sqrt(dim))
        nn.init.normal_(out.weight, std=0.02 / math.sqrt(hidden))

    def forward(self, text: Tensor) -> Tensor:
        """(n, D) unit vectors of the encoder -> (n, width)."""
        x = (text - self.mean) / self.scale
        placed: Tensor = self.linear(x) + self.mlp(x)
        return placed


class TableSpace(Space):
    """One free vector an item and nothing else: the space of a plain SASRec, kept as the baseline it is."""

    def __init__(self, tokens: Tensor, width: int) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.randn(len(tokens), width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(len(tokens)))

    def forward(self) -> Tensor:
        """(N, width) the vectors E."""
        vectors: Tensor = self.residual
        return vectors
