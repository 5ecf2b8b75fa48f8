"""Negative-aware denoising (DeftRec): what pushes a denoised vector away from what the user would not take.

Three forms over the same inputs, all on preference vectors and item vectors, none knowing users or files:

    softmax      every other item of the catalogue is a negative already (training.stages.softmax); an item the user
                 met and did not like counts once more, pairwise: -log sigmoid(score(target) - score(disliked))
    margin       the hinge that the first published version's flags point to (literature.md 1.2)
    preferdiff   PreferDiff (Liu et al., ICLR 2025): the denoised target against the centroid of in-batch negatives

The softmax form is the default; the others are options, kept to be compared (docs/contrec.md).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


class Disliked:
    """The true negatives of each user: offsets (U + 1,), items, as `Prepared.train_negatives` gives them."""

    def __init__(self, offsets: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        self._offsets = torch.from_numpy(offsets)
        self._items = torch.from_numpy(items.astype(np.int64))

    def __len__(self) -> int:
        return len(self._items)

    def draw(self, users: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """users (P,) -> one disliked row of each (P,), uniform, and (P,) bool: whether the user has one at all."""
        self._offsets, self._items = self._offsets.to(users.device), self._items.to(users.device)
        first, count = self._offsets[users], self._offsets[users + 1] - self._offsets[users]
        if not len(self._items):
            return torch.zeros_like(users), torch.zeros_like(users, dtype=torch.bool)
        draw = (torch.rand(len(users), generator=generator, device=users.device) * count).long()
        return self._items[(first + draw).clamp(max=len(self._items) - 1)], count > 0


def pairwise_loss(x0_hat: Tensor, target: Tensor, disliked: Tensor, has: Tensor) -> Tensor:
    """Mean of -log sigmoid(score(target) - score(disliked)) where there is a disliked item; 0 where nobody has one.

    x0_hat (P, W); target, disliked (P, W + 1): item vectors with their bias; has (P,) bool.
    """
    if not bool(has.any()):
        return x0_hat.new_zeros(())
    difference = target[has] - disliked[has]
    return F.softplus(-((x0_hat[has] * difference[:, :-1]).sum(dim=1) + difference[:, -1])).mean()


def margin_loss(x0_hat: Tensor, x0: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin - cos(x0_hat, x0) + cos(x0_hat, negative)); all (P, W)."""
    closer = F.cosine_similarity(x0_hat, x0, dim=-1) - F.cosine_similarity(x0_hat, negative, dim=-1)
    return F.relu(margin - closer).mean()


def preferdiff_loss(positive: Tensor, x0: Tensor, negative: Tensor, x0_negative: Tensor, gamma: float) -> Tensor:
    """Mean of -log sigmoid(-gamma (S+ - S-)), S = (1 - cos)^2 of a denoised vector to its clean one.

    positive, negative (P, W): x0_hat of the noised target and of the noised centroid, under the same condition and
    time but each with its own noise; x0, x0_negative (P, W): what they were before.
    """
    error = (1 - F.cosine_similarity(positive, x0, dim=-1)).square()
    other = (1 - F.cosine_similarity(negative, x0_negative, dim=-1)).square()
    return F.softplus(gamma * (error - other)).mean()


def centroids(vectors: Tensor, targets: Tensor) -> Tensor:
    """(P, W) for each position the mean vector of the other positions' targets: one negative a batch, cheaply."""
    chosen = vectors[targets]
    return (chosen.sum(dim=0, keepdim=True) - chosen) / max(1, len(chosen) - 1)
