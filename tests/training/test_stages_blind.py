"""Nothing is fitted on a validation or test event: change them all, and every fitted array is the same to the bit.

One epoch of each stage, so that the choice of a checkpoint, which validation may make, chooses among one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.text import item_text
from training.collaborative import spectral
from training.data.prepared import TRAIN, Prepared
from training.recipe import Recipe, load_recipe
from training.stages.head import fit_head
from training.stages.text_half import fit_text_half
from training.stages.tokenizer import fit_tokenizer
from training.stages.transitions import fit_transitions
from training.stages.trunk import fit_trunk
from training.stages.windows import Windows
from training.text import fit_hashed_text
from training.train import train

ONE_EPOCH = (
    "trunk.width=16",
    "trunk.layers=1",
    "trunk.heads=2",
    "trunk.feed_forward=16",
    "trunk.max_history=10",
    "trunk.epochs=1",
    "tokenizer.epochs=1",
    "tokenizer.token_dim=8",
    "tokenizer.hidden=16",
    "head.hidden=16",
    "head.epochs=1",
    "head.steps_per_epoch=5",
    "head.weights=[0.5]",
    "text_half.epochs=1",
)


@dataclass(frozen=True)
class Everything:
    """Each array that training fits, and what is read on the way."""

    spectral: np.ndarray
    known: np.ndarray
    text: np.ndarray
    tokenizer: Mapping[str, Tensor]
    tokens: Tensor
    batches: list[tuple[Tensor, list[Tensor]]]
    trunk: Mapping[str, Tensor]
    space: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    words: Mapping[str, Tensor]
    counts: np.ndarray
    transitions: tuple[np.ndarray, ...]


def fit(prepared: Prepared, recipe: Recipe) -> Everything:
    offsets, items = prepared.train_histories()
    collaborative, known = spectral(offsets, items, len(prepared.catalogue), recipe.signals.spectral_dim)
    texts = [item_text(item) for item in prepared.catalogue]
    text = fit_hashed_text(texts, recipe.signals.text_buckets, recipe.signals.text_dim).encode(texts)
    tokenizer, tokens, _ = fit_tokenizer(collaborative, known, text, recipe.tokenizer, seed=0)
    windows = Windows(offsets, items, recipe.trunk.max_history, recipe.trunk.max_profile)
    trunk = fit_trunk(prepared, tokens, recipe.trunk, seed=0)
    head = fit_head(prepared, trunk.recommender(prepared, recipe.trunk.max_profile), recipe.head, recipe.trunk, seed=0)
    words = fit_text_half(prepared, text, recipe.text_half, recipe.trunk, seed=0)
    followed = fit_transitions(prepared, recipe.transitions.keep)
    return Everything(
        collaborative,
        known,
        text,
        tokenizer.state_dict(),
        tokens,
        [(batch.rows, batch.before) for batch in windows.epoch(recipe.trunk.tokens_per_step, 0, 0)],
        trunk.trunk.state_dict(),
        trunk.space.state_dict(),
        head.head.state_dict(),
        {**words.trunk.state_dict(), **words.space.state_dict()},
        trunk.recommender(prepared, recipe.trunk.max_profile).counts,
        (followed.starts, followed.rows, followed.counts),
    )


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def worlds(demo: Prepared) -> tuple[Prepared, Prepared]:
    """The demo, and the demo with another item in its validation and test event: half of them never trained on."""
    held_out = demo.split != TRAIN
    # Some items must be there that no training event names, or `known` has nothing to keep secret.
    secret = np.argsort(np.bincount(demo.items[~held_out], minlength=len(demo.catalogue)), kind="stable")[:10]
    kept = ~np.isin(demo.items, secret) | held_out
    first = _keep(demo, kept)
    items = first.items.copy()
    outside = np.flatnonzero(first.split != TRAIN)
    other = np.random.default_rng(0).integers(1, len(demo.catalogue), len(outside))
    items[outside] = (items[outside] + other) % len(demo.catalogue)
    items[outside[::2]] = secret[np.arange(len(outside[::2])) % len(secret)]
    return first, replace(first, items=items)


def _keep(prepared: Prepared, kept: np.ndarray) -> Prepared:
    before = np.concatenate([[0], np.cumsum(kept)])
    return replace(
        prepared,
        offsets=before[prepared.offsets].astype(np.int64),
        items=prepared.items[kept],
        times=prepared.times[kept],
        values=prepared.values[kept],
        split=prepared.split[kept],
    )


@pytest.fixture(scope="module")
def both(worlds: tuple[Prepared, Prepared]) -> tuple[Everything, Everything]:
    recipe = load_recipe("contrec", "tiny", ONE_EPOCH)
    return fit(worlds[0], recipe), fit(worlds[1], recipe)


def test_the_two_worlds_differ_in_held_out_events_alone(worlds: tuple[Prepared, Prepared]) -> None:
    first, second = worlds
    differ = first.items != second.items
    assert differ[first.split != TRAIN].mean() > 0.9
    assert not differ[first.split == TRAIN].any()
    assert first.fingerprint != second.fingerprint


def test_signals_are_blind(both: tuple[Everything, Everything]) -> None:
    first, second = both
    np.testing.assert_array_equal(first.spectral, second.spectral)
    np.testing.assert_array_equal(first.known, second.known)
    np.testing.assert_array_equal(first.text, second.text)
    assert not first.known.all(), "the held-out items of the second world must be unknown to both"


def test_the_tokenizer_is_blind(both: tuple[Everything, Everything]) -> None:
    first, second = both
    assert equal(first.tokenizer, second.tokenizer)
    assert torch.equal(first.tokens, second.tokens)


def test_training_batches_are_blind(both: tuple[Everything, Everything]) -> None:
    first, second = both
    assert len(first.batches) == len(second.batches) > 1
    for (rows, before), (other_rows, other_before) in zip(first.batches, second.batches, strict=True):
        assert torch.equal(rows, other_rows)
        assert all(torch.equal(one, other) for one, other in zip(before, other_before, strict=True))


def test_trunk_and_item_space_are_blind(both: tuple[Everything, Everything]) -> None:
    first, second = both
    assert equal(first.trunk, second.trunk)
    assert equal(first.space, second.space)
    np.testing.assert_array_equal(first.counts, second.counts)


def test_the_head_is_blind(both: tuple[Everything, Everything]) -> None:
    assert equal(both[0].head, both[1].head)


def test_the_text_half_is_blind(both: tuple[Everything, Everything]) -> None:
    assert equal(both[0].words, both[1].words)


def test_the_transitions_are_blind(both: tuple[Everything, Everything]) -> None:
    for one, other in zip(both[0].transitions, both[1].transitions, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_changed_training_event_is_seen_by_every_stage(worlds: tuple[Prepared, Prepared]) -> None:
    """Else the tests above would pass of a training that reads nothing."""
    recipe = load_recipe("contrec", "tiny", ONE_EPOCH)
    first = worlds[0]
    items = first.items.copy()
    event = int(np.flatnonzero(first.split == TRAIN)[5])
    items[event] = (items[event] + 1) % len(first.catalogue)
    one, other = fit(first, recipe), fit(replace(first, items=items), recipe)
    assert not np.array_equal(one.spectral, other.spectral)
    for name in ("tokenizer", "trunk", "space", "head", "words"):
        assert not equal(getattr(one, name), getattr(other, name)), name
    assert not np.array_equal(one.transitions[1], other.transitions[1])


def test_a_whole_run_is_blind_in_every_file_of_its_bundle(worlds: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    """Through `train` itself. Only the mixture and the shares of text half and transitions may differ: validation is
    there to choose them, and where a share is zero the expert stays out of the bundle."""
    files: list[dict[str, bytes]] = []
    for number, prepared in enumerate(worlds):
        prepared.write(tmp_path / f"data{number}")
        # With this seed both runs take every expert, so that every file is compared; also what stands in for an item
        # that was never met, which is near it by words where there is a text half, else by tokens.
        path = train(
            tmp_path / f"data{number}",
            "contrec",
            "tiny",
            bundles=tmp_path / "bundles",
            name="toy",
            seed=1,
            overrides=ONE_EPOCH,
        )
        files.append({str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()})
    shared = files[0].keys() & files[1].keys()
    assert shared > {"items.safetensors", "tokenizer/weights.safetensors"}
    assert shared > {"text_half/items.safetensors", "transitions/near.safetensors"}
    assert all(
        name.startswith(("text_half/", "hybrid.json", "transitions/")) for name in files[0].keys() ^ files[1].keys()
    )
    differ = {name for name in shared if files[0][name] != files[1][name]}
    assert "manifest.json" in differ, "it names the data and what validation and test found"
    shares = {"mixture.json", "hybrid.json", "transitions/weight.json"}
    if differ & shares:
        differ.discard("golden.json")  # its lists are of the whole sum: other shares, other lists
    assert differ <= {"manifest.json"} | shares
