"""The k best items of a mixture of preference vectors, exactly.

Knows vectors, weights, a sieve and an index; nothing of users, trunks or where a mixture comes from. ContRec's two
forms, with and without a text half, retrieve through it: the sieve's scores leave a few more candidates than k, and
one query of the index over those decides.

    rough, log_partition = rough_scores(sieve, vectors, weights)               # (B, N), (B, M)
    rows, scores = retrieve_mixture(index, taste, rough[0], slack, eligible, k=10)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.catalogue import Mask, Rows
from model.index import ItemIndex
from model.recommender import Floats, best, log_sum
from model.sieve import Sieve, Slack, possible

DENSE_ITEMS = 200_000
"""Largest catalogue whose rough scores a taste carries: 800 kB a request. Beyond it they are computed again."""

_CHUNK = 2**22  # logits held at a time, 16 MB: they bound the memory of a batch, and every turn reads all codes again
_GREATEST = 256  # scores that a partition has exactly
_LOST = -60.0  # the log of a mixture's probability below it may have lost digits to float32, or be -inf
# Partitions with which the others have lost none: e to the 88 overflows float32, e to the -87 loses digits.
_RAISED = (-87.0 - _LOST, 80.0)


@dataclass(frozen=True, slots=True)
class ContinuousTaste:
    """Preference vectors (M, D), D as the index has it (a 1 where an item has its bias), and log weights (M,).

    score(i) = logsumexp_m(log_weights_m + <vectors_m, item_i>). rough: (N,) the same by the sieve, or None in a
    catalogue of more than DENSE_ITEMS. Of several vectors each is normalised over the catalogue by its log weight, or
    they could not be mixed; of one that is a constant, which changes no order, and is left out.
    """

    vectors: Floats
    log_weights: Floats
    rough: Floats | None = None


def tastes_of(vectors: Tensor, log_weights: Tensor, rough: Tensor | None) -> list[ContinuousTaste]:
    """(B, M, D), (B, M) and, in a catalogue of no more than DENSE_ITEMS, (B, N) -> B tastes."""
    parts = [part.cpu().numpy() for part in (vectors, log_weights, rough) if part is not None]
    return [ContinuousTaste(*own) for own in zip(*parts, strict=True)]


def rough_logits(sieve: Sieve, queries: Tensor) -> Tensor | None:
    """queries (B, W), one a user -> (B, N); None in a catalogue of more than DENSE_ITEMS."""
    if len(sieve) > DENSE_ITEMS:
        return None
    return torch.cat([sieve.logits(some) for some in queries.split(max(1, _CHUNK // len(sieve)))])


def rough_scores(sieve: Sieve, vectors: Tensor, weights: Tensor) -> tuple[Tensor | None, Tensor]:
    """vectors (B, M, W), weights (M,) -> log of the weighted mixture of softmaxes (B, N), log partitions (B, M).

    Both by the sieve's logits; the first is None in a catalogue of more than DENSE_ITEMS.
    """
    members, width = vectors.shape[1:]
    rough: list[Tensor] = []
    partitions = []
    together = max(1, _CHUNK // (members * len(sieve)))  # users a turn
    for some in vectors.split(together):
        logits = sieve.logits(some.reshape(-1, width))
        masses, scale, partition = _masses(logits)
        partitions.append(partition.view(len(some), members))
        if len(sieve) > DENSE_ITEMS:
            continue
        if members > 1:
            shares = (weights * scale.view(len(some), members))[:, None]
            mixed = (shares @ masses.view(len(some), members, -1))[:, 0].log_()
            # Who is so sure of something: what is hopeless by behaviour may still be lifted by another expert.
            sure = (mixed < _LOST).any(dim=1)
            if bool(sure.any()):
                terms = (logits - partition).view(len(some), members, -1)[sure] + weights.log()[:, None]
                mixed[sure] = terms.logsumexp(dim=1)
            rough.append(mixed)
        else:
            rough.append(logits.sub_(partition))
    return torch.cat(rough) if rough else None, torch.cat(partitions)


def _masses(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logits (R, N) -> masses (R, N), scale (R, 1) and log partition (R, 1): masses * scale are the probabilities.

    Each logit is raised once, without first taking off the greatest, which would read all of them twice more. Logits
    that float32 cannot raise, or not to full precision, show in the sum, and are then taken the long way.
    """
    masses = logits.exp()
    partition = masses.sum(dim=1, keepdim=True).log()
    low, high = map(float, partition.aminmax())
    if _RAISED[0] < low and high < _RAISED[1]:  # not so of inf and nan
        return masses, partition.neg().exp(), partition
    partition = logits.logsumexp(dim=1, keepdim=True)
    return (logits - partition).exp_(), torch.ones_like(partition), partition


def retrieve_mixture(
    index: ItemIndex, taste: ContinuousTaste, rough: Floats, slack: Slack, eligible: Mask, k: int
) -> tuple[Rows, Floats]:
    """The min(k, eligible) best rows among eligible (N,) and their scores, best first. Exact.

    rough: (N,) score of each item, right to within slack.
    """
    return best_of(index, taste, possible(rough, slack, eligible, k), k)


def best_of(index: ItemIndex, taste: ContinuousTaste, candidates: Rows, k: int) -> tuple[Rows, Floats]:
    """The min(k, candidates) best rows among candidates (n,) and their scores, best first."""
    if len(taste.vectors) == 1:
        mask = np.zeros(len(index), dtype=np.bool_)
        mask[candidates] = True
        rows, scores = index.search(taste.vectors, mask, k)
        return rows[0], scores[0] + taste.log_weights[0]
    mixed = mix(taste.vectors @ index.matrix[candidates].T, taste.log_weights)
    places, scores = best(mixed, np.ones(len(candidates), dtype=np.bool_), k)
    return candidates[places], scores


def log_partition(rough: Floats, exact: Callable[[Rows], Floats]) -> float:
    """log sum exp of the scores of all items: the greatest, which have most of the sum, by exact, rows (n,) -> (n,);
    the others as rough (N,) has them, where rounding up and down evens out."""
    scores, greatest = rough.copy(), np.argpartition(rough, -min(_GREATEST, len(rough)))[-_GREATEST:]
    scores[greatest] = exact(greatest)
    return log_sum(scores)


def mix(scores: Floats, log_weights: Floats) -> Floats:
    """(M, n) inner products, (M,) log weights -> (n,) log of the weighted sum of exponentials."""
    terms = scores + log_weights[:, None]
    if len(terms) == 1:
        only: Floats = terms[0]
        return only
    top = terms.max(axis=0)
    mixed: Floats = (top + np.log(np.exp(terms - top).sum(axis=0))).astype(np.float32)
    return mixed


def blend(standard: ContinuousTaste, fresh: ContinuousTaste, explore: float) -> ContinuousTaste:
    """The standing mixture with weight 1 - explore, freshly drawn vectors with weight explore."""
    if explore >= 1:
        return fresh
    kept, moved = np.float32(math.log1p(-explore)), np.float32(math.log(explore))
    rough = None
    if standard.rough is not None and fresh.rough is not None:
        rough = np.logaddexp(standard.rough + kept, fresh.rough + moved)
    return ContinuousTaste(
        vectors=np.concatenate([standard.vectors, fresh.vectors]),
        log_weights=np.concatenate([standard.log_weights + kept, fresh.log_weights + moved]),
        rough=rough,
    )
