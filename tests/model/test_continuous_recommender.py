"""ContRec behind the one interface: the contract, exact retrieval, log probabilities, seeds, and its bundle."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import load_recommender
from model.bundle import write_bundle
from model.catalogue import Catalogue, Item
from model.continuous.backbone import BackboneShape, Trunk
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender, ContinuousTaste
from model.recommender import Dials, Recommender, UserTokens, best
from model.sieve import PlainSieve, greatest_code
from tests.contracts.recommender_contract import (
    HISTORIES,
    ITEMS,
    WORLD,
    RecommenderContract,
    everything,
    log_softmax,
    rows_of,
)
from tests.model import fitted as toy

WEIGHTS = (0.0, 0.5, 1.0)


class _OnToyWalks(RecommenderContract):
    weight: float

    def build(self) -> Recommender:
        return toy.fitted().recommender(self.weight)

    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        """After item i comes i + 1, in either world, around the ring, and beyond what the tail holds."""
        for history, answer in (([0, 1, 2, 3], 4), ([3], 4), ([15, 16, 17], 18), ([9, 10, 11], 0), ([*range(10)], 10)):
            rows, _ = recommender.recommend(rows_of(*history), k=1)
            assert rows.tolist() == [answer]
        near, _ = recommender.neighbours(rows_of(3, 4), everything(), 4)
        assert (near < WORLD).all(), "neighbours are of the same world"


class TestTrunkAlone(_OnToyWalks):
    weight = 0.0


class TestMixture(_OnToyWalks):
    weight = 0.5


class TestSamplesAlone(_OnToyWalks):
    weight = 1.0


# ----------------------------------------------------------------------------------------------------------------
# The trace ends where generate does


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_the_last_step_of_each_walk_is_a_vector_of_the_taste(weight: float, explore: float) -> None:
    recommender = toy.fitted().recommender(weight)
    tokens = recommender.encode(HISTORIES)
    dials = [Dials(explore=explore, seed=seed) for seed in range(len(HISTORIES))]
    anchors = recommender.trunk.g(torch.from_numpy(np.stack([token.condition for token in tokens])))
    for n, (taste, walks) in enumerate(
        zip(recommender.generate(tokens, dials), recommender.trace(tokens, dials), strict=True)
    ):
        assert len(walks) == len(taste.vectors)
        for walk, vector in zip(walks, taste.vectors, strict=True):
            np.testing.assert_allclose(walk.steps[-1], vector[:-1], atol=1e-5)
            np.testing.assert_allclose(walk.steps[0], anchors[n].detach(), atol=1e-5)


def test_the_walks_of_two_seeds_part_only_after_pure_noise() -> None:
    recommender = toy.fitted().recommender(0.0)
    (token,) = recommender.encode([rows_of(0, 1, 2)])
    (one,), (other,) = (recommender.trace([token], [Dials(explore=1, seed=seed)]) for seed in (1, 2))
    np.testing.assert_array_equal(one[0].steps[0], other[0].steps[0])
    assert not np.allclose(one[0].steps[-1], other[0].steps[-1])


def test_trace_wants_as_many_dials_as_tokens() -> None:
    recommender = toy.fitted().recommender(0.0)
    with pytest.raises(ValueError, match=r"1 user tokens.*0 dials"):
        recommender.trace(recommender.encode([rows_of(1)]), [])


# ----------------------------------------------------------------------------------------------------------------
# Retrieval: the merge of several lists is exact


WIDTH = 4


def over(vectors: np.ndarray, bias: np.ndarray) -> ContinuousRecommender:
    """A recommender over any item vectors; trunk and head are untrained and take no part in retrieval."""
    return ContinuousRecommender(
        Catalogue(Item(f"i{row}") for row in range(len(vectors))),
        Trunk(BackboneShape(WIDTH, 1, 2, 8, 4)),
        Head(HeadShape(WIDTH, 4, 1, 1.0)),
        torch.from_numpy(vectors.astype(np.float32)),
        torch.from_numpy(bias.astype(np.float32)),
        torch.ones(len(vectors), dtype=torch.int64),
        Mixture(1, (0.5,), 0.0),
        max_profile=3,
    )


def assert_exact(recommender: ContinuousRecommender, taste: ContinuousTaste, eligible: np.ndarray, k: int) -> None:
    scores = recommender.score(taste)
    rows, found = recommender.retrieve(taste, eligible, k)
    expected_rows, expected = best(scores, eligible, k)
    assert eligible[rows].all()
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(scores[rows], expected, atol=1e-5, rtol=1e-5)
    if len(expected):
        better = np.flatnonzero(eligible & (scores > expected[-1] + 1e-4))
        assert set(better.tolist()) <= set(rows.tolist()), "an item that is better beyond rounding is missing"
    if len(expected) > 1 and (np.diff(expected) < -1e-4).all():
        np.testing.assert_array_equal(rows[:-1], expected_rows[:-1])


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_retrieve_equals_the_best_of_score(data: st.DataObject) -> None:
    """Hundreds of items, few distinct values (ties) or many, filters from nearly all to nearly nothing."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    items, queries = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 6))
    if data.draw(st.booleans()):
        vectors, bias = draw.integers(-2, 3, (items, WIDTH)), draw.integers(-1, 2, items)
    else:
        vectors, bias = draw.standard_normal((items, WIDTH)), draw.standard_normal(items)
    spread = data.draw(st.sampled_from([0.1, 1.0, 8.0]))
    wanted = draw.standard_normal((queries, WIDTH)) * spread
    log_weights = draw.standard_normal(queries) * data.draw(st.sampled_from([0.0, 1.0, 20.0]))
    if queries > 1 and data.draw(st.booleans()):
        log_weights[0] = -np.inf  # lambda = 1: the anchor has no weight
    taste = ContinuousTaste(
        np.concatenate([wanted, np.ones((queries, 1))], axis=1).astype(np.float32), log_weights.astype(np.float32)
    )
    eligible = draw.random(items) < data.draw(st.sampled_from([0.02, 0.3, 0.9, 1.0]))
    assert_exact(over(vectors, bias), taste, eligible, data.draw(st.integers(0, 40)))


def test_an_item_that_no_list_begins_with_is_found_all_the_same() -> None:
    """Fagin's case: hundreds of items please one vector alone, a handful pleases both and wins the mixture.

    With scores 1 and -10 a specialist reaches log(e / 2) = 0.31, an item with 0.9 and 0.9 reaches 0.9, although
    every list begins with 300 specialists.
    """
    specialists = np.concatenate([np.tile([1.0, -10, 0, 0], (300, 1)), np.tile([-10, 1.0, 0, 0], (300, 1))])
    agreeable = np.tile([0.9, 0.9, 0, 0], (5, 1)) + np.arange(5)[:, None] * [0.001, 0.001, 0, 0]
    recommender = over(np.concatenate([specialists, agreeable]), np.zeros(605))
    taste = ContinuousTaste(
        np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1]], dtype=np.float32), np.log(np.full(2, 0.5, dtype=np.float32))
    )
    rows, scores = recommender.retrieve(taste, np.ones(605, dtype=np.bool_), 5)
    assert rows.tolist() == [604, 603, 602, 601, 600]
    assert scores[0] == pytest.approx(0.904, abs=1e-4)
    assert_exact(recommender, taste, np.ones(605, dtype=np.bool_), 12)


def test_as_many_vectors_as_items() -> None:
    with pytest.raises(ValueError, match="3 item vectors for a catalogue of 24 items"):
        ContinuousRecommender(
            toy.toy_prepared().catalogue,
            Trunk(BackboneShape(WIDTH, 1, 2, 8, 4)),
            Head(HeadShape(WIDTH, 4, 1, 1.0)),
            torch.zeros(3, WIDTH),
            torch.zeros(3),
            torch.ones(3),
            Mixture(1, (0.5,), 0.0),
            max_profile=3,
        )


# ----------------------------------------------------------------------------------------------------------------
# Tastes: log probabilities, made as the formula says


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("explore", [0.0, 0.4, 1.0])
def test_scores_are_log_probabilities_over_the_catalogue(fitted: toy.Fitted, weight: float, explore: float) -> None:
    """To within what the sieve's logits do to the normalising constant; of one vector they are the plain products.

    Eight bits an item leave 2e-2 of it, and fewer leave that much more.
    """
    recommender = fitted.recommender(weight)
    for apart in (2e-2 * 127 / (greatest_code() or 127), 1e-5):
        tokens = recommender.encode(HISTORIES)
        for taste in recommender.generate(tokens, [Dials(explore=explore, seed=4)] * len(tokens)):
            scores = recommender.score(taste).astype(np.float64)
            if weight == explore == 0:
                np.testing.assert_allclose(scores, recommender.index.matrix @ taste.vectors[0], atol=1e-5)
            else:
                assert float(np.exp(scores).sum()) == pytest.approx(1.0, abs=apart)
        recommender.sieve = PlainSieve(recommender.index.matrix, recommender.device)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_taste_is_the_mixture_of_the_formula(fitted: toy.Fitted, weight: float) -> None:
    """p = (1 - lambda) softmax(<g, E> + b) + lambda / S sum_s softmax(<x0_hat_s, E> + b), written out plainly."""
    recommender = fitted.recommender(weight)
    recommender.sieve = PlainSieve(recommender.index.matrix, recommender.device)
    mixture, (tokens,) = recommender.mixture, recommender.encode([rows_of(0, 1, 2)])
    (taste,) = recommender.generate([tokens], [Dials()])
    with torch.no_grad():
        h = torch.from_numpy(tokens.condition)[None]
        g = recommender.trunk.g(h)
        p = (1 - weight) * torch.softmax(g @ recommender.vectors.T + recommender.bias, dim=1)[0]
        for noise in mixture.noise(recommender.vectors.shape[1]):
            x0_hat = recommender.head.sample(h, g, noise[None], mixture.times)
            sample = torch.softmax(x0_hat @ recommender.vectors.T + recommender.bias, dim=1)[0]
            p = p + weight / mixture.samples * sample
    log_partition = recommender.log_partition(taste)
    np.testing.assert_allclose(np.exp(recommender.score(taste) - log_partition), p.numpy(), atol=1e-5, rtol=1e-4)
    assert weight == 0 or log_partition == pytest.approx(0, abs=1e-5)


def test_the_samples_differ_from_the_anchor_and_from_one_another(fitted: toy.Fitted) -> None:
    """Else the tests above would hold of a head that does nothing."""
    (taste,) = fitted.recommender(0.5).generate(fitted.recommender(0.5).encode([rows_of(0, 1, 2)]), [Dials()])
    assert len(taste.vectors) == 1 + fitted.recipe.head.samples
    assert float(torch.pdist(torch.from_numpy(taste.vectors)).min()) > 1e-3


# ----------------------------------------------------------------------------------------------------------------
# Exploring


@pytest.mark.parametrize("weight", WEIGHTS)
def test_without_exploring_the_seed_is_nothing(fitted: toy.Fitted, weight: float) -> None:
    recommender = fitted.recommender(weight)
    tokens = recommender.encode([rows_of(0, 1, 2)])
    first, other = (recommender.score(recommender.generate(tokens, [Dials(seed=s)])[0]) for s in (0, 99))
    np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_seed_gives_one_list_alone_and_in_a_batch_and_another_seed_another(fitted: toy.Fitted, weight: float) -> None:
    recommender = fitted.recommender(weight)
    tokens = recommender.encode([rows_of(5, 6), rows_of(), rows_of(20, 21, 22)])
    seeds = [3, 4, 3]
    dials = [Dials(explore=1.0, seed=seed) for seed in seeds]
    together = [
        recommender.retrieve(taste, everything(), ITEMS)[0].tolist() for taste in recommender.generate(tokens, dials)
    ]
    torch.randn(3)
    alone = []
    for token, dial in zip(tokens, dials, strict=True):
        (taste,) = recommender.generate([token], [dial])
        alone.append(recommender.retrieve(taste, everything(), ITEMS)[0].tolist())
    assert alone == together
    moved = recommender.generate(tokens, [replace(dial, seed=dial.seed + 100) for dial in dials])
    assert all(
        recommender.retrieve(taste, everything(), ITEMS)[0].tolist() != before
        for taste, before in zip(moved, together, strict=True)
    )


def test_who_does_not_explore_is_untouched_by_who_does(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.5)
    tokens = recommender.encode([rows_of(5, 6), rows_of(1), rows_of(20)])
    plain = recommender.generate(tokens, [Dials()] * 3)
    mixed = recommender.generate(tokens, [Dials(), Dials(explore=0.9, seed=1), Dials()])
    for n in (0, 2):
        np.testing.assert_array_equal(recommender.score(plain[n]), recommender.score(mixed[n]))
    assert not np.allclose(recommender.score(plain[1]), recommender.score(mixed[1]))


def test_exploring_moves_that_share_of_the_probability(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.5)
    tokens = recommender.encode([rows_of(5, 6)])
    p = {
        explore: np.exp(recommender.score(recommender.generate(tokens, [Dials(explore=explore, seed=2)])[0]))
        for explore in (0.0, 0.3, 1.0)
    }
    np.testing.assert_allclose(p[0.3], 0.7 * p[0.0] + 0.3 * p[1.0], atol=1e-6, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------------
# Histories and files


def test_nobody_yet_is_read_as_nothing(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.5)
    (tokens,) = recommender.encode([rows_of()])
    assert tokens.condition.shape == (fitted.recipe.trunk.width,)
    assert tokens.profile.shape == (0,)
    beside, _ = recommender.encode([rows_of(), rows_of(1, 2, 3)])
    np.testing.assert_allclose(beside.condition, tokens.condition, atol=1e-5)


def test_of_a_history_longer_than_a_thousand_the_tail_and_the_profile_are_read(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.0)
    part = fitted.recipe.trunk
    history = (np.arange(2500) % ITEMS).astype(np.int64)
    read = history[-part.max_history - part.max_profile :]
    long, short = recommender.encode([history])[0], recommender.encode([read])[0]
    np.testing.assert_array_equal(long.condition, short.condition)
    np.testing.assert_array_equal(long.profile, short.profile)
    assert long.profile.shape == (part.width,)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_what_a_bundle_carries_answers_the_same(fitted: toy.Fitted, tmp_path: Path, weight: float) -> None:
    recommender = fitted.recommender(weight)
    recommender.mixture = replace(recommender.mixture, explore_samples=3, explore_times=(0.7, 0.2))
    path = write_bundle(
        tmp_path,
        "toy",
        kind=recommender.kind,
        recipe="contrec/tiny",
        config={},
        data_fingerprint="f00d",
        metrics={},
        fill=recommender.save,
    )
    loaded = load_recommender(path)
    assert isinstance(loaded, ContinuousRecommender)
    assert loaded.mixture == recommender.mixture
    assert loaded.max_profile == recommender.max_profile
    assert loaded.catalogue.ids(range(ITEMS)) == recommender.catalogue.ids(range(ITEMS))
    histories = [*HISTORIES, (np.arange(300) % ITEMS).astype(np.int64)]
    dials = [Dials(explore=0.5 * (n % 2), seed=n) for n in range(len(histories))]
    before, after = recommender.encode(histories), loaded.encode(histories)
    for one, other in zip(before, after, strict=True):
        assert one.to_bytes() == other.to_bytes()
    for one, other in zip(recommender.generate(before, dials), loaded.generate(after, dials), strict=True):
        np.testing.assert_array_equal(recommender.score(one), loaded.score(other))
    for rows in (rows_of(), rows_of(3)):
        for one, other in zip(
            recommender.neighbours(rows, everything(), 5), loaded.neighbours(rows, everything(), 5), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_without_items_the_neighbours_are_the_most_popular(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.0)
    _, items = fitted.prepared.train_histories()
    counts = np.bincount(items, minlength=ITEMS)
    rows, scores = recommender.neighbours(rows_of(), everything(), 5)
    assert scores.tolist() == sorted(counts.tolist(), reverse=True)[:5]
    assert counts[rows].tolist() == scores.tolist()


def test_another_head_leaves_the_first_recommender_as_it_was(fitted: toy.Fitted) -> None:
    anchor = fitted.recommender(0.0)
    tokens = anchor.encode([rows_of(1, 2)])
    before = anchor.score(anchor.generate(tokens, [Dials()])[0])
    other = anchor.with_head(Head(HeadShape(fitted.recipe.trunk.width, 8, 1, 1.0)), Mixture(2, (0.5,), 1.0))
    untrained = other.score(other.generate(tokens, [Dials()])[0])
    np.testing.assert_array_equal(anchor.score(anchor.generate(tokens, [Dials()])[0]), before)
    # An untrained head is the trunk, so even samples alone give its scores.
    np.testing.assert_allclose(log_softmax(untrained), log_softmax(before), atol=1e-5)


def test_a_condition_is_all_that_generating_needs(fitted: toy.Fitted) -> None:
    """The profile is already in it: cached tokens give the taste without touching the trunk's layers again."""
    recommender = fitted.recommender(0.5)
    (tokens,) = recommender.encode([(np.arange(100) % ITEMS).astype(np.int64)])
    bare = UserTokens(tokens.condition, np.zeros(0, dtype=np.float32))
    calls: list[int] = []
    hook = recommender.trunk.backbone.register_forward_hook(lambda *args: calls.append(1))
    try:
        full, without = (recommender.generate([t], [Dials()])[0] for t in (tokens, bare))
    finally:
        hook.remove()
    np.testing.assert_array_equal(recommender.score(full), recommender.score(without))
    assert not calls
    assert math.isfinite(float(full.log_weights[0]))
