"""Two halves, one query: the sum of two log probabilities, exact retrieval, new items, and a bundle of both."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import load_recommender
from model.bundle import write_bundle
from model.catalogue import Item
from model.continuous.cold import ColdWords
from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.retrieval import DENSE_ITEMS
from model.continuous.space import TextSpace
from model.recommender import Dials, Recommender, best
from model.text import HASHED, KeptEncoder, item_text
from tests.contracts.recommender_contract import HISTORIES, ITEMS, WORLD, RecommenderContract, everything, rows_of
from tests.model import fitted as toy
from training.stages.text_half import choose_alpha, fit_text_half
from training.text import fit_hashed_text

NEW = [Item("new-1", text="Part 5 of the harbour walk."), Item("new-2", "Orchard part 3", ("orchard",))]


@functools.cache
def words() -> ContinuousRecommender:
    """The text half of the toy walks; fitted once a session."""
    whole = toy.fitted()
    texts = [item_text(item) for item in whole.prepared.catalogue]
    encoder = fit_hashed_text(texts, 256, 24)
    part = whole.recipe.text_half.model_copy(update={"epochs": 4, "dropout": 0.0, "kernel": 1})  # unlike the first
    fitted = fit_text_half(whole.prepared, encoder.encode(texts), part, whole.recipe.trunk, seed=0)
    half = fitted.recommender(whole.prepared, whole.recipe.trunk.max_profile)
    assert isinstance(fitted.space, TextSpace)
    half.cold = ColdWords(fitted.space.place, KeptEncoder(encoder, HASHED))
    return half


def hybrid(weight: float = 0.5, alpha: float = 0.5) -> Hybrid:
    return Hybrid(toy.fitted().recommender(weight), words(), alpha)


class ThreeRightAnswers(RecommenderContract):
    """What any recommender over both worlds must know."""

    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        for history, answer in (([0, 1, 2, 3], 4), ([15, 16, 17], 18), ([9, 10, 11], 0)):
            rows, _ = recommender.recommend(rows_of(*history), k=1)
            assert rows.tolist() == [answer]
        near, _ = recommender.neighbours(rows_of(3, 4), everything(), 4)
        assert (near < WORLD).all(), "neighbours are of the same world"


class _Hybrid(ThreeRightAnswers):
    weight: float

    def build(self) -> Recommender:
        return hybrid(self.weight)


class TestHybridOfTrunks(_Hybrid):
    weight = 0.0


class TestHybridWithMixture(_Hybrid):
    weight = 0.5


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("explore", [0.0, 0.6, 1.0])
def test_the_score_is_the_sum_of_both_log_probabilities(weight: float, explore: float) -> None:
    both, dials = hybrid(weight, alpha=0.7), Dials(explore, seed=3)
    for history in HISTORIES:
        (taste,) = both.generate(both.encode([history]), [dials])
        (mine,) = both.behaviour.generate(both.behaviour.encode([history]), [dials])
        (its,) = both.text.generate(both.text.encode([history]), [Dials()])
        expected = both.behaviour.score(mine) + 0.7 * (1 - explore) * both.text.score(its)
        np.testing.assert_allclose(both.score(taste), expected, atol=2e-4)
        plain_rows, plain_scores = best(both.score(taste), everything(), 7)
        for one in (taste, replace(taste, rough=None)):  # the rough scores that generate keeps, or made anew
            rows, scores = both.retrieve(one, everything(), 7)
            np.testing.assert_array_equal(rows, plain_rows)
            np.testing.assert_allclose(scores, plain_scores, atol=2e-4)


@pytest.mark.parametrize("dense", [DENSE_ITEMS, 5])
def test_one_product_gives_what_a_product_for_each_half_gives(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of items added since, in another proportion, of users together, and where a taste has no rough scores."""
    monkeypatch.setattr("model.continuous.retrieval.DENSE_ITEMS", dense)
    known = hybrid(0.0, alpha=0.7)
    moved = known.with_items(NEW).with_items([Item("new-1", text="Part 9 of the orchard walk.")])
    for both in (known, moved, known.with_alpha(2.0), moved.with_alpha(0.1)):
        tokens, eligible = both.encode(HISTORIES), np.ones(len(both.catalogue), dtype=np.bool_)
        dials, rows = [Dials(seed=n) for n in range(len(tokens))], np.arange(len(both.catalogue))
        for quick, plain in zip(both.generate(tokens, dials), both.by_halves(tokens, dials), strict=True):
            np.testing.assert_allclose(quick.vectors, plain.vectors, rtol=1e-6)
            np.testing.assert_allclose(both.score(quick), both.score(plain), rtol=1e-6)
            assert (quick.rough is None) == (plain.rough is None) == (len(both.catalogue) > dense)
            assert (np.abs(both.rough(quick) - both.score(plain)) <= both.slack(quick).of(rows)).all()
            np.testing.assert_array_equal(both.retrieve(quick, eligible, 9)[0], best(both.score(plain), eligible, 9)[0])


def test_who_explores_changes_nothing_for_the_others_of_a_batch() -> None:
    both = hybrid(0.0, alpha=0.7)
    tokens = both.encode(HISTORIES)
    dials = [Dials(0.4 * (n % 2), seed=n) for n in range(len(tokens))]
    for n, taste in enumerate(both.generate(tokens, dials)):
        (alone,) = both.generate(tokens[n : n + 1], dials[n : n + 1])
        assert len(taste.vectors) == len(alone.vectors) == (1 + both.behaviour.mixture.explore_samples if n % 2 else 1)
        np.testing.assert_allclose(both.score(taste), both.score(alone), atol=1e-4)


def test_the_second_trunk_is_built_as_its_own_part_says() -> None:
    assert words().trunk.backbone.shape.kernel == 1
    assert toy.fitted().trunk.trunk.backbone.shape.kernel == 4


def test_halves_that_do_not_fit_are_refused() -> None:
    behaviour = toy.fitted().recommender(0.5)
    with pytest.raises(ValueError, match="serve the behaviour half alone"):
        Hybrid(behaviour, words(), 0.0)
    with pytest.raises(ValueError, match="24 and 25 items"):
        Hybrid(behaviour, words().with_items(NEW[:1]), 0.5)
    with pytest.raises(ValueError, match="trunk alone"):
        Hybrid(behaviour, behaviour, 0.5)


def test_new_items_get_a_place_in_both_halves() -> None:
    known = hybrid()
    grown = known.with_items(NEW[:1]).with_items(NEW[1:])
    rebuilt = Hybrid(grown.behaviour, grown.text, grown.alpha)
    np.testing.assert_array_equal(grown.index.matrix, rebuilt.index.matrix)
    with torch.no_grad():
        text = torch.from_numpy(words().cold.encoder.encode(NEW))  # type: ignore[union-attr]
        expected = words().cold.place(text)  # type: ignore[union-attr]
    torch.testing.assert_close(grown.text.vectors[ITEMS:], expected, atol=1e-5, rtol=1e-5)
    assert len(known.catalogue) == ITEMS, "the snapshot before stays as it is"
    moved = grown.with_items([Item("new-1", text="Part 9 of the orchard walk.")])
    assert (moved.index.matrix[ITEMS] != grown.index.matrix[ITEMS]).any()
    np.testing.assert_array_equal(moved.index.matrix[:ITEMS], grown.index.matrix[:ITEMS])
    rows, _ = grown.recommend(rows_of(0, 1, 2, 3), k=ITEMS + 2, seen=rows_of())
    assert sorted(rows.tolist()) == list(range(ITEMS + 2))


def test_a_bundle_gives_both_halves_back(tmp_path: Path) -> None:
    both = hybrid(0.5, alpha=0.25)
    path = write_bundle(
        tmp_path, "toy", kind=both.kind, recipe="toy", config={}, data_fingerprint="f", metrics={}, fill=both.save
    )
    back = load_recommender(path)
    assert isinstance(back, Hybrid)
    assert back.alpha == 0.25
    for one, other in ((both, back), (both.with_items(NEW), back.with_items(NEW))):
        for history in HISTORIES:
            for found, expected in zip(one.recommend(history, 9), other.recommend(history, 9), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_retrieval_is_exact_where_words_lift_what_behaviour_calls_hopeless() -> None:
    """e to the -120 is 0 in float32, as a probability by behaviour; words lift item 7 above all others."""
    base = toy.fitted().recommender(0.5)
    nothing = torch.zeros_like(base.vectors)
    hopeless, liked = torch.full((ITEMS,), -200.0), torch.zeros(ITEMS)
    hopeless[:2], hopeless[7], liked[7] = torch.tensor([0.0, -50.0]), -120.0, 40.0
    half = toy.elsewhere(words(), torch.zeros_like(words().vectors), liked)
    both = Hybrid(toy.elsewhere(base, nothing, hopeless), half, 4.0)
    (taste,) = both.generate(both.encode([rows_of(3)]), [Dials()])
    rows, scores = both.retrieve(taste, everything(), 2)
    assert rows.tolist() == [7, 0]
    np.testing.assert_allclose(scores, both.score(taste)[rows], atol=1e-3)
    np.testing.assert_allclose(both.rough(taste), both.score(taste), atol=both.slack(taste).most)
    assert both.log_partition(taste) == pytest.approx(40.0, abs=0.1)


def reversed_trunk(half: ContinuousRecommender) -> ContinuousRecommender:
    """One that says the opposite of what it knows."""
    wrong = copy.copy(half)
    wrong.trunk = copy.deepcopy(half.trunk)
    wrong.trunk.anchor.weight.data.neg_()
    return wrong


def test_alpha_is_the_best_of_validation_and_none_where_the_words_only_harm() -> None:
    whole = toy.fitted()
    behaviour = whole.recommender(0.0)
    weights = (0.0, 0.5, 1.0)
    alpha, tried, lead = choose_alpha(reversed_trunk(behaviour), words(), whole.prepared, weights, users=1000, seed=0)
    assert set(tried) == {"0", "0.5", "1"}
    assert alpha == float(max(("0.5", "1"), key=lambda name: tried[name]))
    assert lead[0] == pytest.approx(tried[f"{alpha:g}"] - tried["0"])
    assert lead[1] > 0
    harm = choose_alpha(behaviour, reversed_trunk(words()), whole.prepared, (1.0,), users=1000, seed=0)
    assert harm[0] == 0.0
