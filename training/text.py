"""Fits the embedded text encoder: idf and projection of hashed terms, from the catalogue's own texts.

Only texts are read, never an interaction, so no split can leak through it.

    encoder = fit_hashed_text([item_text(item) for item in catalogue], buckets=16384, dim=64)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from model.text import HashedText, hashed_tf
from training.svd import right_singular


def fit_hashed_text(texts: Sequence[str], buckets: int, dim: int) -> HashedText:
    """Latent semantic analysis of the hashed TF-IDF matrix (n, buckets); smooth idf as in Salton and Buckley 1988.

    Dimensions beyond the rank of the matrix are zero. The sign of each is fixed, so the result is reproducible.
    """
    offsets, columns, values = hashed_tf(texts, buckets)
    frequency = np.bincount(columns, minlength=buckets)
    idf = np.log((1 + len(texts)) / (1 + frequency)).astype(np.float32) + np.float32(1)
    matrix = csr_array((values * idf[columns], columns, offsets), shape=(len(texts), buckets), dtype=np.float64)
    norms = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    matrix = csr_array(matrix.multiply(1 / np.maximum(norms, 1e-12)[:, None]))
    projection = np.zeros((buckets, dim), dtype=np.float32)
    if matrix.nnz:
        _, vectors = right_singular(matrix, dim)
        projection[:, : len(vectors)] = vectors.T
    return HashedText(idf, projection)
