"""bench/quality/short.py, samplers.py, speed.py and negatives.py: what stands beside the cells of a set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bench.quality import __main__ as command
from bench.quality import cells, negatives, page, samplers, short, speed
from model.continuous.mixture import Mixture
from model.continuous.transitions import WithTransitions
from model.recommender import Dials, Popular
from tests.bench.test_quality_table import results, toy_set
from tests.contracts.recommender_contract import HISTORIES
from tests.model.fitted import fitted, toy_prepared
from training.baselines import Popularity
from training.data.prepared import TEST, TRAIN, VALIDATION, Negatives
from training.evaluate import evaluate, recommender_scorer
from training.stages.transitions import fit_transitions

__all__ = ["results", "toy_set"]  # fixtures


def test_who_is_hardly_known_is_asked_for_the_same_items() -> None:
    prepared = toy_prepared()
    told: list[list[int]] = []

    def spying(users: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
        told.append([len(history) for history in histories])
        return popularity(users, histories)

    popularity = Popularity.fit(prepared)
    rows = short.measure({"popularity": popularity, "spying": spying}, prepared)
    whole = [len(history) for history in prepared.evaluation("test").histories]
    for row, lengths in zip(rows, told, strict=True):
        most = max(whole) if row["events"] == "all" else row["events"]
        assert lengths == [min(most, length) for length in whole]
        assert row["ndcg@10"]["popularity"] == row["ndcg@10"]["spying"]
    assert rows[-1]["ndcg@10"]["popularity"] == evaluate(popularity, prepared, "test").ndcg(10)
    assert rows[0]["ndcg@10"]["popularity"] < rows[-1]["ndcg@10"]["popularity"], "what was forgotten is not masked"


def test_the_samplers_are_tried_on_validation_and_the_best_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = toy_prepared()
    served = WithTransitions(fitted().recommender(0.0), fit_transitions(prepared, 5), 1.0, 1e-2)
    monkeypatch.setattr(samplers, "SAMPLERS", ((1, (0.7,)), (2, (0.7, 0.3))))
    found = samplers.measure(served, prepared, users=50)
    tried = found["tried"]
    assert tried[0]["lambda"] == 0
    assert len(tried) >= 1 + 2 * len(samplers.WEIGHTS)
    best = max(tried, key=lambda one: one["ndcg@10"])
    assert found["best"]["lambda"] == best["lambda"]
    expected = evaluate(recommender_scorer(served), prepared, "test").ndcg(10)
    assert found["served"]["test ndcg@10"] == pytest.approx(expected, abs=1e-9)
    assert found["served"]["milliseconds"]["list"] > 0


def test_another_mixture_changes_the_mixture_alone() -> None:
    prepared = toy_prepared()
    served = WithTransitions(fitted().recommender(0.0), fit_transitions(prepared, 5), 1.0, 1e-2)
    same = samplers.with_mixture(served, fitted().recommender(0.0).mixture)
    other = samplers.with_mixture(served, Mixture(4, (0.5,), 0.5))
    scores = [
        np.stack([one.score(taste) for taste in one.generate(one.encode(HISTORIES), [Dials()] * len(HISTORIES))])
        for one in (served, same, other)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    assert np.abs(scores[0] - scores[2]).max() > 1e-3
    assert isinstance(other, WithTransitions)
    assert (other.weight, other.floor) == (served.weight, served.floor)


def test_a_request_costs_something() -> None:
    found = speed.milliseconds(fitted().recommender(0.0), toy_prepared(), users=5)
    assert set(found) == {"history", "list"}
    assert min(found.values()) > 0


def test_how_far_targets_are_above_what_was_disliked_is_a_mean_of_users() -> None:
    prepared = toy_prepared()
    asked = prepared.evaluation("test")
    unmet = [
        np.setdiff1d(np.arange(len(prepared.catalogue)), prepared.items[start:end])
        for start, end in zip(prepared.offsets[:-1], prepared.offsets[1:], strict=True)
    ]
    one, two = asked.users[:2].tolist()
    disliked = {one: unmet[one][:2], two: unmet[two][-1:]}  # the others dislike nothing, and do not count
    trained_on = unmet[two][:3]  # nor does what the forms were trained to push away
    per_user = {one: disliked[one], two: np.concatenate([trained_on, disliked[two]])}
    offsets = np.cumsum([0, *(len(per_user.get(user, ())) for user in range(len(prepared.users)))])
    rows = np.concatenate(list(per_user.values())).astype(np.int32)
    times, values = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), np.nan, dtype=np.float32)
    split = np.array([VALIDATION, TEST, *[TRAIN] * 3, TEST], dtype=np.int8)
    told = Negatives(offsets.astype(np.int64), rows, times, values, split)
    popular = Popular(prepared.catalogue, np.arange(len(prepared.catalogue)) ** 2)
    target = dict(zip(asked.users.tolist(), (asked.targets.astype(float) ** 2).tolist(), strict=True))
    expected = np.mean([target[user] - np.mean(rows.astype(float) ** 2) for user, rows in disliked.items()])
    found = negatives.above_the_disliked(popular, dataclasses.replace(prepared, negatives=told))
    assert found == pytest.approx(expected)


def test_the_page_shows_what_lies_beside_the_cells(
    results: Path, toy_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("popularity", "contrec"):
        assert command.compute("toy", model, 0) == 0
    monkeypatch.setattr(samplers, "SAMPLERS", ((2, (0.7,)),))
    for module in (samplers, short, page):
        monkeypatch.setattr(module, "SETS", command.SETS)
    for module in (samplers, short):
        monkeypatch.setattr("sys.argv", [module.__name__, "toy"])
        module.main()
    page.write_page(cells.read_all(results), tmp_path / "page", results)
    text = (tmp_path / "page" / "table.md").read_text()
    assert "### Who is hardly known" in text
    assert "| last events told | contrec | sasrec-ce-unseen | popularity |" in text
    assert "### Samplers at any cost" in text
    found = json.loads((results / "toy" / "samplers.json").read_text())
    assert f"{found['best']['test ndcg@10']:.4f}" in text
