"""Collaborative item embeddings from training interactions: spectral, by truncated SVD.

It knows arrays and nothing of users' order, text or models. LightGCN is the alternative (stages/lightgcn.py).

    embedding, known = spectral(offsets, items, catalogue_size, dim=64)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from training.svd import right_singular

Floats = NDArray[np.float32]


def spectral(
    offsets: NDArray[np.int64], items: NDArray[np.int32], catalogue_size: int, dim: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """(N, dim) right singular vectors of D_u^-1/2 R D_i^-1/2, scaled by their singular values; (N,) known.

    R is the binary user-item matrix of the training interactions. Items without any get zeros and are not known.
    Columns beyond the rank of R are zero. The sign of each column is fixed, so the result is reproducible.
    """
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ones = np.ones(len(items), dtype=np.float64)
    matrix = csr_array((ones, (users, items.astype(np.int64))), shape=(len(offsets) - 1, catalogue_size))
    matrix.data[:] = 1.0  # a repeated interaction counts once
    user_degree = np.maximum(matrix.sum(axis=1), 1)
    item_degree: NDArray[np.float64] = np.asarray(matrix.sum(axis=0)).ravel()
    known = item_degree > 0
    normalised = diags_array(1 / np.sqrt(user_degree)) @ matrix @ diags_array(1 / np.sqrt(np.maximum(item_degree, 1)))
    embedding = np.zeros((catalogue_size, dim), dtype=np.float32)
    if not known.any():
        return embedding, known
    values, vectors = right_singular(csr_array(normalised), dim)
    embedding[:, : len(values)] = (vectors * values[:, None]).T
    embedding[~known] = 0  # to the bit
    return embedding, known
