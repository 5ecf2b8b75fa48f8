"""Cross-entropy over the whole catalogue, without ever holding the logits of a batch for autograd.

    loss = catalogue_cross_entropy(vectors, items, bias, targets)
    loss = catalogue_cross_entropy(vectors, items, bias, targets, without=batch.seen())

What it computes is F.cross_entropy(vectors @ items.T + bias, targets), and a test holds it to that; items that a
position does without have a logit of -inf there. Gradients are
made in the forward pass, chunk by chunk: on a CPU that is several times as fast as the plain form, which spends most
of its time in fresh pages for (positions, items) matrices. `bench/training/softmax.py` measures the two side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.stages.precision import product_dtype

_CHUNK_ELEMENTS = 12_000_000  # of one (rows, items) buffer: 24 MB in bf16


@dataclass(frozen=True, slots=True)
class Without:
    """Items that positions do without, but for their target.

    positions (S,), ascending, and rows (S,): one by one. groups: positions (n,) and rows (m,), each of the former
    without each of the latter: in pairs, what was met before a window of 200 by who has met 10,000 is two millions.
    """

    positions: Tensor
    rows: Tensor
    groups: Sequence[tuple[Tensor, Tensor]] = ()

    def to(self, device: torch.device) -> Without:
        """On another device."""
        groups = [(positions.to(device), rows.to(device)) for positions, rows in self.groups]
        return Without(self.positions.to(device), self.rows.to(device), groups)

    def places(self, start: int, end: int, items: int) -> Iterator[Tensor]:
        """Where in flattened logits (end - start, items) of those positions, in parts."""
        bounds = torch.tensor([start, end], device=self.positions.device)
        first, last = torch.searchsorted(self.positions, bounds).tolist()
        yield (self.positions[first:last] - start) * items + self.rows[first:last]
        for positions, rows in self.groups:
            inside = positions[(positions >= start) & (positions < end)] - start
            yield (inside[:, None] * items + rows).flatten()


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        items: Tensor,
        bias: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        without: Without | None,
    ) -> Tensor:
        positions, width = vectors.shape
        rows = _chunk(positions, max(1, _CHUNK_ELEMENTS // len(items)))
        ones = vectors.new_ones(positions, 1)
        left = torch.cat([vectors.detach(), ones], dim=1).to(dtype)  # (P, W + 1): the bias rides in the product
        left = F.pad(left, (0, 0, 0, -positions % rows))  # rows of zeros: they add nothing to any gradient
        right = torch.cat([items.detach(), bias.detach()[:, None]], dim=1).to(dtype)  # (N, W + 1)
        right_t = right.T.contiguous()
        item_vectors = right[:, :width].contiguous()
        logits_buffer = right.new_empty(rows, len(items))
        probability_buffer = right.new_empty(rows, len(items))
        grad_vectors = vectors.new_empty(positions, width)
        grad_right_t = vectors.new_zeros(width + 1, len(items))
        loss = vectors.new_zeros(())
        for start in range(0, positions, rows):
            end = min(start + rows, positions)
            logits = torch.mm(left[start : start + rows], right_t, out=logits_buffer)
            wanted = (torch.arange(end - start, device=logits.device), targets[start:end])
            if without is not None:
                right_answers = logits[wanted]
                for places in without.places(start, end, len(items)):
                    logits.view(-1).index_fill_(0, places, -torch.inf)
                logits[wanted] = right_answers
            p = torch.softmax(logits, dim=1, out=probability_buffer)
            chosen = p[wanted].float()
            loss -= chosen.clamp(min=1e-30).log().sum()
            p[wanted] = (chosen - 1).to(dtype)  # d loss / d logits, in place
            grad_vectors[start:end] = (p @ item_vectors)[: end - start]
            grad_right_t += left[start : start + rows].T.contiguous() @ p  # a product with p.T takes twice as long
        grad_right_t /= positions
        ctx.save_for_backward(grad_vectors / positions, grad_right_t)
        return loss / positions

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad_vectors, grad_right_t = ctx.saved_tensors
        width = grad_vectors.shape[1]
        return grad_vectors * grad, grad_right_t[:width].T * grad, grad_right_t[width] * grad, None, None, None


def _chunk(positions: int, most: int) -> int:
    """Rows of each of as few chunks as there may be, which are alike: a multiple of 64 where there are more than that.

    Chunks of all sizes would have code made for each (`trunk.few_sizes`).
    """
    rows = math.ceil(positions / math.ceil(positions / most))
    return min(most, 64 * math.ceil(rows / 64)) if rows > 64 else max(1, rows)


def catalogue_cross_entropy(
    vectors: Tensor, items: Tensor, bias: Tensor, targets: Tensor, *, bf16: bool = False, without: Without | None = None
) -> Tensor:
    """Mean over P positions of -log softmax(vectors @ items.T + bias)[target]; a scalar.

    vectors (P, W), items (N, W), bias (N,), targets (P,) rows. without: see `Without`. bf16: matrix products and
    probabilities in bfloat16 where the device has units for it, sums in float32; the gradient then differs from the
    plain form's by a few tenths of a percent.
    """
    dtype = product_dtype(vectors.device, bf16)
    loss: Tensor = _CatalogueCrossEntropy.apply(vectors, items, bias, targets, dtype, without)  # type: ignore[no-untyped-call]
    return loss
