"""Which items can be among the best: every inner product in 8 bits, with a proven bound on its error.

Reading 100,000 item vectors of float32 costs several milliseconds, whatever is computed with them. A sieve keeps them
once more in one byte a dimension (each item with a scale of its own) and multiplies those with a query of as many
bytes. What rounding did to either is known, so by Cauchy and Schwarz no product is off by more than

    |approximate - exact|  <=  |query| * |item - rounded item|  +  |query - rounded query| * |rounded item|

An item whose approximate score plus this slack stays below the k-th best score minus *its* slack cannot be among the
k best. What is left, a few more than k, is scored exactly (`continuous/retrieval.py`). Knows no index and no taste.

    sieve = make_sieve(matrix)            # (N, W + 1) vectors and, last, a bias
    logits = sieve.logits(queries)        # (R, W) -> (R, N)
    slack = sieve.slack(queries)          # (N,): the greatest error of any of the queries

`PlainSieve` is the plain twin: the exact product. It serves on a GPU, and where the processor's 8-bit products
overflow (x86 without VNNI adds pairs in 16 bits).
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.catalogue import Mask, Rows
from model.growing import Growing
from model.recommender import Floats

_TOP = 127  # the greatest code
_TWO_CORES = 50_000
"""Items from which half of the product is another thread's, where torch has one thread and the process two cores."""

_FLOAT = 1e-4
"""Slack for what float32 does to a logit of a few dozen, and to its exponential and logarithm."""


class Sieve(Protocol):
    """What a recommender asks."""

    def __len__(self) -> int:
        """N, the items."""

    def logits(self, queries: Tensor) -> Tensor:
        """queries (R, W) -> (R, N): <query, vector> + bias, each within `slack`."""

    def slack(self, queries: Floats) -> Floats:
        """queries (M, W) -> (N,): how far the logit of an item may be off, at most, for any of them."""

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> Sieve:
        """With `added` (n, W + 1) behind the others and `rows` (m,) replaced. This one stays as it is."""


def make_sieve(matrix: Floats, device: torch.device) -> Sieve:
    """matrix: (N, W + 1), vectors and bias. In 8 bits where that is exact and quick, else the plain product."""
    wide = matrix.shape[1] > 2  # of a single column torch 2.13 reads the wrong bytes
    if device.type == "cpu" and wide and bytes_multiply_exactly():
        return ByteSieve(matrix)
    return PlainSieve(matrix, device)


@functools.cache
def bytes_multiply_exactly() -> bool:
    """Whether this processor's product of the greatest codes is right."""
    codes = torch.full((16, 256), _TOP, dtype=torch.int8)
    codes[::2] = -_TOP
    product = torch._int_mm(codes[:2], codes.T)
    return bool((product == codes[:2].long() @ codes.T.long()).all())


class ByteSieve:
    """See the module."""

    def __init__(self, matrix: Floats) -> None:
        codes, scale, lost, kept = rounded(matrix[:, :-1])
        self._codes, self._scale, self._lost, self._kept = Growing(codes), Growing(scale), Growing(lost), Growing(kept)
        self._bias = Growing(np.ascontiguousarray(matrix[:, -1]))
        self._longest = _longest(matrix)

    def __len__(self) -> int:
        return len(self._codes)

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> ByteSieve:
        new, moved = rounded(added[:, :-1]), rounded(replaced[:, :-1])
        grown = ByteSieve.__new__(ByteSieve)
        grown._codes = self._codes.extended(new[0], rows, moved[0])
        grown._scale = self._scale.extended(new[1], rows, moved[1])
        grown._lost = self._lost.extended(new[2], rows, moved[2])
        grown._kept = self._kept.extended(new[3], rows, moved[3])
        grown._bias = self._bias.extended(added[:, -1], rows, replaced[:, -1])
        grown._longest = max(self._longest, _longest(added), _longest(replaced))
        return grown

    def logits(self, queries: Tensor) -> Tensor:
        codes, scale = _rounded_queries(queries)
        products = _multiplied(codes, torch.from_numpy(self._codes.view)).float()  # (R, N), exact until here
        bias, of_items = torch.from_numpy(self._bias.view), torch.from_numpy(self._scale.view)
        return torch.addcmul(bias, products.mul_(scale), of_items)

    def slack(self, queries: Floats) -> Floats:
        given = torch.from_numpy(queries)
        codes, scale = _rounded_queries(given)
        length = float(np.linalg.norm(queries, axis=1).max())
        off = float((given - codes * scale).norm(dim=1).max())
        rest = length * self._longest * queries.shape[1] * 2.0**-23  # float32's own
        slack: Floats = length * self._lost.view + off * self._kept.view + (rest + _FLOAT)
        return slack


def _multiplied(queries: Tensor, items: Tensor) -> Tensor:
    """(R, W) and (N, W) int8 -> (R, N) int32. What a large catalogue costs is reading it, which two cores do faster."""
    if len(items) < _TWO_CORES or torch.get_num_threads() > 1 or len(os.sched_getaffinity(0)) < 2:
        return torch._int_mm(queries, items.T)
    half = len(items) // 2
    behind = _other_core().submit(torch._int_mm, queries, items[half:].T)
    before = torch._int_mm(queries, items[:half].T)
    return torch.cat([before, behind.result()], dim=1)


@functools.cache
def _other_core() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "sieve", initializer=torch.set_num_threads, initargs=(1,))


def _rounded_queries(queries: Tensor) -> tuple[Tensor, Tensor]:
    """(R, W) -> codes (R, W) int8, scale (R, 1)."""
    scale = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / _TOP
    return (queries / scale).round().to(torch.int8), scale


class PlainSieve:
    """The plain twin."""

    def __init__(self, matrix: Floats, device: torch.device) -> None:
        self._matrix, self._device = Growing(matrix), device
        self._on_device = torch.from_numpy(self._matrix.view).to(device)

    def __len__(self) -> int:
        return len(self._matrix)

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> PlainSieve:
        grown = PlainSieve.__new__(PlainSieve)
        grown._matrix, grown._device = self._matrix.extended(added, rows, replaced), self._device
        grown._on_device = torch.from_numpy(grown._matrix.view).to(self._device)
        return grown

    def logits(self, queries: Tensor) -> Tensor:
        return torch.addmm(self._on_device[:, -1], queries, self._on_device[:, :-1].T)

    def slack(self, queries: Floats) -> Floats:
        length = np.float32(np.linalg.norm(queries, axis=1).max())
        rest = length * _longest(self._matrix.view) * queries.shape[1] * 2.0**-23
        return np.full(len(self._matrix), rest + _FLOAT, dtype=np.float32)


def rounded(vectors: Floats) -> tuple[NDArray[np.int8], Floats, Floats, Floats]:
    """(N, W) -> codes (N, W) int8, scale (N,), the length of what rounding lost (N,) and of what it kept (N,)."""
    scale = np.abs(vectors).max(axis=1, initial=0) / np.float32(_TOP)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    codes = np.rint(vectors / scale[:, None]).astype(np.int8)
    kept = codes * scale[:, None]
    lost = np.linalg.norm(vectors - kept, axis=1).astype(np.float32)
    return codes, scale, lost, np.linalg.norm(kept, axis=1).astype(np.float32)


def possible(scores: Floats, slack: Floats, eligible: Mask, k: int, *, least: float) -> Mask:
    """Which eligible (N,) items may be among the k best when each score (N,) is right to within its slack (N,).

    least: a score below it is known to be below it, and no more.
    """
    k = min(k, int(np.count_nonzero(eligible)))
    if k == 0:
        return np.zeros_like(eligible)
    surely = np.where(eligible & (scores >= least), scores - slack, np.float32(-np.inf))
    threshold = np.partition(surely, len(surely) - k)[len(surely) - k]
    candidates: Mask = eligible & (np.maximum(scores, np.float32(least)) + slack >= threshold)
    return candidates


def _longest(matrix: Floats) -> float:
    """The greatest length of a vector with its bias; 0 of none."""
    return float(np.linalg.norm(matrix, axis=1).max(initial=0))
