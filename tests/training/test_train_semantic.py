"""`contrec train --recipe diffgrm`, whole: prepared data in, a bundle that answers out; and the recipe's bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import load_recommender
from model.bundle import verify
from model.golden import check, read_golden
from model.semantic.decoding import Decoding
from model.semantic.recommender import SemanticRecommender
from tests.contracts.recommender_contract import ITEMS, rows_of
from tests.model import fitted_semantic as toy
from tests.model.fitted import toy_prepared
from training.evaluate import Metrics, evaluate, recommender_scorer
from training.recipe import RecipeError, load_recipe
from training.recipes.semantic import DecodingPart, SemanticRecipe
from training.stages import semantic_decoding
from training.stages.semantic_decoding import fit_decoding
from training.train import train

QUICK = ("network.epochs=2", "network.tokens_per_step=256", "network.width=32", "decoding.weights=[0.0, 1.0]")


def test_from_prepared_data_to_a_bundle_that_answers(tmp_path: Path) -> None:
    prepared = toy_prepared()
    prepared.write(tmp_path / "prepared")

    def run(seed: int) -> Path:
        return train(
            tmp_path / "prepared",
            "diffgrm",
            "tiny",
            bundles=tmp_path / "bundles",
            name="toy",
            seed=seed,
            overrides=QUICK,
        )

    path = run(0)
    manifest = verify(path)
    assert manifest.kind == "semantic"
    assert manifest.recipe == "diffgrm/tiny"
    assert {"encoding.safetensors", "items.safetensors", "network.safetensors", "text/hashed.safetensors"} <= set(
        manifest.files
    )
    report = json.loads(path.with_name(f"{path.name}.report.json").read_text())
    assert report["codes"]["items"] == ITEMS
    assert report["codes"]["codes"] == 2, "a small catalogue gets fewer codes"
    assert set(report["seconds"]) == {"signals", "codes", "network", "decoding", "evaluation"}
    assert set(report["decoding"]["ndcg@10"]) <= {"0", "1"}
    assert "fully_masked_alone" in report
    recommender = load_recommender(path)
    assert isinstance(recommender, SemanticRecommender)
    rows, _ = recommender.recommend(rows_of(3, 4), k=5)
    assert len(rows) == 5
    check(recommender, read_golden(path))
    assert run(0) == path, "the same data, recipe and seed give the same bundle"
    assert run(1) != path


def test_a_run_that_comes_to_nothing_says_so_in_one_sentence(tmp_path: Path) -> None:
    toy_prepared().write(tmp_path / "prepared")
    overrides = [*QUICK, "network.learning_rate=1e30"]
    sentence = r"^the network's loss is not finite in epoch \d: lower network.learning_rate$"
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path / "prepared", "diffgrm", "tiny", bundles=tmp_path / "bundles", name="toy", overrides=overrides)
    assert not list((tmp_path / "bundles").rglob("*")), "a failed run publishes nothing"


def test_conditional_passes_are_served_only_where_their_lead_is_surer_than_chance() -> None:
    fitted = toy.fitted()
    recommender = fitted.recommender(Decoding())
    part = DecodingPart(beam=0, candidates=10, steps=4, digit_weights=(0.0, 1.0), weights=(0.0, 1.0))
    decoding, report = fit_decoding(fitted.prepared, recommender, part, users=100, seed=0)
    by_digits = report["ndcg@10 by weight of digits"]
    assert by_digits[f"{decoding.digits:g}"] == max(by_digits.values())
    part = part.model_copy(update={"digit_weights": (1.0,)})
    decoding, report = fit_decoding(fitted.prepared, recommender, part, users=100, seed=0)
    assert (decoding.weight > 0) == (report["lead"][1] > 0)
    assert decoding.candidates == 10
    alone, said = fit_decoding(
        fitted.prepared, recommender, part.model_copy(update={"weights": (0.0,)}), users=100, seed=0
    )
    assert alone.weight == 0
    assert set(said["ndcg@10"]) == {"0"}


def test_who_chose_the_weight_of_the_conditional_passes_does_not_prove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is best by far for every second user and gains nothing for the others is chosen, and not served."""
    fitted = toy.fitted()
    recommender = fitted.recommender(Decoding())
    plain = evaluate(recommender_scorer(recommender), fitted.prepared, "validation")

    def judged(self: Any, digits: float, weight: float) -> Metrics:
        ranks = np.full(len(plain.ranks), 9)
        if weight == 1.0:
            ranks[::2] = 1
        if weight == 0.5:
            ranks[1::2] = 1  # the others would choose this one
        return replace(plain, ranks=ranks)

    monkeypatch.setattr(semantic_decoding._Validation, "__call__", judged)
    part = DecodingPart(beam=0, candidates=10, steps=4, digit_weights=(1.0,), weights=(0.0, 0.5, 1.0))
    decoding, report = fit_decoding(fitted.prepared, recommender, part, users=100, seed=0)
    assert report["lead"] == (0.0, 0.0, 0.0)
    assert decoding.weight == report["weight"] == 0.0


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_every_size_is_complete(size: str) -> None:
    recipe = load_recipe("diffgrm", size)
    assert isinstance(recipe, SemanticRecipe)
    assert recipe.network.digit_dim * recipe.codes.digits == recipe.network.width or size == "base"
    assert np.isfinite(recipe.network.learning_rate)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("codes.codes=100", r"codes: codes 100 must be a power of two"),
        ("codes.digits=7", r"codes\.digits"),
        ("network.width=130", r"network: width 130 must be an even multiple of heads 2"),
        ("network.view_share=1.5", r"network\.view_share"),
        ("decoding.weights=[]", r"decoding\.weights"),
        ("trunk.width=3", r"no setting trunk\.width"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("diffgrm", overrides=[override])
