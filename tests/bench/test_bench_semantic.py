"""The autoregressive twin is no straw man: its cached beam finds what teacher forcing says of every id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.quality.semantic import id_level
from bench.semantic.autoregressive import CausalLayer, PrefixTree, Twin, fit
from tests.contracts.recommender_contract import ITEMS
from tests.model import fitted_semantic as toy
from tests.one_thread import one_thread

__all__ = ["one_thread"]  # a fixture

HISTORIES = [np.array([1, 2, 3]), np.array([14]), np.array([], dtype=np.int64)]


@pytest.fixture(scope="module")
def twin() -> Twin:
    digits = np.random.default_rng(0).integers(0, 3, (ITEMS, 4)).astype(np.uint8)
    digits[5] = digits[17]  # a shared id
    return fit(toy.toy_prepared(), digits, 4, toy.PART.model_copy(update={"epochs": 3}), seed=0)


@torch.inference_mode()
def test_the_cached_beam_equals_teacher_forcing_over_the_whole_catalogue(twin: Twin) -> None:
    states, real = twin.encode(HISTORIES)
    nodes, scores = twin.beam(states, real, 1000)
    network, truth = twin.network, twin.network.digits
    index = torch.arange(states.shape[0] * states.shape[1]).view(len(states), -1)
    context = network.decoder.context(states.flatten(0, 1), index, real)
    before = F.pad(truth[None, :, :-1], (1, 0), value=-1)
    for line in range(len(HISTORIES)):
        one = context[torch.tensor([line])]
        x = network.inputs(one.newest, before, 0)
        for layer, keys, values in zip(network.decoder.layers, one.keys, one.values, strict=True):
            assert isinstance(layer, CausalLayer)
            x, _ = layer.step(x, None, keys, values, one.real)
        expected = network.log_probs(x, 0)[0].gather(2, truth[..., None])[..., 0].sum(dim=1).numpy()
        rows, source = twin.items(nodes[line])
        assert sorted(rows.tolist()) == list(range(ITEMS))
        np.testing.assert_allclose(scores[line][source], expected[rows], atol=1e-4)
        assert (np.diff(scores[line][source]) <= 0).all()


def test_a_narrow_beam_keeps_the_best_prefixes_alone_and_in_a_batch(twin: Twin) -> None:
    together, _ = twin.beam(*twin.encode(HISTORIES), 3)
    for line, history in enumerate(HISTORIES):
        alone, scores = twin.beam(*twin.encode([history]), 3)
        assert alone[0].tolist() == together[line].tolist()
        assert (np.diff(scores[0]) <= 0).all()


def test_items_that_share_an_id_come_by_popularity() -> None:
    digits = np.array([[1, 1], [0, 2], [1, 1], [0, 1]], dtype=np.uint8)
    tree = PrefixTree.of(digits, np.array([3, 1, 9, 2]))
    leaves = [tree.items[a:b].tolist() for a, b in zip(tree.leaf[:-1], tree.leaf[1:], strict=True) if b > a]
    assert leaves == [[3], [1], [2, 0]]


def test_a_hit_of_the_id_is_what_the_papers_count() -> None:
    prepared = toy.toy_prepared()
    asked = prepared.evaluation("test")
    digits = np.zeros((ITEMS, 4), dtype=np.uint8)
    digits[:, 0] = np.arange(ITEMS) // 2  # pairs share an id
    partner = {int(user): int(target) ^ 1 for user, target in zip(asked.users, asked.targets, strict=True)}

    def scorer(users: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
        scores = np.tile(-np.arange(ITEMS, dtype=np.float32), (len(users), 1))
        scores[np.arange(len(users)), [partner[int(user)] for user in users]] = 1
        return scores

    assert id_level(scorer, prepared, digits) == {"hr@10 unmasked": 1.0, "ndcg@10 unmasked": 1.0}
