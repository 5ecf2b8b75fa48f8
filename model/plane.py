"""The plane: item vectors seen from the side on which they differ most, for a map that a person can look at.

Directions (unit vectors) are projected on their first two principal components: the cosine decides what is near in
the model, so it decides here. Deterministic: an eigenvector's free sign is fixed. Knows no items and no drawing.

    plane = Plane.of(recommender.unit_vectors(rows))
    plane.project(vectors)              # (M, W) -> (M, 2), item vectors and preference vectors alike
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.recommender import Floats


@dataclass(frozen=True, slots=True)
class Plane:
    """centre: (W,) the mean direction. axes: (W, 2) orthonormal. share: of the variance that the plane shows."""

    centre: Floats
    axes: Floats
    share: float

    @classmethod
    def of(cls, vectors: Floats) -> Plane:
        """The plane of vectors (N, W), N and W at least 1; of fewer than two dimensions the rest is flat."""
        directions = _directions(vectors)
        centre = directions.mean(axis=0)
        spread = directions - centre
        values, axes = np.linalg.eigh(spread.T @ spread)  # (W, W): small whatever the catalogue; ascending
        first = axes[:, ::-1][:, :2]
        first = first * np.where(first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])] < 0, -1, 1)
        flat = np.zeros((len(axes), 2 - first.shape[1]))
        total = float(values.sum())
        share = float(values[-2:].sum()) / total if total > 0 else 1.0
        return cls(centre.astype(np.float32), np.hstack([first, flat]).astype(np.float32), share)

    def project(self, vectors: Floats) -> Floats:
        """(M, W) -> (M, 2): where their directions lie."""
        points: Floats = ((_directions(vectors) - self.centre) @ self.axes).astype(np.float32)
        return points


def _directions(vectors: Floats) -> np.ndarray:
    """In float64, so that the sums over a large catalogue do not depend on their order."""
    long = vectors.astype(np.float64)
    directions: np.ndarray = long / np.maximum(np.linalg.norm(long, axis=-1, keepdims=True), 1e-12)
    return directions
