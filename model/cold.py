"""What an item starts from that nobody has met, in either system. Knows no text and no network."""

from __future__ import annotations

import torch
from torch import Tensor


def starting_bias(bias: Tensor, counts: Tensor) -> float:
    """The bias of an item that nobody has met: the mean of the least met tenth of the items that somebody has.

    The softmax pushes the bias of items without a single interaction down for as long as it trains, because they are
    never the answer; with such a bias a new item would never be shown. The mean of all would put it beside the
    well-liked. The least met that were met at all are what it is most like, and what it starts from.
    """
    met = torch.nonzero(counts > 0).flatten()
    if not len(met):
        return float(bias.mean()) if len(bias) else 0.0
    least = met[torch.argsort(counts[met], stable=True)[: max(1, len(met) // 10)]]
    return float(bias[least].mean())
