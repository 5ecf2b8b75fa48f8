"""Fits the embedded text encoder: idf and projection of hashed terms, from the catalogue's own texts.

Only texts are read, never an interaction, so no split can leak through it.

    encoder = fit_hashed_text([item_text(item) for item in catalogue], buckets=16384, dim=64)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from model.catalogue import Item
from model.text import HashedText, hashed_tf


def item_text(item: Item) -> str:
    """What an encoder reads of an item: its text, else title and categories."""
    return item.text or ". ".join(part for part in (item.title, ", ".join(item.categories)) if part)


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
        if min(matrix.shape) <= dim:  # more than the iteration below can give, and small enough to do without it
            _, singular, vectors = np.linalg.svd(matrix.toarray(), full_matrices=False)
        else:
            start = np.random.default_rng(0).standard_normal(min(matrix.shape))
            _, singular, vectors = svds(matrix, k=dim, v0=start)
        order = np.argsort(-singular)
        vectors = vectors[order[singular[order] > 1e-6 * singular.max()]]  # beyond the rank: rounding alone
        sign = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
        projection[:, : len(vectors)] = (vectors * sign[:, None]).T
    return HashedText(idf, projection)
