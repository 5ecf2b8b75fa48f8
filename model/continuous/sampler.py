"""The head at serving: the same walk for several samples of one user.

The plain twin is `Head.sample`, which knows nothing of users and modulates every sample anew. Here what depends on the
user alone (condition, modulations) is computed once for all of their samples, and what depends on the times alone once
for all users. Weights are copied: a head that trains on afterwards needs a new sampler.

    sampler = Sampler(head, times)
    vectors = sampler.sample(condition, anchor, noise)                      # (B, S, W)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.continuous.head import Block, Head, guided, schedule, time_features


class Sampler:
    """A head, its falling times and how far it is guided."""

    @torch.no_grad()
    def __init__(self, head: Head, times: tuple[float, ...], guidance: float = 1.0) -> None:
        self._head = head
        self._guidance = guidance
        self._nobody = head.condition(head.nobody[:1])  # (1, hidden)
        self._blocks = [block for block in head.blocks if isinstance(block, Block)]
        self._weight = torch.cat([block.modulation.weight for block in self._blocks])
        self._bias = torch.cat([block.modulation.bias for block in self._blocks])
        device = self._bias.device
        self._known = []
        for time in times:
            t = torch.full((1,), time, device=device)
            alpha, sigma = schedule(t)
            variance = (alpha * head.shape.norm).square() / head.shape.width + sigma.square()
            self._known.append(
                (head.time(time_features(t, head.shape.hidden)), float(alpha), float(sigma), float(variance.rsqrt()))
            )

    def sample(self, condition: Tensor, anchor: Tensor, noise: Tensor) -> Tensor:
        """condition, anchor (B, W), noise (B, S, T, W) -> preference vectors (B, S, W), as `Head.sample` for each."""
        head = self._head
        batch, samples = noise.shape[:2]
        about = head.condition(condition)  # (B, hidden)
        anchor = anchor[:, None]
        x0 = anchor
        for step, (_, alpha, sigma, scale) in enumerate(self._known):
            x_t = alpha * scale * head.clean(x0) + sigma * scale * noise[:, :, step]
            x0 = self._estimate(step, x_t, about, anchor)
            if self._guidance != 1:
                x0 = guided(x0, self._estimate(step, x_t, self._nobody, head.nobody[1:]), self._guidance)
        return x0.expand(batch, samples, -1)

    def _estimate(self, step: int, x_t: Tensor, about: Tensor, anchor: Tensor) -> Tensor:
        """x_t (B, S, W) of unit variance, about (B or 1, hidden), anchor (B, 1, W) or (1, W) -> x0_hat (B, S, W)."""
        head, hidden = self._head, self._head.shape.hidden
        time, alpha, _, _ = self._known[step]
        modulations = F.linear(F.silu(time + about), self._weight, self._bias)  # (B or 1, blocks * 3 * hidden)
        x = head.inputs(x_t)  # (B, S, hidden)
        for block, modulation in zip(self._blocks, modulations.split(3 * hidden, dim=1), strict=True):
            shift, factor, gate = modulation[:, None].chunk(3, dim=2)  # (B or 1, 1, hidden)
            x = x + gate * block.mlp(block.norm(x) * (1 + factor) + shift)
        estimate: Tensor = anchor + alpha * head.outputs(head.norm(x))
        return estimate
