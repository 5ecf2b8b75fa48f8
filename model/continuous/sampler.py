"""The head at serving: the same walk for several samples of one user, and the whole catalogue's softmax of them.

The plain twins are `Head.sample`, which knows nothing of users and modulates every sample anew, and
`ContinuousRecommender.score`. Here what depends on the user alone (condition, modulations) is computed once for all of
their samples, and what depends on the times alone once for all users. Weights are copied: a head that trains on
afterwards needs a new sampler.

    sampler = Sampler(head, times)
    vectors = sampler.sample(condition, anchor, noise)                      # (B, S, W)
    space = CatalogueSoftmax(vectors, bias)
    probability, log_partition = space.mixture(preference_vectors, weights)  # (B, N), (B, M)
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from model.continuous.head import Block, Head, schedule, time_features

_CHUNK = 2**20  # logits held at a time: 4 MB, which stay near the core and bound the memory of a batch


class Sampler:
    """A head and its falling times."""

    @torch.no_grad()
    def __init__(self, head: Head, times: tuple[float, ...]) -> None:
        self._head = head
        self._times = times
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
        head, hidden = self._head, self._head.shape.hidden
        batch, samples = noise.shape[:2]
        about = head.condition(condition)  # (B, hidden)
        anchor = anchor[:, None]
        x0 = anchor
        for step, (time, alpha, sigma, scale) in enumerate(self._known):
            modulations = F.linear(F.silu(time + about), self._weight, self._bias)  # (B, blocks * 3 * hidden)
            x_t = alpha * scale * head.clean(x0) + sigma * scale * noise[:, :, step]
            x = head.inputs(x_t)  # (B, S, hidden)
            for block, modulation in zip(self._blocks, modulations.split(3 * hidden, dim=1), strict=True):
                shift, factor, gate = modulation[:, None].chunk(3, dim=2)  # (B, 1, hidden)
                x = x + gate * block.mlp(block.norm(x) * (1 + factor) + shift)
            x0 = anchor + alpha * head.outputs(head.norm(x))
        return x0.expand(batch, samples, -1)


class CatalogueSoftmax:
    """Item vectors (N, W) and bias (N,), laid out so that one product gives the logits of the whole catalogue."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self._columns = vectors.T.contiguous()  # (W, N): with few queries it is 1.4 to 3 times the speed of (N, W)
        self._bias = bias.contiguous()
        self._tail = vectors.new_empty(0, vectors.shape[1] + 1)

    def with_tail(self, tail: Tensor) -> CatalogueSoftmax:
        """The same items with tail (n, W + 1), vectors and bias, behind them; what was there is not copied."""
        twin = copy.copy(self)
        twin._tail = tail
        return twin

    def mixture(self, vectors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """vectors (B, M, W), weights (M,) -> probability (B, N + n) of the weighted mixture, log partitions (B, M).

        A probability below about 1e-38 is 0.
        """
        batch, members, width = vectors.shape
        items = len(self._bias) + len(self._tail)
        together = max(1, _CHUNK // (members * items))  # users a turn
        probability = vectors.new_empty(batch, items)
        log_partition = vectors.new_empty(batch, members)
        for at in range(0, batch, together):
            softmax, partition = self._softmax(vectors[at : at + together].reshape(-1, width))
            log_partition[at : at + together] = partition.view(-1, members)
            if members == 1:
                probability[at : at + together] = softmax
            else:
                torch.matmul(weights, softmax.view(-1, members, items), out=probability[at : at + together])
        return probability, log_partition

    def _softmax(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W) -> softmax (R, N + n), log partition (R,)."""
        logits = torch.addmm(self._bias, queries, self._columns)
        if len(self._tail):
            logits = torch.cat([logits, torch.addmm(self._tail[:, -1], queries, self._tail[:, :-1].T)], dim=1)
        softmax = logits.softmax(dim=1)
        return softmax, logits.amax(dim=1) - softmax.amax(dim=1).log()
