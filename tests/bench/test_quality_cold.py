"""bench/quality/cold.py: items are taken away whole, and found again by their words or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from bench.quality import cold, sets
from model.recommender import Popular
from model.text import item_text
from tests.bench.test_quality_table import QUICK
from tests.model.fitted import toy_prepared
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.synthetic import Sizes
from training.text import fit_hashed_text


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The synthetic world as a set of the table."""
    for module in (sets, cold):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
        monkeypatch.setattr(module, "SETS", MappingProxyType({"toy": sets.Set("toy", "Toy", QUICK)}))
    sizes = Sizes(users=250, items=200, events=20, seed=3)
    return prepare("synthetic", None, tmp_path / "runs" / "prepared" / "toy", sizes=sizes)


def test_new_items_leave_no_event_behind(world: Prepared) -> None:
    new = np.arange(len(world.catalogue)) % 7 == 0
    known = cold.without(world, new)
    gone = {item.item_id for item, is_new in zip(world.catalogue, new, strict=True) if is_new}
    assert gone
    assert not gone & {item.item_id for item in known.catalogue}
    for user in (0, 5, 200):
        before = world.items[world.offsets[user] : world.offsets[user + 1]]
        after = known.items[known.offsets[user] : known.offsets[user + 1]]
        assert [known.catalogue[row].item_id for row in after] == [
            world.catalogue[row].item_id for row in before if not new[row]
        ]


def test_new_items_are_found_by_their_words(
    world: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cold, "AMONG", 40)
    out = tmp_path / "cold.json"
    monkeypatch.setattr("sys.argv", ["cold", "toy", "--share", "0.2", "--out", str(out)])
    cold.main()
    found = json.loads(out.read_text())
    assert found["users"] > 20
    assert found["items"] == 200
    assert found["by lot"] == pytest.approx(0.2)
    assert found["contrec, among 40"] > found["by lot"]
    assert '"users"' in capsys.readouterr().out


def test_who_has_met_one_item_has_no_others_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts put a new item last: it comes among all but two of the known only if two of them are masked."""
    prepared = toy_prepared()
    size = len(prepared.catalogue)
    new = np.arange(size) == prepared.evaluation("test").targets[0]
    known = cold.without(prepared, new)
    monkeypatch.setattr(cold, "AMONG", size - 2)
    text = fit_hashed_text([item_text(item) for item in prepared.catalogue], 64, 4)
    popular = Popular(known.catalogue, np.ones(size - 1, dtype=np.int64))
    found = cold.measure(popular, text, prepared, new)
    assert found["users"] >= 1
    assert found[f"contrec, among {size - 2}"] == 1
    assert found[f"one item read, among {size - 2}"] == 0
