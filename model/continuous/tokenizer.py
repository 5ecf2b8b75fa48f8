"""The sigma-VAE K-way tokenizer: an item's signals -> K continuous tokens.

It knows signals (collaborative and text embeddings, concatenated) and nothing of users, histories or files.
Sources: ContRec (arXiv 2504.12007, section on the sigma-VAE tokenizer); LatentLM (arXiv 2412.08635) for the
variance that is drawn instead of learnt.

    tokens = tokenizer.encode(signals, known)              # (N, K, D): no noise, no mask
    loss = tokenizer.loss(signals, known, generator=g)     # training: fresh mask and noise on every call
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from model.files import read_json, read_tensors, write_json


@dataclass(frozen=True, slots=True)
class TokenizerShape:
    """Sizes that the weights depend on. collaborative, text: widths of the two signal blocks.

    normalise: tokens by a LayerNorm without scale, as in all bundles from before it could be left out.
    """

    collaborative: int
    text: int
    ways: int
    token_dim: int
    hidden: int
    normalise: bool = True


@dataclass(frozen=True, slots=True)
class TokenizerNoise:
    """What makes it robust, in training only.

    sigma: standard deviation of the drawn sigma (C_sigma). feature_mask: share of features hidden, drawn per row.
    block_mask: share of rows whose whole collaborative block is hidden, so that an item with text alone is a case
    it has seen. decorrelation: weight of the term that keeps the ways apart.
    """

    sigma: float
    feature_mask: float
    block_mask: float
    decorrelation: float


class Tokenizer(nn.Module):
    """K encoders, one shared decoder on the mean of the K tokens.

    mean, std: (I,) of the signals of the items with training interactions; both are part of the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: TokenizerShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.collaborative + shape.text
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, shape.hidden),
                nn.GELU(),
                nn.Linear(shape.hidden, shape.token_dim),
                # Not affine: without a KL term mu would otherwise grow until the noise means nothing.
                nn.LayerNorm(shape.token_dim, elementwise_affine=False) if shape.normalise else nn.Identity(),
            )
            for _ in range(shape.ways)
        )
        self.decoder = nn.Sequential(
            nn.Linear(shape.token_dim, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, width)
        )

    def standardise(self, signals: Tensor, known: Tensor) -> Tensor:
        """(N, I) standardised signals; the collaborative block of items not known (N,) from training is zero."""
        x = (signals - self.mean) / self.std
        blocks = x.split([self.shape.collaborative, self.shape.text], dim=1)
        return torch.cat([blocks[0] * known[:, None].to(x.dtype), blocks[1]], dim=1)

    def encode(self, signals: Tensor, known: Tensor) -> Tensor:
        """(N, I) signals, (N,) whether the item has training interactions -> (N, K, D) tokens."""
        return self._encode(self.standardise(signals, known))

    def _encode(self, x: Tensor) -> Tensor:
        return torch.stack([encoder(x) for encoder in self.encoders], dim=1)

    def decode(self, tokens: Tensor) -> Tensor:
        """(N, K, D) tokens -> (N, I) standardised signals."""
        reconstruction: Tensor = self.decoder(tokens.mean(dim=1))
        return reconstruction

    def loss(self, signals: Tensor, known: Tensor, noise: TokenizerNoise, generator: torch.Generator) -> Tensor:
        """Reconstruction of the unmasked signals plus decorrelation between the ways; a scalar."""
        target = self.standardise(signals, known)
        mu = self._encode(self.mask(target, noise, generator))
        tokens = mu + self.draw(mu, noise, generator)
        reconstruction = F.mse_loss(self.decode(tokens), target)
        return reconstruction + noise.decorrelation * cross_correlation(mu)

    def mask(self, x: Tensor, noise: TokenizerNoise, generator: torch.Generator) -> Tensor:
        """A masked copy of (N, I); the argument is left as it is. Every row draws its own mask."""
        rows, width = x.shape
        keep = torch.rand(rows, width, generator=generator, device=x.device) >= noise.feature_mask
        keep_block = torch.rand(rows, 1, generator=generator, device=x.device) >= noise.block_mask
        keep[:, : self.shape.collaborative] &= keep_block
        return x * keep

    @staticmethod
    def draw(mu: Tensor, noise: TokenizerNoise, generator: torch.Generator) -> Tensor:
        """sigma * epsilon: sigma ~ N(0, C_sigma) per item and call, epsilon ~ N(0, 1) per element."""
        sigma = noise.sigma * torch.randn(len(mu), 1, 1, generator=generator, device=mu.device)
        return sigma * torch.randn(mu.shape, generator=generator, device=mu.device)

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors and shape.json into an existing folder."""
        save_file(self.state_dict(), folder / "weights.safetensors")
        write_json(folder / "shape.json", asdict(self.shape))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads what `save` wrote."""
        tokenizer = cls(TokenizerShape(**read_json(folder / "shape.json")))
        tokenizer.load_state_dict(read_tensors(folder / "weights.safetensors"))
        return tokenizer.eval()


def cross_correlation(tokens: Tensor) -> Tensor:
    """Mean squared correlation, over the batch, between the features of different ways of (N, K, D); 0 for K = 1."""
    ways = tokens.shape[1]
    if ways == 1 or len(tokens) < 2:
        return tokens.new_zeros(())
    x = tokens - tokens.mean(dim=0)
    x = x / x.std(dim=0).clamp(min=1e-4)
    total = tokens.new_zeros(())
    pairs = 0
    for a in range(ways):
        for b in range(a + 1, ways):
            total = total + (x[:, a].T @ x[:, b] / len(x)).square().mean()
            pairs += 1
    return total / pairs


def health(tokens: Tensor, signals: Tensor, reconstruction: Tensor, neighbours: int = 10) -> dict[str, float]:
    """Where collapse shows: numbers for the report.

    tokens (N, K, D), standardised signals (N, I) and their reconstruction (N, I). Returns the smallest and mean
    variance of a token dimension, the effective rank (exponential of the entropy of the normalised singular
    values; Roy and Vetterli 2007), the share of the signals' variance explained, and how many of an item's
    nearest neighbours by signal are still its nearest by token, on at most 2,000 items.
    """
    flat = tokens.flatten(1).double()
    variance = flat.var(dim=0, correction=0)
    values = torch.linalg.svdvals(flat - flat.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    rank = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    error = (reconstruction - signals).square().sum() / signals.square().sum().clamp(min=1e-12)
    some = torch.linspace(0, len(flat) - 1, min(len(flat), 2000)).long()
    near_signal = _nearest(signals.double(), some, neighbours)
    near_token = _nearest(flat - flat.mean(dim=0), some, neighbours)
    kept = (near_signal[:, :, None] == near_token[:, None, :]).any(dim=2).double()
    return {
        "variance_min": float(variance.min()),
        "variance_mean": float(variance.mean()),
        "effective_rank": float(rank),
        "dimensions": float(flat.shape[1]),
        "explained": float(1 - error),
        "neighbours_kept": float(kept.mean()) if kept.numel() else 0.0,  # a single item has no neighbour
    }


def _nearest(x: Tensor, some: Tensor, k: int) -> Tensor:
    unit = F.normalize(x, dim=1)
    found = []
    for part in some.split(100):  # so many lines of similarities are held at a time
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part)), part] = -2
        found.append(similarity.topk(min(k, len(x) - 1), dim=1).indices)
    return torch.cat(found)
