"""The diffusion head: block, losses and sampler of anchored denoising.

    x0_hat(x_t, t, h) = g(h) + a(t) * f(x_t, t, h),    a(t) = alpha_t,  a(1) = 0

so that at t = 1, where x_t is pure noise, the head *is* the trunk's vector g(h): by construction, not only at
initialisation. f is a residual MLP modulated by time and condition (AdaLN-zero; Peebles and Xie 2023, as the
per-token head of Li et al. 2024, "MAR"), x0-predicting, on a variance-preserving cosine schedule.

It knows vectors: no items, no histories, no files. Noise always comes from outside, so that a request's seed
decides and a batch gives what its members give alone. Dispersive loss: Wang and He 2025 (arXiv 2506.09027).

Guidance (Ho and Salimans 2022, arXiv 2207.12598): some training rows lose their condition and anchor to two learnt
vectors, those of nobody in particular, and a guided estimate goes further the way that the condition points:
nobody + guidance * (conditional - nobody), at the length of the conditional one, so that no softmax gets sharper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Sizes that the weights depend on, and the scale of the clean vector.

    width: of item vectors and conditions; hidden: of the blocks. norm: length of x0 against noise of unit variance
    per element. Kept between 1 and about 4: at sqrt(width) a noisy vector would still name its item, and the head
    could learn to ignore the condition.
    """

    width: int
    hidden: int
    blocks: int
    norm: float


def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """Times (...,) in [0, 1] -> alpha_t, sigma_t with alpha^2 + sigma^2 = 1; t = 1 is pure noise."""
    quarter = math.pi / 2
    # The sine of the rest, not a cosine: in float32 cos(pi / 2) is not zero, and a(1) = 0 is meant to the bit.
    return torch.sin((1 - t) * quarter), torch.sin(t * quarter)


def draw_times(rows: int, shift: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """(rows,) training times; shift > 1 moves them towards noise, where the condition has to be used."""
    u = torch.rand(rows, generator=generator, device=device)
    return shift * u / (1 + (shift - 1) * u)


class Block(nn.Module):
    """A residual MLP whose normalisation is modulated. The gate starts at zero: every block starts as identity."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))
        self.modulation = nn.Linear(hidden, 3 * hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, hidden), c (B, hidden) -> (B, hidden)."""
        shift, scale, gate = self.modulation(F.silu(c)).chunk(3, dim=-1)
        out: Tensor = x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)
        return out


class Head(nn.Module):
    """f and the anchored prediction. The output layer starts at zero, so an untrained head is the trunk."""

    DISPERSED_BLOCK = 1  # the second block; the loss needs an activation, not the output

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        hidden = shape.hidden
        self.time = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.condition = nn.Linear(shape.width, hidden)
        self.nobody = nn.Parameter(torch.zeros(2, shape.width))  # condition and anchor without a history
        self.inputs = nn.Linear(shape.width, hidden)
        self.blocks = nn.ModuleList(Block(hidden) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.outputs = nn.Linear(hidden, shape.width)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """x_t (B, W), t (B,), condition h (B, W), anchor g(h) (B, W) -> x0_hat (B, W), activation (B, hidden)."""
        f, activation = self.residual(x_t, t, condition)
        return anchor + schedule(t)[0][:, None] * f, activation

    def residual(self, x_t: Tensor, t: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """f(x_t, t, h) itself (B, W), which `forward` fades out towards pure noise, and the activation (B, hidden)."""
        alpha, sigma = schedule(t)
        variance = (alpha * self.shape.norm).square() / self.shape.width + sigma.square()
        x = self.inputs(x_t / variance.sqrt()[:, None])  # unit variance at every t
        c = self.time(time_features(t, self.shape.hidden)) + self.condition(condition)
        activation = x
        for number, block in enumerate(self.blocks):
            x = block(x, c)
            if number == min(self.DISPERSED_BLOCK, len(self.blocks) - 1):
                activation = x
        return self.outputs(self.norm(x)), activation

    def anonymous(self, condition: Tensor, anchor: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """condition, anchor (B, W) with those of nobody where rows (B,) is True: what guidance is trained on."""
        some = rows[:, None]
        return torch.where(some, self.nobody[0], condition), torch.where(some, self.nobody[1], anchor)

    def clean(self, vectors: Tensor) -> Tensor:
        """Item or preference vectors (..., W) -> x0: the same direction at the length the schedule is made for."""
        return F.normalize(vectors, dim=-1) * self.shape.norm

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t noise; x0 (B, W) as `clean` gives it, t (B,), noise (B, W)."""
        alpha, sigma = schedule(t)
        return alpha[:, None] * x0 + sigma[:, None] * noise

    def sample(
        self, condition: Tensor, anchor: Tensor, noise: Tensor, times: tuple[float, ...], guidance: float = 1.0
    ) -> Tensor:
        """Preference vectors (B, W): at each of the falling times below 1 the last one is noised anew and denoised.

        Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Algorithm 1), not ancestral sampling: a step
        keeps the clean estimate of the one before and nothing of its noise.
        noise: (B, len(times), W), one fresh draw for each time. The step at t = 1 is g(h) itself and costs
        nothing; each time after it costs one pass of f, two where guidance is not 1. No times: g(h).
        """
        return self.walk(condition, anchor, noise, times, guidance)[-1]

    def walk(
        self, condition: Tensor, anchor: Tensor, noise: Tensor, times: tuple[float, ...], guidance: float = 1.0
    ) -> list[Tensor]:
        """The steps of `sample`: 1 + len(times) clean estimates (B, W), the first of them g(h)."""
        if noise.shape[1] != len(times):
            raise ValueError(f"{len(times)} times need as many draws of noise, not {noise.shape[1]}")
        steps = [anchor]
        nobody = self.nobody[:, None].expand(2, *condition.shape)
        for step, time in enumerate(times):
            t = torch.full((len(condition),), time, device=condition.device)
            x_t = self.noised(self.clean(steps[-1]), t, noise[:, step])
            x0, _ = self(x_t, t, condition, anchor)
            if guidance != 1:
                x0 = guided(x0, self(x_t, t, *nobody)[0], guidance)
            steps.append(x0)
        return steps


def guided(conditional: Tensor, nobody: Tensor, guidance: float) -> Tensor:
    """Two estimates (..., W) -> the first moved away from the second, its length kept."""
    moved = nobody + guidance * (conditional - nobody)
    kept: Tensor = F.normalize(moved, dim=-1) * conditional.norm(dim=-1, keepdim=True)
    return kept


def time_features(t: Tensor, width: int) -> Tensor:
    """(B,) times in [0, 1] -> (B, width) sines and cosines (Vaswani et al. 2017), periods 1/1000 to 10 of the range."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = 1000 * t[:, None] * frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(features, (0, width - 2 * half))


def direction_loss(x0_hat: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Mean of w(t) * (1 - cos(x0_hat, x0)), w = alpha_t: very noisy draws cannot know the item and count less."""
    alpha, _ = schedule(t)
    return (alpha * (1 - F.cosine_similarity(x0_hat, x0, dim=-1))).mean()


def dispersive_loss(activation: Tensor, temperature: float = 0.5, rows: int = 1024) -> Tensor:
    """log mean_ij exp(-||u_i - u_j||^2 / temperature) of (B, D), u = z / ||z||, i = j included; to minimise.

    InfoNCE form with squared L2 distance (Wang and He 2025, arXiv 2506.09027, Table 1), of directions: whatever reads
    the activation normalises it first, so of raw rows a larger scale alone would reach the floor and disperse nothing.
    The squared distance is 2 - 2 cos whatever D is: 0 for one point, 2 for right angles, so the loss of many rows at
    right angles is -2 / temperature. At most `rows` rows enter: it is quadratic.
    """
    u = F.normalize(activation[:rows], dim=1)
    distance = 2 - 2 * u @ u.T
    return torch.logsumexp((-distance / temperature).flatten(), dim=0) - math.log(distance.numel())
