"""docs/data.md: its two tables are taken as they stand there, and its numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from training.data.prepare import SOURCES, SPLITS, UNIX_FROM, prepare
from training.data.table import INTERACTION_COLUMNS, ITEM_COLUMNS, SUFFIXES


def test_the_tables_of_the_page_are_taken(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    interactions, items = re.findall(r"```csv\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "interactions.csv").write_text(interactions)
    (tmp_path / "items.csv").write_text(items)
    prepared = prepare("table", tmp_path, tmp_path / "out")
    assert prepared.users == ("ann", "ben")
    assert prepared.catalogue.ids(prepared.history(0)) == ["f1", "f2"]
    assert prepared.catalogue[1].categories == ("Science Fiction", "Adventure")
    np.testing.assert_array_equal(prepared.values, np.array([4.5, np.nan, 3], dtype=np.float32))
    cleaning = prepared.facts["cleaning"]
    assert (cleaning["rows_rejected"], cleaning["items_not_in_table"], cleaning["ignored_columns"]) == (0, 0, [])


def test_the_page_names_every_column_source_split_and_limit(repository: Path) -> None:
    page = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    for name in (*INTERACTION_COLUMNS, *ITEM_COLUMNS, *SPLITS, *SUFFIXES, *(set(SOURCES) - {"table"})):
        assert f"`{name}`" in page, name
    assert f"{UNIX_FROM:,}" in page
