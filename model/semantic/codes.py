"""Parallel semantic encoding: an item's text and behaviour -> n unordered digits, its semantic id.

Each signal is whitened, the two are joined, rotated and cut into n parts, and the nearest of a part's centroids is a
digit (product quantisation behind a learnt rotation: OPQ, Ge et al. 2013; parallel ids as in DiffGRM, arXiv
2510.21805, section 3.1). Digits have no order: none refines another.

Everything here is frozen: it was learnt on training items (training/stages/semantic_codes.py), travels in the bundle
with a hash of its own, and gives a new item its id from the text alone, the behaviour half being imputed. It knows
vectors, not items, histories or networks.

    digits = encoding.digits(text, collaborative, known)      # (N, n) uint8
    collisions(digits)                                         # {"items": ..., "ids": ..., "colliding": ..., ...}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from model.files import read_arrays
from model.text import unit

Floats = NDArray[np.float32]
Digits = NDArray[np.uint8]
Keys = NDArray[np.int64]

MASKED = -1  # what stands for a digit that is not there yet, wherever digits are signed
BASE = 257  # of packed keys: 256 codes and "masked"
MOST_DIGITS = 6  # the partial assignments of n digits are 2^n sets; beyond six they are no longer a small table


@dataclass(frozen=True, slots=True, eq=False)
class SemanticEncoding:
    """The frozen arrays. T, S: widths of the text and the behaviour signal as they come; D: of both when whitened.

    text_mean (T,), text_map (T, t), collaborative_mean (S,), collaborative_map (S, s) with t + s = D: whitening.
    impute (t, s): ridge regression from whitened text to whitened behaviour, for items nobody has met.
    rotation (D, D), centroids (n, C, D / n). Either signal may have width 0; then the ids rest on the other.
    """

    text_mean: Floats
    text_map: Floats
    collaborative_mean: Floats
    collaborative_map: Floats
    impute: Floats
    rotation: Floats
    centroids: Floats

    def __post_init__(self) -> None:
        digits, codes, width = self.centroids.shape
        if not 1 <= digits <= MOST_DIGITS or not 1 <= codes <= 256:
            raise ValueError(f"{digits} digits of {codes} codes: there may be 1 to {MOST_DIGITS} digits of up to 256")
        joined = self.text_map.shape[1] + self.collaborative_map.shape[1]
        if digits * width != joined or self.rotation.shape != (joined, joined):
            raise ValueError(f"centroids of {digits} x {width} do not cover {joined} whitened dimensions")

    @property
    def count(self) -> int:
        """n, the digits of an id."""
        return int(self.centroids.shape[0])

    @property
    def codes(self) -> int:
        """C, the values a digit can have."""
        return int(self.centroids.shape[1])

    def embed(
        self, text: Floats, collaborative: Floats | None = None, known: NDArray[np.bool_] | None = None
    ) -> Floats:
        """(N, T) text and (N, S) behaviour -> (N, D): each whitened and of unit length, then joined.

        Without the unit length a popular item would lie far out and every rare one in the same few cells.
        Where `known` (N,) is False, or there is no behaviour at all, that half is imputed from the text.
        """
        white_text = whitened(text, self.text_mean, self.text_map)
        imputed = unit(white_text @ self.impute)
        if collaborative is None:
            return np.concatenate([white_text, imputed], axis=1)
        white = whitened(collaborative, self.collaborative_mean, self.collaborative_map)
        if known is not None:
            white = np.where(known[:, None], white, imputed)
        return np.concatenate([white_text, white], axis=1)

    def digits(
        self, text: Floats, collaborative: Floats | None = None, known: NDArray[np.bool_] | None = None
    ) -> Digits:
        """(N, n) the nearest centroid of each part; equal distances go to the lower code."""
        parts = self.embed(text, collaborative, known) @ self.rotation.T
        parts = parts.reshape(len(parts), self.count, -1)
        found = np.empty((len(parts), self.count), dtype=np.uint8)
        for digit, centroids in enumerate(self.centroids):
            distance = (centroids**2).sum(axis=1) - 2 * parts[:, digit] @ centroids.T  # less the part's own length
            found[:, digit] = distance.argmin(axis=1)
        return found

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_file({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> SemanticEncoding:
        """Reads what `save` wrote."""
        return cls(**read_arrays(path))


def whitened(vectors: Floats, mean: Floats, directions: Floats) -> Floats:
    """(N, T) -> (N, t), whitened and scaled to unit length."""
    return unit(((vectors - mean) @ directions).astype(np.float32))


def pack(digits: NDArray[Any]) -> Keys:
    """(..., n) digits, MASKED where absent -> one int64 key each; equal keys, equal (partial) ids."""
    powers = BASE ** np.arange(digits.shape[-1], dtype=np.int64)
    keys: Keys = (digits.astype(np.int64) + 1) @ powers
    return keys


def digest(digits: Digits) -> str:
    """sha256 of a table of ids: two bundles with one digest speak of the same ids."""
    return hashlib.sha256(f"{digits.shape}".encode() + np.ascontiguousarray(digits).tobytes()).hexdigest()


def collisions(digits: Digits) -> dict[str, int]:
    """How many items share an id with another. They stay apart: each keeps its own item-level score."""
    _, sizes = np.unique(pack(digits), return_counts=True)
    shared = sizes[sizes > 1]
    return {
        "items": len(digits),
        "ids": len(sizes),
        "colliding_items": int(shared.sum()),
        "colliding_ids": len(shared),
        "largest_group": int(sizes.max(initial=0)),
    }
