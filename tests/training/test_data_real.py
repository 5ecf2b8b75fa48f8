"""The real data sets: the published counts, real titles, and times that a split can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.prepare import prepare
from training.data.prepared import Prepared

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def ml_100k(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare("ml-100k", data_root / "ml-100k-raw", tmp_path_factory.mktemp("ml-100k") / "out")


def _counts(prepared: Prepared) -> tuple[int, int, int]:
    return len(prepared.users), len(prepared.catalogue), len(prepared.items)


def test_ml_100k_has_its_published_counts_and_titles(ml_100k):
    assert _counts(ml_100k) == (943, 1682, 100_000)
    cleaning = ml_100k.facts["cleaning"]
    assert (cleaning["rows_rejected"], cleaning["duplicates_dropped"], cleaning["items_not_in_table"]) == (0, 0, 0)
    assert ml_100k.catalogue[0].title == "Toy Story (1995)"
    assert ml_100k.catalogue[0].categories == ("Animation", "Children's", "Comedy")
    assert any("é" in item.title for item in ml_100k.catalogue)  # latin-1 was read as latin-1
    assert len(ml_100k.catalogue.categories) == 18
    assert set(np.unique(ml_100k.values).tolist()) == {1, 2, 3, 4, 5}
    assert ml_100k.facts["counts"]["test_targets"] == 943


def test_ml_100k_user_196_is_in_the_order_of_the_file_of_the_time(ml_100k, data_root):
    """Read again without any of our code: user, item, rating, seconds."""
    lines = (data_root / "ml-100k-raw" / "u.data").read_text().splitlines()
    mine = [line.split("\t") for line in lines if line.startswith("196\t")]
    expected = [row[1] for row in sorted(mine, key=lambda row: int(row[3]))]
    assert ml_100k.catalogue.ids(ml_100k.history(ml_100k.users.index("196"))) == expected


def test_ml_100k_splits_by_time(data_root, tmp_path):
    prepared = prepare("ml-100k", data_root / "ml-100k-raw", tmp_path / "out", split="time")
    first, second = prepared.facts["split"]["cuts"]
    for part, start, stop in (("validation", first, second), ("test", second, prepared.times.max() + 1)):
        asked = prepared.evaluation(part)
        assert len(asked) > 50
        for user, history in zip(asked.users, asked.histories, strict=True):
            times = prepared.times[prepared.offsets[user] : prepared.offsets[user + 1]]
            assert times[len(history) - 1] < start <= times[len(history)] < stop
    again = prepare("ml-100k", data_root / "ml-100k-raw", tmp_path / "again", split="time")
    assert again.facts["split"]["hash"] == prepared.facts["split"]["hash"]


def test_latest_small_has_its_published_counts(data_root, tmp_path):
    prepared = prepare("ml-latest-small", data_root / "ml-latest-small-raw", tmp_path / "out")
    assert _counts(prepared) == (610, 9742, 100_836)
    assert prepared.facts["counts"]["items_interacted"] == 9724
    assert "(no genres listed)" not in prepared.catalogue.categories
    assert prepared.facts["has_unix_time"] is True


def test_ml_1m_from_the_canonical_table_has_its_published_counts(data_root, tmp_path):
    prepared = prepare("table", data_root / "ml-1m", tmp_path / "out", only_interacted=True)
    assert _counts(prepared) == (6040, 3706, 1_000_209)
    assert prepared.facts["has_unix_time"] is False
    assert prepared.facts["cleaning"]["ignored_columns"] == [
        "interactions.csv.gz: rating_ge3",
        "interactions.csv.gz: unix_time",
    ]
    assert Prepared.read(tmp_path / "out").fingerprint == prepared.fingerprint
