"""Learns the parallel semantic encoding: whitening, ridge imputation and OPQ, on training items alone.

    encoding = fit_codes(text, collaborative, known, digits=4, codes=256, dim=128)
    ids = encoding.digits(text, collaborative, known)

It knows vectors and which items were met in training; no network. The same input gives the same encoding.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from model.semantic.codes import Floats, SemanticEncoding, whitened

ITEMS_PER_CODE = 8  # at least: a centroid of fewer items describes those items, not a neighbourhood
RIDGE = 1.0


def code_bits(items: int, codes: int) -> int:
    """Bits of a digit: those of the wanted codes, or fewer where the catalogue is too small to fill them."""
    wanted = codes.bit_length() - 1
    return max(1, min(wanted, int(np.log2(max(2, items // ITEMS_PER_CODE)))))


def fit_codes(
    text: Floats,
    collaborative: Floats,
    known: NDArray[np.bool_],
    *,
    digits: int,
    codes: int,
    text_dim: int,
    collaborative_dim: int,
    iterations: int = 25,
) -> SemanticEncoding:
    """text (N, T), collaborative (N, S), known (N,) met in training -> the encoding. codes: a power of two.

    text_dim, collaborative_dim: whitened directions kept of each signal, cut to its rank, to a quarter of the items and
    to a multiple of digits together; 0 leaves the signal out. Raises ValueError where fewer than two items are known
    or too little is left.
    """
    if codes & (codes - 1) or not 2 <= codes <= 256:
        raise ValueError(f"codes must be a power of two from 2 to 256, not {codes}")
    if int(known.sum()) < 2:
        raise ValueError(f"{int(known.sum())} items were met in training: semantic ids need at least two")
    most = max(digits, int(known.sum()) // 4)  # more directions than items, and FAISS aborts the process
    text_mean, text_map = whitening(text[known], min(text_dim, most))
    behaviour_mean, behaviour_map = whitening(collaborative[known], min(collaborative_dim, most))
    spare = (text_map.shape[1] + behaviour_map.shape[1]) % digits
    # Whitened directions come strongest first; the weakest of the wider signal give way.
    if text_map.shape[1] >= behaviour_map.shape[1]:
        text_map = text_map[:, : text_map.shape[1] - spare]
    else:
        behaviour_map = behaviour_map[:, : behaviour_map.shape[1] - spare]
    joined = text_map.shape[1] + behaviour_map.shape[1]
    if not digits <= joined < int(known.sum()):
        raise ValueError(f"{int(known.sum())} items with {joined} directions are too few for {digits} digits")
    white_text = whitened(text[known], text_mean, text_map)
    white_behaviour = whitened(collaborative[known], behaviour_mean, behaviour_map)
    gram = white_text.T @ white_text + RIDGE * np.eye(white_text.shape[1], dtype=np.float32)
    impute = np.linalg.solve(gram, white_text.T @ white_behaviour).astype(np.float32)
    points = np.ascontiguousarray(np.concatenate([white_text, white_behaviour], axis=1), dtype=np.float32)
    rotation, centroids = _opq(points, digits, code_bits(len(points), codes), iterations)
    return SemanticEncoding(text_mean, text_map, behaviour_mean, behaviour_map, impute, rotation, centroids)


def whitening(vectors: Floats, dim: int) -> tuple[Floats, Floats]:
    """(n, T) -> mean (T,) and map (T, d): the d <= dim strongest principal directions, scaled to unit variance."""
    mean = vectors.mean(axis=0)
    if dim == 0 or vectors.shape[1] == 0:
        return mean.astype(np.float32), np.zeros((vectors.shape[1], 0), dtype=np.float32)
    covariance = np.cov((vectors - mean).astype(np.float64), rowvar=False).reshape(vectors.shape[1], -1)
    values, directions = np.linalg.eigh(covariance)
    order = np.argsort(-values)[:dim]
    order = order[values[order] > 1e-6 * max(values.max(), 1e-12)]  # beyond the rank lies rounding alone
    directions = directions[:, order]
    if len(order):
        directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(order))])
    return mean.astype(np.float32), (directions / np.sqrt(values[order])).astype(np.float32)


def _opq(points: Floats, digits: int, bits: int, iterations: int) -> tuple[Floats, Floats]:
    """(n, D) -> rotation (D, D) and centroids (digits, 2^bits, D / digits)."""
    width = points.shape[1]
    faiss.omp_set_num_threads(1)
    opq = faiss.OPQMatrix(width, digits)
    opq.niter = iterations
    quantiser = faiss.ProductQuantizer(width, digits, bits)
    for each in (opq_quantiser := faiss.ProductQuantizer(width, digits, bits), quantiser):
        each.cp.min_points_per_centroid = 1  # code_bits has seen to it; FAISS would only complain on stderr
        each.cp.seed = 1234
    opq.pq = opq_quantiser
    opq.train(points)
    rotation = faiss.vector_to_array(opq.A).reshape(width, width).astype(np.float32)
    quantiser.train(np.ascontiguousarray(points @ rotation.T))
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(digits, 1 << bits, width // digits)
    return rotation, centroids.astype(np.float32)
