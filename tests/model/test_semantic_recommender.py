"""DiffGRM behind the one interface: the contract in each way of decoding, exploring, collisions, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import load_recommender
from model.bundle import write_bundle
from model.catalogue import Item
from model.recommender import Dials, Recommender, best
from model.semantic.codes import collisions, digest, pack
from model.semantic.decoding import Decoding
from model.semantic.recommender import SemanticRecommender
from tests.contracts.recommender_contract import HISTORIES, ITEMS, WORLD, RecommenderContract, everything, rows_of
from tests.model import fitted_semantic as toy

EXACT = Decoding(candidates=0, weight=0.0)
AGAIN = Decoding(candidates=10, weight=1.0)
BEAM = Decoding(beam=8, weight=1.0)
WAYS = (EXACT, AGAIN, BEAM, replace(AGAIN, steps=2), replace(BEAM, steps=2))


class _OnToyWalks(RecommenderContract):
    decoding: Decoding

    def build(self) -> Recommender:
        return toy.fitted().recommender(self.decoding)

    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        """After item i comes i + 1, in either world, around the ring, and beyond what the tail holds."""
        for history, answer in (([0, 1, 2, 3], 4), ([3], 4), ([15, 16, 17], 18), ([9, 10, 11], 0), ([*range(10)], 10)):
            rows, _ = recommender.recommend(rows_of(*history), k=1)
            assert rows.tolist() == [answer]
        near, _ = recommender.neighbours(rows_of(3, 4), everything(), 4)
        assert (near < WORLD).all(), "neighbours are of the same world"


class TestExactScoring(_OnToyWalks):
    decoding = EXACT


class TestLookedAtAgain(_OnToyWalks):
    decoding = AGAIN


class TestBeam(_OnToyWalks):
    decoding = BEAM


def test_items_that_share_an_id_are_each_recommended_as_themselves() -> None:
    """Fault 2.1 of the published code: its reverse map keeps the last item of a shared id and loses the others."""
    fitted = toy.fitted()
    assert collisions(fitted.digits)["colliding_items"] > 0, "the toy catalogue has more items than ids"
    asked = fitted.prepared.evaluation("validation").histories
    for decoding in WAYS:
        recommender = fitted.recommender(decoding)
        first = {int(recommender.recommend(history, k=1)[0][0]) for history in asked}
        assert first == set(range(ITEMS)), "every item is somebody's first answer"
    keys = pack(fitted.digits)
    shared = next(np.flatnonzero(keys == key) for key in keys if (keys == key).sum() > 1)
    recommender = fitted.recommender(EXACT)
    (taste,) = recommender.generate(recommender.encode([rows_of(2)]), [Dials()])
    assert len(set(recommender.score(taste)[shared].tolist())) == len(shared), "equal digits, yet scores of their own"


@pytest.mark.parametrize("decoding", WAYS)
def test_a_short_filter_is_filled_to_the_last_eligible_item_without_repeats(decoding: Decoding) -> None:
    """Fault 2.8.5: short lists were padded with duplicates."""
    recommender = toy.fitted().recommender(decoding)
    eligible = np.zeros(ITEMS, dtype=np.bool_)
    eligible[[13, 20, 22]] = True  # of the other world: no beam and no candidate ends there
    rows, _ = recommender.recommend(rows_of(1, 2, 3), k=10, eligible=eligible)
    assert sorted(rows.tolist()) == [13, 20, 22]


@pytest.mark.parametrize("decoding", WAYS)
@pytest.mark.parametrize("explore", [0.0, 0.7])
def test_the_scores_of_a_batch_equal_their_plain_twin(decoding: Decoding, explore: float) -> None:
    recommender = toy.fitted().recommender(decoding)
    histories = HISTORIES * 2  # enough for the way of a large batch
    tokens = recommender.encode(histories)
    tastes = recommender.generate(tokens, [Dials(explore=explore, seed=n) for n in range(len(histories))])
    tastes += recommender.generate(tokens[:2], [Dials(explore=explore, seed=n) for n in range(2)])
    for taste in tastes:
        assert taste.scores is not None
        np.testing.assert_allclose(taste.scores, recommender.score(taste), atol=1e-4)


@pytest.mark.parametrize("decoding", WAYS)
def test_a_catalogue_too_large_to_carry_scores_answers_the_same(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = toy.fitted().recommender(decoding)
    tokens = recommender.encode(HISTORIES)
    before = recommender.generate(tokens, [Dials()] * len(HISTORIES))
    monkeypatch.setattr("model.semantic.recommender.DENSE_ITEMS", ITEMS - 1)
    for one, other in zip(before, recommender.generate(tokens, [Dials()] * len(HISTORIES)), strict=True):
        assert other.scores is None
        found, again = recommender.retrieve(one, everything(), 5), recommender.retrieve(other, everything(), 5)
        assert found[0].tolist() == again[0].tolist()
        np.testing.assert_allclose(found[1], again[1], atol=1e-4)


def test_corrections_move_candidates_among_themselves_only() -> None:
    exact, again = toy.fitted().recommender(EXACT), toy.fitted().recommender(AGAIN)
    tokens = exact.encode(HISTORIES)
    plain, corrected = exact.generate(tokens, [Dials()] * 6), again.generate(tokens, [Dials()] * 6)
    for one, other in zip(plain, corrected, strict=True):
        difference = again.score(other) - exact.score(one)
        touched = best(exact.score(one), everything(), AGAIN.candidates)[0]
        assert set(np.flatnonzero(difference).tolist()) <= set(touched.tolist())
        assert abs(float(difference.sum())) < 1e-4
        assert np.abs(difference).max() > 1e-4, "a correction of nothing would prove nothing"


@pytest.mark.parametrize("decoding", WAYS)
def test_a_seed_gives_one_list_alone_and_in_a_batch_and_another_seed_another(decoding: Decoding) -> None:
    recommender = toy.fitted().recommender(decoding)
    tokens = recommender.encode([rows_of(5, 6), rows_of(), rows_of(20, 21, 22)])
    dials = [Dials(explore=1.0, seed=seed) for seed in (3, 4, 3)]

    def lists(dials: list[Dials]) -> list[list[int]]:
        return [
            recommender.retrieve(taste, everything(), ITEMS)[0].tolist()
            for taste in recommender.generate(tokens, dials)
        ]

    together = lists(dials)
    alone = [
        recommender.retrieve(recommender.generate([token], [dial])[0], everything(), ITEMS)[0].tolist()
        for token, dial in zip(tokens, dials, strict=True)
    ]
    assert alone == together
    moved = lists([replace(dial, seed=dial.seed + 100) for dial in dials])
    assert all(one != other for one, other in zip(moved, together, strict=True))


@pytest.mark.parametrize("decoding", WAYS)
def test_who_does_not_explore_is_untouched_by_who_does_and_by_the_seed(decoding: Decoding) -> None:
    recommender = toy.fitted().recommender(decoding)
    tokens = recommender.encode([rows_of(5, 6), rows_of(1), rows_of(20)])
    plain = recommender.generate(tokens, [Dials(seed=n) for n in range(3)])
    mixed = recommender.generate(tokens, [Dials(), Dials(explore=0.9, seed=1), Dials()])
    for n in (0, 2):
        np.testing.assert_array_equal(recommender.score(plain[n]), recommender.score(mixed[n]))
    assert not np.allclose(recommender.score(plain[1]), recommender.score(mixed[1]))


def test_what_is_looked_at_again_takes_back_nothing_of_exploring() -> None:
    """Everything is looked at again, so what exploring adds is the noise of an item's own digits and nothing else."""
    every = Decoding(digits=1.0, candidates=ITEMS, weight=1.0, steps=4)
    (token,) = toy.fitted().recommender(EXACT).encode([rows_of(5, 6)])
    added = []
    for decoding in (EXACT, every):
        recommender = toy.fitted().recommender(decoding)
        standing, exploring = recommender.generate([token, token], [Dials(), Dials(explore=1.0, seed=3)])
        added.append(recommender.score(exploring) - recommender.score(standing))
    assert EXACT.digits == every.digits
    assert np.abs(added[0]).max() > 0.5
    np.testing.assert_allclose(added[1], added[0], atol=1e-4)


@pytest.mark.parametrize("digits", [0.0, 0.3, 1.0])
def test_exploring_goes_further_the_more_it_is_turned_up(digits: float) -> None:
    """Whatever the digits weigh: where validation wants none of them, exploring once did nothing."""
    recommender = toy.fitted().recommender(replace(EXACT, digits=digits))
    (token,) = recommender.encode([rows_of(5, 6)])
    first = recommender.generate([token], [Dials()])[0].table

    def moved(explore: float) -> float:
        dials = [Dials(explore=explore, seed=seed) for seed in range(50)]
        return float(np.mean([np.abs(t.table - first).mean() for t in recommender.generate([token] * 50, dials)]))

    assert 0 < moved(0.1) < moved(0.4) < moved(1.0)


@pytest.mark.parametrize("decoding", WAYS)
def test_what_a_bundle_carries_answers_the_same(tmp_path: Path, decoding: Decoding) -> None:
    recommender = toy.fitted().recommender(decoding)
    path = write_bundle(
        tmp_path,
        "toy",
        kind=recommender.kind,
        recipe="diffgrm/tiny",
        config={},
        data_fingerprint="f00d",
        metrics={},
        fill=recommender.save,
    )
    loaded = load_recommender(path)
    assert isinstance(loaded, SemanticRecommender)
    assert loaded.decoding == decoding
    assert digest(loaded.network.digits.numpy().astype(np.uint8)) == digest(toy.fitted().digits)
    dials = [Dials(explore=0.5 * (n % 2), seed=n) for n in range(len(HISTORIES))]
    before, after = recommender.encode(HISTORIES), loaded.encode(HISTORIES)
    for one, other in zip(before, after, strict=True):
        assert one.to_bytes() == other.to_bytes()
    for one, other in zip(recommender.generate(before, dials), loaded.generate(after, dials), strict=True):
        np.testing.assert_array_equal(recommender.score(one), loaded.score(other))


# ----------------------------------------------------------------------------------------------------------------
# New items


@pytest.mark.parametrize("decoding", WAYS)
def test_a_new_item_is_found_by_the_id_of_its_text(decoding: Decoding) -> None:
    recommender = toy.fitted().recommender(decoding)
    twin_of = recommender.catalogue[7]
    grown = recommender.with_items([replace(twin_of, item_id="new")])
    expected = toy.fitted().cold.digits([twin_of])[0]
    np.testing.assert_array_equal(grown.digits[ITEMS].numpy(), expected)
    same = np.flatnonzero((grown.digits.numpy() == expected).all(axis=1))
    assert ITEMS in same
    (taste,) = grown.generate(grown.encode([rows_of(4, 5, 6)]), [Dials()])
    assert np.isfinite(grown.score(taste)).all()
    leaves = grown.lattice.nodes(expected)
    items = grown.lattice.items[grown.lattice.first[leaves] : grown.lattice.first[leaves + 1]]
    assert ITEMS in items.tolist(), "a beam that ends at the id offers the new item too"


def test_a_new_item_whose_text_changes_moves_and_a_trained_one_stays() -> None:
    recommender = toy.fitted().recommender(EXACT)
    first, other = recommender.catalogue[1], recommender.catalogue[20]
    grown = recommender.with_items([replace(first, item_id="new")])
    moved = grown.with_items([replace(other, item_id="new"), replace(other, item_id="item-3")])
    np.testing.assert_array_equal(moved.digits[ITEMS].numpy(), toy.fitted().cold.digits([other])[0])
    np.testing.assert_array_equal(moved.digits[3].numpy(), recommender.digits[3].numpy())
    np.testing.assert_array_equal(grown.digits[ITEMS].numpy(), toy.fitted().cold.digits([first])[0])


def test_a_bundle_of_items_added_since_is_refused(tmp_path: Path) -> None:
    grown = toy.fitted().recommender(EXACT).with_items([Item("new", "Harbour part 13")])
    with pytest.raises(ValueError, match="added since training"):
        grown.save(tmp_path)
