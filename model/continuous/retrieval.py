"""The k best items of a mixture of preference vectors, exactly.

Knows vectors, weights and an index; nothing of users, trunks or where a mixture comes from. ContRec's two forms, with
and without a text half, retrieve through it.

    rows, scores = retrieve_mixture(index, taste, eligible, k=10)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.catalogue import Mask, Rows
from model.index import ItemIndex
from model.recommender import Floats, best

DENSE_ITEMS = 200_000
"""Largest catalogue whose probabilities a taste carries: 800 kB a request."""

_LEAST = np.float32(1e-30)  # probabilities below this may have lost their order to float32


@dataclass(frozen=True, slots=True)
class ContinuousTaste:
    """Preference vectors (M, D), D as the index has it (a 1 where an item has its bias), and log weights (M,).

    score(i) = logsumexp_m(log_weights_m + <vectors_m, item_i>). probability: (N,) its exponential, or None in a
    catalogue of more than DENSE_ITEMS.
    """

    vectors: Floats
    log_weights: Floats
    probability: Floats | None = None


def retrieve_mixture(index: ItemIndex, taste: ContinuousTaste, eligible: Mask, k: int) -> tuple[Rows, Floats]:
    """The min(k, eligible) best rows among eligible (N,) and their scores, best first.

    Exact either way: selected from the probabilities where the taste has them, else from one list for
    each vector, deepened until they are proven to hold the best: an item that is in no list scores at most the
    mixture of the lists' last entries (the threshold algorithm of Fagin, Lotem and Naor 2001). Once the k-th score
    found reaches that bound, nothing better can be missing.
    """
    if taste.probability is not None:
        likeliest, probabilities = best(taste.probability, eligible, k)
        if len(likeliest) == 0 or probabilities[-1] > _LEAST:
            return likeliest, np.log(probabilities)
    allowed = int(np.count_nonzero(eligible))
    wanted = min(k, allowed)
    if wanted == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    if len(taste.vectors) == 1:
        rows, scores = index.search(taste.vectors, eligible, wanted)
        return rows[0], scores[0] + taste.log_weights[0]
    depth = min(allowed, max(4 * wanted, 64))
    while True:
        rows, scores = index.search(taste.vectors, eligible, depth)
        found = np.unique(rows)  # ascending, so that ties go to the lower row
        mixed = mix(taste.vectors @ index.matrix[found].T, taste.log_weights)
        bound = mix(scores[:, -1:], taste.log_weights)[0]
        order = np.argsort(-mixed, kind="stable")[:wanted]
        if depth == allowed or (len(order) == wanted and mixed[order[-1]] >= bound):
            return found[order], mixed[order]
        depth = min(allowed, 4 * depth)


def mix(scores: Floats, log_weights: Floats) -> Floats:
    """(M, n) inner products, (M,) log weights -> (n,) log of the weighted sum of exponentials."""
    terms = scores + log_weights[:, None]
    top = terms.max(axis=0)
    mixed: Floats = (top + np.log(np.exp(terms - top).sum(axis=0))).astype(np.float32)
    return mixed


def blend(standard: ContinuousTaste, fresh: ContinuousTaste, explore: float) -> ContinuousTaste:
    """The standing mixture with weight 1 - explore, freshly drawn vectors with weight explore."""
    if explore >= 1:
        return fresh
    kept, moved = np.float32(math.log1p(-explore)), np.float32(math.log(explore))
    probability = None
    if standard.probability is not None and fresh.probability is not None:
        probability = np.float32(1 - explore) * standard.probability + np.float32(explore) * fresh.probability
    return ContinuousTaste(
        vectors=np.concatenate([standard.vectors, fresh.vectors]),
        log_weights=np.concatenate([standard.log_weights + kept, fresh.log_weights + moved]),
        probability=probability,
    )
