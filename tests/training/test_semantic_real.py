"""DiffGRM on real data: two epochs on MovieLens-100K are enough to leave popularity behind, part by part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.baselines import Popularity
from training.data.prepare import prepare
from training.evaluate import evaluate
from training.train import train

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_it_learns_ml_100k(data_root: Path, tmp_path: Path) -> None:
    prepared = prepare("ml-100k", data_root / "ml-100k-raw", tmp_path / "ml-100k")
    path = train(
        tmp_path / "ml-100k",
        "diffgrm",
        "tiny",
        bundles=tmp_path / "bundles",
        name="ml-100k",
        overrides=["network.epochs=2", "network.tokens_per_step=2048"],
    )
    report = json.loads(path.with_name(f"{path.name}.report.json").read_text())
    assert report["codes"]["codes"] == 128
    assert report["codes"]["ids"] > 1_500, "of 1,682 items few share an id"
    popular = evaluate(Popularity.fit(prepared), prepared, "test").ndcg(10)
    assert report["metrics"]["test"]["ndcg@10"] > 1.5 * popular
    tried = report["decoding"]["ndcg@10 by weight of digits"]
    assert max(tried.values()) > tried["0"], "the digits add to the item-level score that they were trained with"
    explored = {line["explore"]: line["coverage@10"] for line in report["exploring"]}
    assert explored[1.0] > 1.2 * explored[0.0]
