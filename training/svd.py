"""Truncated SVD that gives the same answer every time: what the spectral and the text embedding share.

It knows a sparse matrix and nothing of what its rows and columns are.

    values, vectors = right_singular(matrix, dim=64)     # (r,), (r, n) with r <= dim, largest first
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

Doubles = NDArray[np.float64]


def right_singular(matrix: csr_array, dim: int) -> tuple[Doubles, Doubles]:
    """Singular values (r,), falling, and right singular vectors (r, n) of (m, n), r at most `dim` and the rank.

    The starting vector of the iteration and the sign of each vector are fixed. The matrix must hold an entry.
    """
    if min(matrix.shape) <= dim:  # more than the iteration below can give, and small enough to do without it
        _, values, vectors = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(0).standard_normal(min(matrix.shape))
        _, values, vectors = svds(matrix, k=dim, v0=start)
    order = np.argsort(-values)
    order = order[values[order] > 1e-6 * values.max()]  # beyond the rank: directions of rounding alone
    values, vectors = values[order], vectors[order]
    sign = np.sign(vectors[np.arange(len(order)), np.abs(vectors).argmax(axis=1)])
    return values, vectors * sign[:, None]
