"""Prepared arrays: what is read is what was written, and damage is told in a sentence; splits by eye."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.catalogue import Catalogue, Item
from training.data.prepared import TEST, TRAIN, VALIDATION, DataError, Prepared
from training.data.splits import by_time, leave_one_out, split_hash


def test_reads_what_it_wrote(prepared_of, tmp_path):
    prepared = prepared_of([[0, 1, 2, 3], [3, 1]], 5)
    folder = tmp_path / "deep" / "toy"
    prepared.write(folder)
    prepared.write(folder)  # over itself
    again = Prepared.read(folder)
    assert again.fingerprint == prepared.fingerprint
    assert again.facts == prepared.facts == {"source": "toy"}
    assert again.users == prepared.users
    assert [again.catalogue[row] for row in range(5)] == [prepared.catalogue[row] for row in range(5)]
    for name in ("offsets", "items", "times", "values", "split"):
        np.testing.assert_array_equal(getattr(again, name), getattr(prepared, name))
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]  # nothing temporary is left


def test_every_part_of_the_data_changes_the_fingerprint(prepared_of):
    prepared = prepared_of([[0, 1, 2, 3], [3, 1]], 5)
    renamed = Catalogue(Item(item.item_id, item.title + "!") for item in prepared.catalogue)
    changed = [
        replace(prepared, items=prepared.items[::-1].copy()),
        replace(prepared, times=prepared.times + 1),
        replace(prepared, values=np.zeros(6, dtype=np.float32)),
        replace(prepared, split=np.zeros(6, dtype=np.int8)),
        replace(prepared, offsets=np.array([0, 3, 6]), split=np.zeros(6, dtype=np.int8)),
        replace(prepared, users=("u0", "someone else")),
        replace(prepared, catalogue=renamed),
    ]
    assert len({prepared.fingerprint, *(other.fingerprint for other in changed)}) == len(changed) + 1
    assert replace(prepared, facts={}).fingerprint == prepared.fingerprint


@pytest.mark.parametrize("name", ["arrays.safetensors", "catalogue.jsonl", "users.json", "facts.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_a_damaged_folder_is_refused_in_one_sentence(prepared_of, tmp_path, name, how):
    folder = tmp_path / "toy"
    prepared_of([[0, 1, 2, 3]], 5).write(folder)
    path = folder / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 2] if how == "cut" else b"")
    with pytest.raises(DataError, match="toy") as caught:
        Prepared.read(folder)
    assert "\n" not in str(caught.value).strip()


def test_a_changed_array_and_a_foreign_version_are_refused(prepared_of, tmp_path):
    folder = tmp_path / "toy"
    prepared_of([[0, 1, 2, 3]], 5).write(folder)
    (folder / "users.json").write_text('["another"]')
    with pytest.raises(DataError, match="fingerprint"):
        Prepared.read(folder)
    facts = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(DataError, match="another version"):
        Prepared.read(folder)


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(prepared_of, tmp_path, monkeypatch):
    folder = tmp_path / "toy"
    prepared = prepared_of([[0, 1, 2, 3]], 5)
    prepared.write(folder)

    def full(self: Catalogue, path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Catalogue, "write", full)
    with pytest.raises(OSError, match="no space"):
        prepared_of([[4, 4, 4]], 5).write(folder)
    assert Prepared.read(folder).fingerprint == prepared.fingerprint
    assert list(tmp_path.iterdir()) == [folder]


def test_write_does_not_replace_what_is_not_its_own(prepared_of, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError, match="not a prepared data folder"):
        prepared_of([[0, 1, 2]], 3).write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"items": np.array([0, 1, 2, 9], dtype=np.int32)}, "outside the catalogue"),
        ({"items": np.array([0, 1, 2, 3])}, "items must be"),
        ({"times": np.array([3, 2, 1, 0])}, "times must not fall"),
        ({"split": np.array([2, 0, 0, 0], dtype=np.int8)}, "split must not fall"),
        ({"split": np.array([0, 0, 1, 3], dtype=np.int8)}, "split must be 0"),
        ({"offsets": np.array([0, 3])}, "offsets must rise"),
        ({"values": np.zeros(3, dtype=np.float32)}, "values has 3 entries for 4 events"),
        ({"users": ("u0", "u1")}, "2 users need 3 offsets"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(prepared_of, change, says):
    with pytest.raises(DataError, match=says):
        replace(prepared_of([[0, 1, 2, 3]], 5), **change)


def test_leave_one_out_by_eye(prepared_of):
    prepared = prepared_of([[0, 1, 2, 3], [3, 1], [2, 2, 4]], 5)
    assert prepared.split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, TRAIN, TRAIN, VALIDATION, TEST]
    offsets, items = prepared.train_histories()
    assert (offsets.tolist(), items.tolist()) == ([0, 2, 4, 5], [0, 1, 3, 1, 2])
    validation, test = prepared.evaluation("validation"), prepared.evaluation("test")
    assert validation.users.tolist() == test.users.tolist() == [0, 2]
    assert [history.tolist() for history in validation.histories] == [[0, 1], [2]]
    assert validation.targets.tolist() == [2, 2]
    assert [history.tolist() for history in test.histories] == [[0, 1, 2], [2, 2]]
    assert test.targets.tolist() == [3, 4]


def test_a_split_by_time_by_eye(prepared_of):
    """Ten events at times 0..9: validation from 7, test from 8 for everyone at once."""
    prepared = prepared_of([[0, 1, 2, 3], [0, 1, 2], [4, 0, 3]], 5)
    times = np.array([0, 3, 7, 8, 1, 2, 9, 4, 5, 6])
    split, cuts = by_time(times, (0.7, 0.8))
    assert cuts == (7, 8)
    prepared = replace(prepared, times=times, split=split)
    validation, test = prepared.evaluation("validation"), prepared.evaluation("test")
    assert (validation.users.tolist(), validation.targets.tolist()) == ([0], [2])
    assert validation.histories[0].tolist() == [0, 1]
    assert (test.users.tolist(), test.targets.tolist()) == ([0, 1], [3, 2])
    assert [history.tolist() for history in test.histories] == [[0, 1, 2], [0, 1]]


def test_a_split_by_time_asks_the_first_event_of_a_period_and_nobody_without_history(prepared_of):
    prepared = prepared_of([[0, 1, 2, 3], [4, 1], [0]], 5)
    split = np.array([0, 1, 1, 2, 1, 2, 2], dtype=np.int8)  # user 1 begins in validation, user 2 in test
    prepared = replace(prepared, split=split)
    validation, test = prepared.evaluation("validation"), prepared.evaluation("test")
    assert (validation.users.tolist(), validation.targets.tolist()) == ([0], [1])
    assert (test.users.tolist(), test.targets.tolist()) == ([0, 1], [3, 1])
    assert [history.tolist() for history in test.histories] == [[0, 1, 2], [4]]


@pytest.mark.parametrize("quantiles", [(0.9, 0.8), (0.0, 0.5), (0.5, 1.0)])
def test_quantiles_that_do_not_rise_are_refused(quantiles):
    with pytest.raises(DataError, match="must rise"):
        by_time(np.arange(10), quantiles)


def test_a_split_that_leaves_a_part_empty_is_refused():
    with pytest.raises(DataError, match="leaves no training event"):
        by_time(np.full(10, 7), (0.8, 0.9))


def test_splits_are_pure_and_their_hash_tells_them_apart():
    offsets, times = np.array([0, 4, 7, 12]), np.arange(12)
    first, second = leave_one_out(offsets), by_time(times)[0]
    assert split_hash("leave-one-out", first) == split_hash("leave-one-out", leave_one_out(offsets))
    assert split_hash("time", second) == split_hash("time", by_time(times)[0])
    assert split_hash("time", first) != split_hash("leave-one-out", first) != split_hash("leave-one-out", second)


def test_an_unknown_part_is_refused(prepared_of):
    with pytest.raises(ValueError, match="validation, test"):
        prepared_of([[0, 1, 2]], 3).evaluation("train")
