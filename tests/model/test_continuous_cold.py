"""New items of ContRec: where they are placed, with what bias, at what cost to the others, and through a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import load_recommender
from model.bundle import write_bundle
from model.catalogue import Item
from model.cold import starting_bias
from model.continuous.cold import ColdItems
from model.continuous.recommender import ContinuousRecommender
from model.recommender import Dials
from model.text import KeptEncoder
from tests.contracts.recommender_contract import ITEMS, WORLD, rows_of
from tests.model import fitted as toy

NEW = [Item("new-1", text="Part 5 of the harbour walk."), Item("new-2", "Orchard part 3", ("orchard",))]


def test_a_new_item_lies_where_its_text_says(fitted: toy.Fitted) -> None:
    """E = P(tokens of the text, collaborative block hidden), written out, and the bias that new items start from."""
    grown = fitted.recommender(0.5).with_items(NEW)
    text = torch.from_numpy(fitted.encoder.encode(["Part 5 of the harbour walk.", "Orchard part 3. orchard"]))
    signals = torch.cat([torch.full((2, fitted.tokenizer.shape.collaborative), 99.0), text], dim=1)
    with torch.no_grad():
        tokens = fitted.tokenizer.encode(signals, torch.tensor([False, False]))
        expected = fitted.trunk.space.project(tokens.flatten(1))
    torch.testing.assert_close(grown.vectors[ITEMS:], expected, atol=1e-5, rtol=1e-5)
    known = fitted.recommender(0.5)
    assert grown.bias[ITEMS:].tolist() == [starting_bias(known.bias, torch.from_numpy(known.counts))] * 2
    assert grown.counts[ITEMS:].tolist() == [0, 0]


def test_a_grown_recommender_equals_one_rebuilt(fitted: toy.Fitted) -> None:
    """The delta is exact: tastes and lists equal those of a recommender built over the whole matrix."""
    known = fitted.recommender(0.5)
    grown = known.with_items(NEW[:1]).with_items(NEW[1:])
    rebuilt = ContinuousRecommender(
        grown.catalogue,
        grown.trunk,
        grown.head,
        grown.vectors.clone(),
        grown.bias.clone(),
        torch.from_numpy(grown.counts),
        grown.mixture,
        max_profile=grown.max_profile,
    )
    histories = [rows_of(), rows_of(3, ITEMS), rows_of(ITEMS + 1), rows_of(*range(ITEMS + 2))]
    every = np.ones(ITEMS + 2, dtype=np.bool_)
    for one, other in zip(grown.encode(histories), rebuilt.encode(histories), strict=True):
        assert one.to_bytes() == other.to_bytes()
        (a,), (b,) = grown.generate([one], [Dials()]), rebuilt.generate([other], [Dials()])
        for found, expected in zip(grown.retrieve(a, every, 9), rebuilt.retrieve(b, every, 9), strict=True):
            np.testing.assert_array_equal(found, expected)
        # Normalised by the rough scores, new items among them; a score is as near to those as the sieve proves.
        assert float(np.exp(grown.rough(a).astype(np.float64)).sum()) == pytest.approx(1, abs=1e-5)
        assert (np.abs(grown.score(a) - grown.rough(a)) <= grown.slack(a).of(np.arange(ITEMS + 2))).all()
    for found, expected in zip(
        grown.neighbours(rows_of(3, ITEMS), every, 9), rebuilt.neighbours(rows_of(3, ITEMS), every, 9), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_the_nearest_of_a_new_item_are_of_its_world(fitted: toy.Fitted) -> None:
    grown = fitted.recommender(0.0).with_items(
        [Item("new", "Orchard part 4", ("orchard",), "Part 4 of the orchard walk.")]
    )
    near, _ = grown.similar(ITEMS, np.ones(ITEMS + 1, dtype=np.bool_), 5)
    assert (near >= WORLD).sum() >= 4, "the text says orchard"


def test_another_text_moves_an_added_item_and_no_other(fitted: toy.Fitted) -> None:
    once = fitted.recommender(0.0).with_items(NEW)
    again = once.with_items([Item("new-1", text="Part 9 of the orchard walk."), Item("item-3", text="Something else.")])
    fresh = fitted.recommender(0.0).with_items([Item("new-1", text="Part 9 of the orchard walk."), NEW[1]])
    torch.testing.assert_close(again.vectors, fresh.vectors)
    assert not torch.equal(again.vectors[ITEMS], once.vectors[ITEMS])
    assert torch.equal(again.vectors[:ITEMS], once.vectors[:ITEMS])
    titled = once.with_items([Item("new-1", "Only a title now", text="Part 5 of the harbour walk.")])
    assert np.shares_memory(titled.index.memory, once.index.memory), "the same text costs no copy"


def test_new_items_after_a_bundle_are_as_before_it(fitted: toy.Fitted, tmp_path: Path) -> None:
    recommender = fitted.recommender(0.5)
    path = write_bundle(
        tmp_path,
        "toy",
        kind="continuous",
        recipe="r",
        config={},
        data_fingerprint="f",
        metrics={},
        fill=recommender.save,
    )
    loaded = load_recommender(path)
    assert isinstance(loaded, ContinuousRecommender)
    torch.testing.assert_close(loaded.with_items(NEW).vectors, recommender.with_items(NEW).vectors, atol=0, rtol=0)


def test_without_the_parts_a_new_item_lies_at_the_origin(fitted: toy.Fitted, tmp_path: Path) -> None:
    """Bundles from before they were saved load, and take new items: found by filter, ranked by bias."""
    recommender = fitted.recommender(0.5)
    recommender.cold = None
    recommender.save(tmp_path)
    loaded = ContinuousRecommender.load(tmp_path)
    assert loaded.cold is None
    grown = loaded.with_items(NEW)
    assert not grown.vectors[ITEMS:].any()
    only = np.arange(ITEMS + 2) >= ITEMS
    assert sorted(grown.recommend(rows_of(3), 5, eligible=only)[0].tolist()) == [ITEMS, ITEMS + 1]
    assert len(grown.neighbours(rows_of(ITEMS), only, 5)[0]) == 2


def test_an_encoder_that_cannot_be_loaded_is_said_when_it_is_needed(fitted: toy.Fitted) -> None:
    recommender = fitted.recommender(0.0)
    nowhere = KeptEncoder(None, "/no/such/encoder")
    recommender.cold = ColdItems(fitted.tokenizer, fitted.trunk.space.project.weight, nowhere)
    with pytest.raises(ValueError, match="/no/such/encoder"):
        recommender.with_items(NEW)
    assert len(recommender.catalogue) == ITEMS


def test_new_items_start_like_the_least_met_that_were_met() -> None:
    counts = torch.tensor([0, 50, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, *([30] * 9)])
    bias = torch.where(counts == 0, -9.0, torch.where(counts == 1, -2.0, 1.0))
    assert starting_bias(bias, counts) == -2.0
    assert starting_bias(bias, torch.zeros(21, dtype=torch.int64)) == pytest.approx(float(bias.mean()))
