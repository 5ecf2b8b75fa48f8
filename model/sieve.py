"""Which items can be among the best: every inner product in 8 bits, with a proven bound on its error.

Reading 100,000 item vectors of float32 costs several milliseconds, whatever is computed with them. A sieve keeps them
once more in one byte a dimension (each item with a scale of its own) and multiplies those with a query of as many
bytes. What rounding did to either is known, so by Cauchy and Schwarz no product is off by more than

    |approximate - exact|  <=  |query| * |item - rounded item|  +  |query - rounded query| * |rounded item|

The k items of the best approximate scores are each at least that score minus its slack; an item whose approximate
score plus its slack stays below the least of those cannot be among the k best. What is left, a few more than k, is
scored exactly (`continuous/retrieval.py`). Knows no index and no taste.

    sieve = make_sieve(matrix)                       # (N, W + 1) vectors and, last, a bias
    logits = sieve.logits(queries)                   # (R, W) -> (R, N)
    slack = sieve.slack(queries)                     # the greatest error of any of the queries, item by item

The bytes are packed once, in the order in which the processor multiplies them: torch's ordinary product of bytes packs
them anew at every call, which costs more than the product.

An x86 processor without VNNI adds pairs of products in 16 bits. Items have codes of 7 bits there, so that no pair
overflows, and the bound is twice as wide.

`PlainSieve` is the plain twin: the exact product. It serves on a GPU, and where torch has no packed products of bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.catalogue import Mask, Rows
from model.growing import Growing
from model.recommender import Floats, best

_TOP = 127  # the greatest code of a query
_TOPS = (127, 63)  # the greatest code of an item: the first with which products are right
_ZERO = 128  # a query's zero as an unsigned byte
_APART = 1024  # so many items are packed within a millisecond
_FLOAT = 1e-4
"""Slack for what float32 does to a logit of a few dozen, and to its exponential and logarithm."""


_NOTHING: Rows = np.zeros(0, dtype=np.int64)
_Of: TypeAlias = "Callable[[Rows | slice], tuple[NDArray[np.int8], Floats]]"


@dataclass(frozen=True, slots=True)
class Slack:
    """How far scores may be off. of: rows (n,) -> (n,); most: that of any item."""

    of: Callable[[Rows], Floats]
    most: float

    def plus(self, other: Slack, weight: float) -> Slack:
        """Of the first score + weight * the second."""
        return Slack(lambda rows: self.of(rows) + np.float32(weight) * other.of(rows), self.most + weight * other.most)


class Sieve(Protocol):
    """What a recommender asks."""

    def __len__(self) -> int:
        """N, the items."""

    def logits(self, queries: Tensor) -> Tensor:
        """queries (R, W) -> (R, N): <query, vector> + bias, each within `slack`."""

    def slack(self, queries: Floats) -> Slack:
        """queries (M, W): how far the logit of an item may be off, at most, for any of them."""

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> Sieve:
        """With `added` (n, W + 1) behind the others and `rows` (m,) replaced. This one stays as it is."""


def make_sieve(matrix: Floats, device: torch.device) -> Sieve:
    """matrix: (N, W + 1), vectors and bias. In bytes where those multiply exactly, else the plain product."""
    if device.type == "cpu" and greatest_code():
        return ByteSieve(matrix, greatest_code())
    return PlainSieve(matrix, device)


@functools.cache
def greatest_code() -> int:
    """The greatest code of an item with which this processor's products of bytes are right; 0 where torch has none.

    127 with VNNI. Without, a sum of two products must fit in 16 bits: 2 * 255 * 63 does.
    """
    return next((top for top in _TOPS if _exact(top)), 0)


def _exact(top: int) -> bool:
    """Whether products are right where they are greatest: of bytes at either end with codes at either end."""
    codes = torch.full((16, 256), top, dtype=torch.int8)
    codes[::2] = -top
    queries = torch.full((2, 256), _TOP, dtype=torch.int8)
    queries[0] = -_TOP
    try:
        product = _Packed(codes.numpy(), np.ones(len(codes), dtype=np.float32)).products(queries)
    except (AttributeError, RuntimeError):  # the operator is oneDNN's: not every build of torch has it
        return False
    return bool((product == queries.float() @ codes.T.float()).all())


class _Packed:
    """Codes (n, W) int8 with their scale (n,), in the order in which the processor multiplies them."""

    def __init__(self, codes: NDArray[np.int8], scale: Floats) -> None:
        self._codes = torch.ops.onednn.qlinear_prepack(torch.from_numpy(codes), None)
        self._scale = torch.from_numpy(scale)
        self._zero = torch.zeros(len(codes), dtype=torch.int32)

    def products(self, queries: Tensor) -> Tensor:
        """queries (R, W) int8 -> (R, n) float32: each product, exact in integers, times its item's scale."""
        moved = queries.view(torch.uint8) ^ _ZERO  # x86 has no quick product of two signed bytes before AMX
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            moved, 1.0, _ZERO, self._codes, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return found


class _Packs:
    """Most codes packed together; what was added or replaced since is packed apart, until it is much: packing 100,000
    items takes some fifty milliseconds.

    of: the codes and scales of some rows. total: how many there are.
    """

    def __init__(self, of: _Of, total: int, before: _Packs | None = None, replaced: Rows = _NOTHING) -> None:
        """before: what held the first of these rows, some of which have been replaced since."""
        self._total, self._since = total, _NOTHING
        if before is not None:
            self._since = np.union1d(before._since, np.union1d(replaced, np.arange(before._total, total)))
        if before is None or len(self._since) > max(_APART, total // 16):
            self._packed, self._since = _Packed(*of(slice(None))), _NOTHING
        else:
            self._packed = before._packed
        self._apart = _Packed(*of(self._since)) if len(self._since) else None

    def products(self, queries: Tensor) -> Tensor:
        """queries (R, W) int8 -> (R, total) float32."""
        products = self._packed.products(queries)
        if self._apart is not None:
            products = F.pad(products, (0, self._total - products.shape[1]))
            products[:, torch.from_numpy(self._since)] = self._apart.products(queries)
        return products


@dataclass(frozen=True, slots=True)
class _Most:
    """Of any item, one replaced since included: its length with its bias, what rounding lost of it and what it kept."""

    length: float
    lost: float
    kept: float

    @classmethod
    def of(cls, matrix: Floats, lost: Floats, kept: Floats) -> _Most:
        return cls(_longest(matrix), float(lost.max(initial=0)), float(kept.max(initial=0)))

    def or_of(self, other: _Most) -> _Most:
        return _Most(max(self.length, other.length), max(self.lost, other.lost), max(self.kept, other.kept))


class ByteSieve:
    """See the module."""

    def __init__(self, matrix: Floats, top: int) -> None:
        """top: the greatest code of an item (`greatest_code`)."""
        self._top = top
        codes, scale, lost, kept = rounded(matrix[:, :-1], top)
        self._codes, self._scale, self._lost, self._kept = Growing(codes), Growing(scale), Growing(lost), Growing(kept)
        self._bias = Growing(np.ascontiguousarray(matrix[:, -1]))
        self._most = _Most.of(matrix, lost, kept)
        self._packs = _Packs(self._of, len(self))

    def _of(self, rows: Rows | slice) -> tuple[NDArray[np.int8], Floats]:
        return self._codes.view[rows], self._scale.view[rows]

    def __len__(self) -> int:
        return len(self._codes)

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> ByteSieve:
        new, moved = rounded(added[:, :-1], self._top), rounded(replaced[:, :-1], self._top)
        grown = ByteSieve.__new__(ByteSieve)
        grown._top = self._top
        grown._codes = self._codes.extended(new[0], rows, moved[0])
        grown._scale = self._scale.extended(new[1], rows, moved[1])
        grown._lost = self._lost.extended(new[2], rows, moved[2])
        grown._kept = self._kept.extended(new[3], rows, moved[3])
        grown._bias = self._bias.extended(added[:, -1], rows, replaced[:, -1])
        grown._most = self._most.or_of(_Most.of(added, *new[2:])).or_of(_Most.of(replaced, *moved[2:]))
        grown._packs = _Packs(grown._of, len(grown), self._packs, rows)
        return grown

    def logits(self, queries: Tensor) -> Tensor:
        codes, scale = _query_codes(queries)
        products = self._packs.products(codes)  # (R, N)
        return torch.addcmul(torch.from_numpy(self._bias.view), products, scale, out=products)

    def slack(self, queries: Floats) -> Slack:
        width = queries.shape[1]
        length = float(np.linalg.norm(queries, axis=1).max())
        off = float(np.abs(queries).max()) * math.sqrt(width) / (2 * _TOP)  # half a step in each dimension
        rest = length * self._most.length * width * 2.0**-23 + _FLOAT  # float32's own
        lost, kept = self._lost.view, self._kept.view
        most = length * self._most.lost + off * self._most.kept + rest
        return Slack(lambda rows: length * lost[rows] + off * kept[rows] + rest, most)


class PlainSieve:
    """The plain twin."""

    def __init__(self, matrix: Floats, device: torch.device) -> None:
        self._matrix, self._device = Growing(matrix), device
        self._on_device = torch.from_numpy(self._matrix.view).to(device)
        self._longest = _longest(matrix)

    def __len__(self) -> int:
        return len(self._matrix)

    def extended(self, added: Floats, rows: Rows, replaced: Floats) -> PlainSieve:
        grown = PlainSieve.__new__(PlainSieve)
        grown._matrix, grown._device = self._matrix.extended(added, rows, replaced), self._device
        grown._on_device = torch.from_numpy(grown._matrix.view).to(self._device)
        grown._longest = max(self._longest, _longest(added), _longest(replaced))
        return grown

    def logits(self, queries: Tensor) -> Tensor:
        return torch.addmm(self._on_device[:, -1], queries, self._on_device[:, :-1].T)

    def slack(self, queries: Floats) -> Slack:
        length = float(np.linalg.norm(queries, axis=1).max())
        rest = length * self._longest * queries.shape[1] * 2.0**-23 + _FLOAT
        return Slack(lambda rows: np.full(len(rows), rest, dtype=np.float32), rest)


def _query_codes(queries: Tensor) -> tuple[Tensor, Tensor]:
    """(R, W) -> codes (R, W) int8 and their scale (R, 1)."""
    scale = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / _TOP
    return (queries / scale).round().to(torch.int8), scale


def rounded(vectors: Floats, top: int) -> tuple[NDArray[np.int8], Floats, Floats, Floats]:
    """(N, W) -> codes (N, W) int8 from -top to top, scale (N,), the length of what rounding lost (N,) and kept (N,)."""
    scale = np.abs(vectors).max(axis=1, initial=0) / np.float32(top)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    codes = np.rint(vectors / scale[:, None]).astype(np.int8)
    kept = codes * scale[:, None]
    lost = np.linalg.norm(vectors - kept, axis=1).astype(np.float32)
    return codes, scale, lost, np.linalg.norm(kept, axis=1).astype(np.float32)


def possible(scores: Floats, slack: Slack, eligible: Mask, k: int) -> Rows:
    """Rows of the eligible (N,) items that may be among the k best, where each score (N,) is right to within slack."""
    k = min(k, int(np.count_nonzero(eligible)))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    rows, top = best(scores, eligible, k)
    # At least k exact scores are no less than the least of these.
    threshold = float((top - slack.of(rows)).min())
    rows = np.flatnonzero(scores >= np.float32(threshold - slack.most - _FLOAT))
    rows = rows[eligible[rows]]
    return rows[scores[rows] + slack.of(rows) >= threshold]


def _longest(matrix: Floats) -> float:
    """The greatest length of a vector with its bias; 0 of none."""
    return float(np.linalg.norm(matrix, axis=1).max(initial=0))
