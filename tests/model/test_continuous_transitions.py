"""What followed the last items: the share by hand and by the baseline, exact retrieval, new items, and a bundle."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import load_recommender
from model.bundle import write_bundle
from model.catalogue import Item, Rows
from model.continuous.hybrid import Hybrid
from model.continuous.transitions import NEAREST, Transitions, WithTransitions
from model.index import ItemIndex
from model.recommender import Dials, Floats, Recommender, UserTokens, best
from tests.contracts.recommender_contract import (
    HISTORIES,
    ITEMS,
    WORLD,
    everything,
    rows_of,
)
from tests.model import fitted as toy
from tests.model.test_continuous_hybrid import ThreeRightAnswers, hybrid
from training import baselines
from training.stages.transitions import choose_weight, fit_transitions

NEW = [Item("new-1", "Orchard part 3", ("orchard",)), Item("new-2", text="Part 5 of the harbour walk.")]


@functools.cache
def counted() -> Transitions:
    return fit_transitions(toy.toy_prepared(), keep=5)


def with_transitions(base: str = "hybrid", weight: float = 0.5, mixture: float = 0.5) -> WithTransitions:
    beneath = hybrid(mixture) if base == "hybrid" else toy.fitted().recommender(mixture)
    return WithTransitions(beneath, counted(), weight, 1e-3)


class _WithTransitions(ThreeRightAnswers):
    base: str
    mixture: float

    def build(self) -> Recommender:
        return with_transitions(self.base, mixture=self.mixture)


class TestOverAHybridWithMixture(_WithTransitions):
    base, mixture = "hybrid", 0.5


class TestOverAHybridOfTrunks(_WithTransitions):
    base, mixture = "hybrid", 0.0


class TestOverAMixture(_WithTransitions):
    base, mixture = "behaviour", 1.0


class TestOverATrunk(_WithTransitions):
    base, mixture = "behaviour", 0.0


# ----------------------------------------------------------------------------------------------------------------
# The table


def test_the_share_by_hand() -> None:
    """Item 0 was followed by 1 (3 times) and 2 (once), item 1 by 2 (twice), item 2 by nothing."""
    counts = np.array([3, 1, 2], dtype=np.float32)
    table = Transitions(np.array([0, 2, 3, 3]), np.array([1, 2, 2], dtype=np.int32), counts, window=2, decay=0.5)
    np.testing.assert_allclose(table.weights(2), [1, 0.5])
    rows, share = table.after(rows_of(1, 0), table.weights(2))  # newest first: 2 * 1 for item 2, and half of (3, 1)
    assert rows.tolist() == [1, 2]
    np.testing.assert_allclose(share, [1.5 / 4, 2.5 / 4])
    for nothing in (rows_of(), rows_of(2)):
        rows, share = table.after(nothing, table.weights(len(nothing)))
        assert len(rows) == len(share) == 0


def test_the_share_is_that_of_the_baseline_for_every_history() -> None:
    prepared = toy.toy_prepared()
    whole, table = baselines.Transitions.fit(prepared), fit_transitions(prepared, keep=ITEMS)
    for history in HISTORIES:
        scores = whole(rows_of(0), [history])[0]
        last = history[::-1][: table.window]
        rows, share = table.after(last, table.weights(len(last)))
        expected = np.zeros(ITEMS, dtype=np.float32)
        expected[rows] = share
        np.testing.assert_allclose(expected * scores.sum(), scores, rtol=1e-5, atol=1e-6)


def test_it_keeps_what_followed_most() -> None:
    prepared = toy.toy_prepared()
    dense = baselines.Transitions.fit(prepared).follows.toarray()
    table = fit_transitions(prepared, keep=3)
    assert table.starts.tolist() == [*np.cumsum([0, *np.minimum((dense > 0).sum(axis=1), 3)])]
    for row in range(ITEMS):
        line = slice(table.starts[row], table.starts[row + 1])
        assert sorted(table.rows[line].tolist()) == sorted(np.argsort(-dense[row], kind="stable")[:3].tolist())
        np.testing.assert_array_equal(table.counts[line], dense[row, table.rows[line]])


# ----------------------------------------------------------------------------------------------------------------
# The score


@pytest.mark.parametrize("base", ["hybrid", "behaviour"])
@pytest.mark.parametrize("explore", [0.0, 0.6, 1.0])
def test_the_score_is_the_base_s_and_the_logarithm_of_the_share(base: str, explore: float) -> None:
    whole, dials = with_transitions(base, weight=0.7), Dials(explore, seed=3)
    for history in HISTORIES:
        (taste,) = whole.generate(whole.encode([history]), [dials])
        (its,) = whole.base.generate(whole.base.encode([history]), [dials])
        share = np.zeros(ITEMS)
        last = history[::-1][: counted().window]
        rows, known = counted().after(last, counted().weights(len(last)))
        share[rows] = known
        expected = whole.base.score(its) + 0.7 * (1 - explore) * (np.log(share + 1e-3) - math.log(1e-3))
        np.testing.assert_allclose(whole.score(taste), expected, atol=2e-4)
        some = rows_of(5, 0, 17)
        np.testing.assert_allclose(whole.score_rows(taste, some), expected[some], atol=2e-4)
        found, scores = whole.retrieve(taste, everything(), 7)
        plain_rows, plain_scores = best(whole.score(taste), everything(), 7)
        np.testing.assert_array_equal(found, plain_rows)
        np.testing.assert_allclose(scores, plain_scores, atol=2e-4)


@pytest.mark.parametrize("mixture", [0.0, 0.5])
def test_retrieval_is_exact_where_the_base_calls_hopeless_what_followed(mixture: float) -> None:
    """e to the -120 is 0 in float32, as a probability; having followed lifts item 7 to the second."""
    base = toy.fitted().recommender(mixture)
    bias = torch.full((ITEMS,), -200.0)
    bias[0], bias[1], bias[7] = 0.0, -50.0, -120.0
    silent = toy.elsewhere(base, torch.zeros_like(base.vectors), bias)
    line = np.array([0, 0, 0, 0, *[1] * (ITEMS - 3)], dtype=np.int64)
    table = Transitions(line, np.array([7], dtype=np.int32), np.ones(1, dtype=np.float32), window=3, decay=0.5)
    whole = WithTransitions(silent, table, 4.0, 1e-9)
    (taste,) = whole.generate(whole.encode([rows_of(3)]), [Dials()])
    assert silent.score(taste.base)[7] < -100 < silent.score(taste.base)[1]
    rows, scores = whole.retrieve(taste, everything(), 2)
    assert rows.tolist() == [0, 7]
    np.testing.assert_allclose(scores, [0.0, -120.0 + 4 * math.log(1e9)], atol=1e-2)


def test_the_last_items_are_in_the_tokens_and_older_ones_are_not() -> None:
    whole = with_transitions("behaviour")
    long = np.arange(WORLD, dtype=np.int64)
    (token,) = whole.encode([long])
    assert token.condition[-10:].tolist() == long[::-1][:10].tolist()
    (short,) = whole.encode([rows_of(7, 3)])
    assert short.condition[-10:].tolist() == [3, 7, *[-1] * 8]
    (beneath,) = whole.base.encode([long])
    np.testing.assert_array_equal(whole.base_tokens(token).condition, beneath.condition)
    assert len(UserTokens.from_bytes(token.to_bytes()).condition) == len(token.condition)


def test_reasons_name_the_item_that_was_followed() -> None:
    """A base that says nothing: then what followed the last item is all there is."""
    base = toy.fitted().recommender(0.0)
    silent = WithTransitions(base, counted(), 50.0, 1e-3)
    why = silent.explain(rows_of(15, 3), rows_of(4))
    assert why.because[0][0][0] == 3


def test_what_does_not_fit_is_refused() -> None:
    base = toy.fitted().recommender(0.0)
    for weight, floor in ((0.0, 1e-3), (-1.0, 1e-3), (0.5, 0.0), (math.nan, 1e-3)):
        with pytest.raises(ValueError, match="serve the base alone"):
            WithTransitions(base, counted(), weight, floor)
    more = replace(counted(), starts=np.append(counted().starts, counted().starts[-1]))
    with pytest.raises(ValueError, match="transitions of 25 items for 24"):
        WithTransitions(base, more, 0.5, 1e-3)


# ----------------------------------------------------------------------------------------------------------------
# New items, bundle, weight


@pytest.mark.parametrize("base", ["hybrid", "behaviour"])
def test_the_nearest_known_items_stand_in_for_a_new_one(base: str) -> None:
    known = with_transitions(base)
    grown = known.with_items(NEW[:1]).with_items(NEW[1:])
    assert len(known.catalogue) == ITEMS, "the snapshot before stays as it is"
    rows, _ = grown.recommend(rows_of(0, 1, 2, 3), k=ITEMS + 2, seen=rows_of())
    assert sorted(rows.tolist()) == list(range(ITEMS + 2))
    space = grown.base.text if isinstance(grown.base, Hybrid) else grown.base
    units = space.unit_vectors(np.arange(ITEMS + 2))
    near = [np.argsort(-(units[:ITEMS] @ units[ITEMS + n]), kind="stable")[:NEAREST] for n in range(2)]
    share = shares(grown, rows_of(0, 1, 2, 3))
    np.testing.assert_allclose(share[:ITEMS], shares(known, rows_of(0, 1, 2, 3)), atol=1e-6)
    for n in range(2):
        assert share[ITEMS + n] == pytest.approx(share[near[n]].mean(), abs=1e-6)
    # In a history they are followed in its place, and it weighs as much as a known item.
    expected = np.zeros(ITEMS)
    for row, weight in [(3, 0.8), *((int(row), 1 / NEAREST) for row in near[0])]:
        line = slice(counted().starts[row], counted().starts[row + 1])
        np.add.at(expected, counted().rows[line], weight * counted().counts[line])
    np.testing.assert_allclose(shares(grown, rows_of(3, ITEMS))[:ITEMS], expected / expected.sum(), atol=1e-5)


def shares(whole: WithTransitions, history: Rows) -> Floats:
    (taste,) = whole.generate(whole.encode([history]), [Dials()])
    found = np.zeros(len(whole.catalogue), dtype=np.float32)
    found[taste.rows] = np.expm1(taste.bonus / whole.weight) * whole.floor
    return found


@pytest.mark.parametrize("base", ["hybrid", "behaviour"])
def test_tokens_mean_the_same_to_a_replica_that_has_other_rows_for_what_was_added(base: str) -> None:
    """One that started later reads the items in the order of their last change, and none that was withdrawn since."""
    known = with_transitions(base)
    first, second = known.with_items(NEW), known.with_items(NEW[::-1])
    without = known.with_items(NEW[1:])
    told = rows_of(3, ITEMS, 7)  # ITEMS is the first of NEW, to whom it was added first
    (token,) = first.encode([told])
    (kept,) = first.generate([token], [Dials()])
    for other in (second, without, known):
        (read,) = other.generate([token], [Dials()])
        np.testing.assert_allclose(other.score(read)[:ITEMS], first.score(kept)[:ITEMS], atol=1e-5)
    (read,) = second.generate([token], [Dials()])
    np.testing.assert_allclose(second.score(read)[ITEMS:], first.score(kept)[ITEMS:][::-1], atol=1e-5)


def test_tokens_from_before_stand_ins_were_told_are_read_without_what_was_added() -> None:
    grown = with_transitions().with_items(NEW)
    (token,) = grown.encode([rows_of(3, 7)])
    old = UserTokens(token.condition.copy(), token.profile)
    width = grown.base.condition_width
    old.condition[width : width + 3] = ITEMS + 1, 7, ITEMS + 40
    (taste,) = grown.generate([old], [Dials()])
    expected = counted().after(rows_of(7), counted().weights(2)[1:])
    np.testing.assert_array_equal(taste.rows[taste.rows < ITEMS], expected[0])


def test_new_words_move_the_stand_ins_of_a_new_item_and_of_no_other() -> None:
    grown = with_transitions().with_items(NEW)
    before, harbour = shares(grown, rows_of(0, 1, 2)), shares(grown, rows_of(5, 6))
    moved = grown.with_items([Item("new-1", text="Part 5 of the harbour walk."), Item("item-7", "Other words")])
    after = shares(moved, rows_of(0, 1, 2))
    assert after[ITEMS] == pytest.approx(before[ITEMS + 1], abs=1e-6), "the same words, the same stand-ins"
    np.testing.assert_allclose(np.delete(after, ITEMS), np.delete(before, ITEMS), atol=1e-6)
    np.testing.assert_array_equal(shares(grown, rows_of(5, 6)), harbour), "the snapshot before stays as it is"


def test_an_item_that_training_never_met_and_one_that_is_near_nothing(tmp_path: Path) -> None:
    base = toy.fitted().recommender(0.0)
    base.counts = base.counts.copy()
    base.counts[[4, 5]] = 0
    base.index = ItemIndex(np.where(np.arange(ITEMS)[:, None] == 5, 0, base.index.matrix).astype(np.float32))
    met = ~np.isin(counted().rows, [4, 5])
    whole = WithTransitions(base, replace(counted(), counts=counted().counts * met), 0.5, 1e-3)
    share = shares(whole, rows_of(2, 3))
    units = base.unit_vectors(np.arange(ITEMS))
    near = [row for row in np.argsort(-(units @ units[4]), kind="stable") if row not in (4, 5)][:NEAREST]
    assert share[4] == pytest.approx(share[near].mean(), abs=1e-6)
    assert share[5] == 0, "at the origin nothing is near"
    assert not shares(whole, rows_of(5)).any()
    whole.save(tmp_path)
    stood_in = WithTransitions.around(base, tmp_path)
    np.testing.assert_array_equal(shares(stood_in, rows_of(2, 3)), share)
    np.testing.assert_array_equal(stood_in._near, whole._near)


@pytest.mark.parametrize("base", ["hybrid", "behaviour"])
def test_a_bundle_gives_it_back(base: str, tmp_path: Path) -> None:
    whole = with_transitions(base, weight=0.25)
    path = write_bundle(
        tmp_path, "toy", kind=whole.kind, recipe="toy", config={}, data_fingerprint="f", metrics={}, fill=whole.save
    )
    back = load_recommender(path)
    assert isinstance(back, WithTransitions)
    assert (back.weight, back.floor) == (0.25, 1e-3)
    np.testing.assert_array_equal(back._near, whole._near)
    assert back._near.shape == (0, NEAREST)
    for one, other in ((whole, back), (whole.with_items(NEW), back.with_items(NEW))):
        for history in HISTORIES:
            for found, expected in zip(one.recommend(history, 9), other.recommend(history, 9), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_the_weight_is_the_best_of_validation_and_none_where_it_only_harms() -> None:
    whole = toy.fitted()
    weights = (0.0, 0.5, 1.0)
    # A trunk that reads nothing knows no chain: what followed does.
    mute = toy.elsewhere(whole.recommender(0.0), torch.zeros(ITEMS, whole.recipe.trunk.width))
    weight, tried, lead = choose_weight(
        WithTransitions(mute, counted(), 1.0, 1e-3), whole.prepared, weights, users=1000, seed=0
    )
    assert set(tried) == {"0", "0.5", "1"}
    assert weight == float(max(("0.5", "1"), key=lambda name: tried[name]))
    assert lead[0] == pytest.approx(tried[f"{weight:g}"] - tried["0"])
    assert lead[1] > 0
    # A table that says the opposite of what happened can only harm, and is left out.
    wrong = replace(counted(), rows=(counted().rows + WORLD) % ITEMS)
    harm = WithTransitions(whole.recommender(0.0), wrong, 1.0, 1e-3)
    assert choose_weight(harm, whole.prepared, weights, users=1000, seed=0)[0] == 0.0
