"""The toy models over a catalogue of any size: row n is what training learnt of row n modulo ITEMS, under another name.

So that a property can be asked of one item, of a few, and of more than there are. The network is what it was.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from model.catalogue import Catalogue, Rows
from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.transitions import Transitions, WithTransitions
from model.recommender import Popular
from model.semantic.decoding import Decoding
from model.semantic.recommender import SemanticRecommender
from tests.contracts.recommender_contract import ITEMS
from tests.model import fitted as toy
from tests.model import fitted_semantic as toy_semantic
from tests.model.test_continuous_hybrid import words
from tests.model.test_continuous_transitions import counted


def _rows(catalogue: Catalogue) -> Rows:
    return np.arange(len(catalogue), dtype=np.int64) % ITEMS


def popular(catalogue: Catalogue) -> Popular:
    return Popular(catalogue, _rows(catalogue) % 7)


def _cut(whole: ContinuousRecommender, catalogue: Catalogue) -> ContinuousRecommender:
    rows = _rows(catalogue)
    counts = torch.from_numpy(whole.counts[rows])
    parts = catalogue, whole.trunk, whole.head, whole.vectors[rows], whole.bias[rows], counts, whole.mixture
    return ContinuousRecommender(*parts, max_profile=whole.max_profile, cold=whole.cold)


def continuous(catalogue: Catalogue) -> ContinuousRecommender:
    return _cut(toy.fitted().recommender(0.5), catalogue)


def hybrid(catalogue: Catalogue, weight: float = 0.5) -> Hybrid:
    return Hybrid(_cut(toy.fitted().recommender(weight), catalogue), _cut(words(), catalogue), 0.5)


def with_transitions(catalogue: Catalogue) -> WithTransitions:
    """As the recipe ships it: the trunks alone, without a mixture."""
    whole, rows = counted(), _rows(catalogue)
    lines = [slice(*whole.starts[row : row + 2]) for row in rows]
    kept = [whole.rows[line] < len(rows) for line in lines]
    table = Transitions(
        np.cumsum([0, *(int(one.sum()) for one in kept)]).astype(np.int64),
        np.concatenate([whole.rows[line][one] for line, one in zip(lines, kept, strict=True)]),
        np.concatenate([whole.counts[line][one] for line, one in zip(lines, kept, strict=True)]),
        whole.window,
        whole.decay,
    )
    return WithTransitions(hybrid(catalogue, 0.0), table, 0.5, 1e-3)


def semantic(catalogue: Catalogue) -> SemanticRecommender:
    whole, rows = toy_semantic.fitted().recommender(Decoding(candidates=10, weight=1.0)), _rows(catalogue)
    network = copy.deepcopy(whole.network)
    network.digits = network.digits[rows]
    network.residual, network.bias = (
        torch.nn.Parameter(one.detach()[rows]) for one in (network.residual, network.bias)
    )
    return SemanticRecommender(catalogue, network, whole.cold, torch.from_numpy(whole.counts[rows]), whole.decoding)
