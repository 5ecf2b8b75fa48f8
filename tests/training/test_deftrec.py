"""DeftRec is a recipe of ContRec's parts: it trains, serves, and moves away from what users said they dislike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import load_recommender
from model.bundle import read_manifest
from model.recommender import Dials
from training.data.prepared import TRAIN, Negatives, Prepared
from training.recipe import load_recipe
from training.recipes.continuous import ContinuousRecipe
from training.stages.head import FittedHead, fit_head
from training.stages.trunk import FittedTrunk, fit_trunk
from training.train import train

SMALL = (
    "signals.spectral_dim=16",
    "signals.text_dim=16",
    "tokenizer.token_dim=8",
    "tokenizer.hidden=16",
    "tokenizer.epochs=2",
    "trunk.width=32",
    "trunk.layers=1",
    "trunk.heads=2",
    "trunk.feed_forward=32",
    "trunk.max_history=20",
    "trunk.epochs=2",
    "trunk.warmup_steps=5",
    "head.hidden=32",
    "head.epochs=1",
    "head.steps_per_epoch=60",
    "head.learning_rate=3e-3",
)
HATED = 7


@pytest.fixture(scope="module")
def hating(demo: Prepared) -> Prepared:
    """The synthetic world, in which every user has met one item and disliked it."""
    users = len(demo.users)
    return replace(
        demo,
        negatives=Negatives(
            offsets=np.arange(users + 1, dtype=np.int64),
            items=np.full(users, HATED, dtype=np.int32),
            times=np.zeros(users, dtype=np.int64),
            values=np.ones(users, dtype=np.float32),
            split=np.full(users, TRAIN, dtype=np.int8),
        ),
    )


@pytest.fixture(scope="module")
def trunk(hating: Prepared) -> FittedTrunk:
    tokens = torch.randn(len(hating.catalogue), 2, 8, generator=torch.Generator().manual_seed(0))
    return fit_trunk(hating, tokens, recipe().trunk, seed=0)


def recipe(*overrides: str) -> ContinuousRecipe:
    found = load_recipe("deftrec", "tiny", [*SMALL, *overrides])
    assert isinstance(found, ContinuousRecipe)
    return found


def head_of(prepared: Prepared, trunk: FittedTrunk, *overrides: str) -> FittedHead:
    chosen = recipe(*overrides)
    return fit_head(prepared, trunk.recommender(prepared, chosen.trunk.max_profile), chosen.head, chosen.trunk, seed=0)


def hated_log_probability(prepared: Prepared, trunk: FittedTrunk, head: FittedHead) -> float:
    """Mean over users, by the samples of the head alone."""
    recommender = trunk.recommender(prepared, 100).with_head(head.head, replace(head.mixture, weight=1.0))
    tokens = recommender.encode(prepared.evaluation("test").histories[:50])
    tastes = recommender.generate(tokens, [Dials()] * len(tokens))
    return float(np.mean([recommender.score(taste)[HATED] for taste in tastes]))


@pytest.mark.parametrize("form", ["softmax", "margin"])
def test_what_everybody_dislikes_becomes_less_likely(hating: Prepared, trunk: FittedTrunk, form: str) -> None:
    aware = head_of(hating, trunk, f"head.negatives={form}", "head.negative=2.0")
    blind = head_of(hating, trunk, f"head.negatives={form}", "head.negative=0.0")
    assert aware.epochs[0]["negative"] > 0 == blind.epochs[0]["negative"]
    gap = hated_log_probability(hating, trunk, blind) - hated_log_probability(hating, trunk, aware)
    assert gap > 0.5


def test_without_a_dislike_the_default_form_changes_nothing(demo: Prepared, trunk: FittedTrunk) -> None:
    with_weight = head_of(demo, trunk, "head.negative=2.0").head.state_dict()
    without = head_of(demo, trunk, "head.negative=0.0").head.state_dict()
    assert all(torch.equal(with_weight[name], without[name]) for name in without)


def test_preferdiff_needs_no_dislike(demo: Prepared, trunk: FittedTrunk) -> None:
    fitted = head_of(demo, trunk, "head.negatives=preferdiff", "head.negative=0.5")
    assert 0 < fitted.epochs[0]["negative"] < 10


def test_the_recipe_trains_and_its_bundle_serves(hating: Prepared, tmp_path: Path) -> None:
    hating.write(tmp_path / "data")
    path = train(tmp_path / "data", "deftrec", "tiny", bundles=tmp_path / "bundles", name="deft", overrides=SMALL)
    assert read_manifest(path).recipe == "deftrec/tiny"
    assert not (path / "text_half").exists(), "the first version has no text half"
    recommender = load_recommender(path)
    rows, _ = recommender.recommend(hating.history(0)[:5], k=5)
    assert len(set(rows.tolist())) == 5
    assert recipe().tokenizer.sigma == 0
