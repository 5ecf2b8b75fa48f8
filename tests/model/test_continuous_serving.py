"""The fast paths of serving beside their plain twins: reader, sampler, the softmax of the whole catalogue."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, Item
from model.continuous import retrieval as module
from model.continuous.backbone import PREFIX, Backbone, BackboneShape, Trunk, alike, pad
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.reader import Reader
from model.continuous.recommender import ContinuousRecommender
from model.continuous.retrieval import ContinuousTaste, rough_scores
from model.continuous.sampler import Sampler
from model.recommender import Dials, best
from model.sieve import ByteSieve, PlainSieve, greatest_code

SHAPE = BackboneShape(width=16, layers=3, heads=2, feed_forward=24, max_history=12, kernel=4)
ITEMS = 300


def shaken(module: torch.nn.Module, seed: int) -> None:
    """Every weight away from its start, so that no path is an identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def make(weight: float = 0.5, items: int = ITEMS) -> ContinuousRecommender:
    torch.manual_seed(0)
    trunk, head = Trunk(SHAPE), Head(HeadShape(SHAPE.width, 20, 2, 2.0))
    shaken(trunk, 1)
    shaken(head, 2)
    generator = torch.Generator().manual_seed(3)
    return ContinuousRecommender(
        Catalogue(Item(f"i{n}") for n in range(items)),
        trunk,
        head,
        torch.randn(items, SHAPE.width, generator=generator),
        torch.randn(items, generator=generator),
        torch.ones(items, dtype=torch.int64),
        Mixture(samples=3, times=(0.8, 0.6), weight=weight),
        max_profile=5,
    )


def histories(count: int, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, ITEMS, draw.integers(0, 30)) for _ in range(count)]


@pytest.mark.parametrize(("layers", "kernel"), [(1, 1), (2, 1), (1, 4), (2, 3), (3, 4)])
@pytest.mark.parametrize("lengths", [[4], [12], [0], [1, 12, 5, 0, 12]], ids=str)
@torch.inference_mode()
def test_the_reader_gives_the_state_after_the_last_item(layers: int, kernel: int, lengths: list[int]) -> None:
    torch.manual_seed(layers)
    backbone = Backbone(BackboneShape(16, layers, 4, 24, 12, kernel)).eval()
    shaken(backbone, layers)
    rows, counted = pad([torch.arange(n) for n in lengths])
    items = torch.randn(12, 16)[rows]
    profile, has_profile = torch.randn(len(lengths), 16), torch.arange(len(lengths)) % 2 == 0
    expected = backbone(items, profile, has_profile)[torch.arange(len(lengths)), counted]
    found = Reader(backbone).last_states(items, counted, profile, has_profile)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("positions", [1, 20, 60, math.inf])
def test_histories_of_like_length_are_read_together_and_no_more_than_so_many_positions(positions: float) -> None:
    lengths = [5, 0, 12, 12, 3, 0, 7, 12, 1]
    groups = list(alike(lengths, positions))
    assert [lengths[n] for group in groups for n in group] == sorted(lengths)
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    sizes = [len(group) * (max(lengths[n] for n in group) + PREFIX) for group in groups]
    assert all(size <= positions or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert list(alike([], positions)) == []


def test_a_batch_read_in_parts_is_what_it_is_when_read_at_once() -> None:
    recommender, asked = make(), histories(40)
    assert len(list(alike([min(12, len(history)) for history in asked], 60))) > 5
    recommender.at_once = math.inf
    plain = recommender.encode(asked)
    recommender.at_once = 60
    for mine, expected in zip(recommender.encode(asked), plain, strict=True):
        np.testing.assert_allclose(mine.condition, expected.condition, atol=2e-5, rtol=2e-5)
        np.testing.assert_array_equal(mine.profile, expected.profile)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_the_partition_of_many_items_is_nearly_that_of_exact_scores(weight: float, sharpness: float) -> None:
    recommender = make(weight, items=5000)
    (taste,) = recommender.generate(recommender.encode(histories(1)), [Dials()])
    vectors = taste.vectors.copy()
    vectors[:, :-1] *= sharpness
    taste = ContinuousTaste(vectors, taste.log_weights)
    scores = recommender.score(taste).astype(np.float64)
    exact = scores.max() + math.log(np.exp(scores - scores.max()).sum())
    assert recommender.log_partition(taste) == pytest.approx(exact, abs=5e-3)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("times", [(), (0.7,), (0.9, 0.5, 0.2)])
@torch.inference_mode()
def test_the_sampler_walks_as_the_head_does(times: tuple[float, ...], guidance: float) -> None:
    recommender = make()
    generator = torch.Generator().manual_seed(5)
    condition, anchor = torch.randn(4, 16, generator=generator), torch.randn(4, 16, generator=generator)
    noise = torch.randn(4, 3, len(times), 16, generator=generator)
    found = Sampler(recommender.head, times, guidance).sample(condition, anchor, noise)
    for user in range(4):
        expected = recommender.head.sample(condition[[user] * 3], anchor[[user] * 3], noise[user], times, guidance)
        torch.testing.assert_close(found[user], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shift", [0.0, 500.0, -60.0, -95.0, -500.0])
@pytest.mark.parametrize("spread", [1.0, 30.0])  # of biases: up to e to the -100 and less
@pytest.mark.parametrize("chunk", [1, 1000, 2**20])
@torch.inference_mode()
def test_rough_scores_are_the_mixture_of_plain_softmaxes(
    monkeypatch: pytest.MonkeyPatch, chunk: int, spread: float, shift: float
) -> None:
    monkeypatch.setattr("model.continuous.retrieval._CHUNK", chunk)
    generator = torch.Generator().manual_seed(6)
    items, bias = torch.randn(50, 8, generator=generator), spread * torch.randn(50, generator=generator) + shift
    vectors, weights = torch.randn(7, 3, 8, generator=generator), torch.tensor([0.5, 0.3, 0.2])
    logits = vectors @ items.T + bias
    matrix = torch.cat([items, bias[:, None]], dim=1).numpy()
    for sieve in (PlainSieve(matrix, torch.device("cpu")), ByteSieve(matrix, greatest_code())):
        apart = sieve.slack(vectors.flatten(0, 1).numpy()).most
        rough, log_partition = rough_scores(sieve, vectors, weights)
        assert rough is not None
        expected = (logits.log_softmax(dim=2) + weights.log()[:, None]).logsumexp(dim=1)
        torch.testing.assert_close(rough, expected, atol=2 * apart, rtol=0)  # of the logit and of the partition
        torch.testing.assert_close(log_partition, logits.logsumexp(dim=2), atol=apart, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("explore", [0.0, 0.4, 1.0])
def test_selecting_searching_and_scoring_give_one_list(
    monkeypatch: pytest.MonkeyPatch, weight: float, explore: float
) -> None:
    recommender = make(weight)
    tokens = recommender.encode(histories(6))
    dials = [Dials(explore, seed) for seed in range(6)]
    selected = recommender.generate(tokens, dials)
    monkeypatch.setattr(module, "DENSE_ITEMS", 0)
    searched = recommender.generate(tokens, dials)
    draw = np.random.default_rng(0)
    for dense, sparse in zip(selected, searched, strict=True):
        assert dense.rough is not None
        assert sparse.rough is None
        assert len(dense.vectors) == 1 or float(np.exp(dense.rough).sum()) == pytest.approx(1, abs=1e-4)
        eligible = draw.random(ITEMS) < 0.7
        rows, scores = best(recommender.score(dense), eligible, 10)
        for taste in (dense, sparse):
            found, told = recommender.retrieve(taste, eligible, 10)
            np.testing.assert_array_equal(found, rows)
            np.testing.assert_allclose(told, scores, atol=1e-4)


def test_items_too_improbable_for_float32_keep_their_order() -> None:
    """An allow list far from the taste: every probability in it is 0, and still the best of them come first."""
    recommender = make(weight=0.0)
    vector = 60 * recommender.index.matrix[0].copy()
    (taste,) = recommender._tastes(torch.from_numpy(vector[None, None, :-1].copy()), [1.0])
    eligible = recommender.score(taste) < -88
    assert eligible.sum() > 50
    rows, scores = recommender.retrieve(taste, eligible, 10)
    expected, _ = best(recommender.score(taste), eligible, 10)
    np.testing.assert_array_equal(rows, expected)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("explore", [0.0, 0.4])
def test_a_batch_of_eight_gives_what_its_members_give_alone(weight: float, explore: float) -> None:
    recommender = make(weight)
    read, dials = histories(8), [Dials(explore, seed) for seed in range(8)]
    together = recommender.generate(recommender.encode(read), dials)
    everything = np.ones(ITEMS, dtype=np.bool_)
    for history, dial, taste in zip(read, dials, together, strict=True):
        (alone,) = recommender.generate(recommender.encode([history]), [dial])
        rows, scores = recommender.retrieve(taste, everything, 10)
        expected_rows, expected = recommender.retrieve(alone, everything, 10)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
