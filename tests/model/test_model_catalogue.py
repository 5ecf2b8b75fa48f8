"""A catalogue that has grown equals one built at once, categories and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.catalogue import Catalogue, Item, lines_of

ITEMS = st.lists(
    st.builds(
        Item,
        item_id=st.sampled_from([f"i{n}" for n in range(12)]),
        title=st.sampled_from(["", "a", "b"]),
        categories=st.lists(st.sampled_from("xyz")).map(tuple),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(first=ITEMS, steps=st.lists(ITEMS, max_size=3), looked_up=st.booleans())
def test_a_grown_catalogue_equals_one_built_at_once(
    first: list[Item], steps: list[list[Item]], looked_up: bool
) -> None:
    start = {item.item_id: item for item in first}
    grown = Catalogue(start.values())
    if looked_up:
        grown.in_categories("x")
    for step in steps:
        kept, before = list(grown), grown.in_categories("xyz")
        start |= {item.item_id: item for item in step}
        following = grown.with_items(step)
        assert list(grown) == kept, "the first catalogue stays as it is"
        np.testing.assert_array_equal(grown.in_categories("xyz"), before)
        grown = following
    rebuilt = Catalogue(start.values())
    assert list(grown) == list(rebuilt)
    assert grown.categories == rebuilt.categories
    assert grown.rows(f"i{n}" for n in range(12)).tolist() == rebuilt.rows(f"i{n}" for n in range(12)).tolist()
    for category in "xyz":
        np.testing.assert_array_equal(grown.in_categories([category]), rebuilt.in_categories([category]))
    weights = np.random.default_rng(0).random(len(rebuilt)).astype(np.float32)
    assert grown.mass(weights) == rebuilt.mass(weights)


def test_an_item_needs_an_id() -> None:
    with pytest.raises(ValueError, match="empty id"):
        Catalogue([]).with_items([Item("")])


def test_it_is_read_a_megabyte_at_once_and_whole(tmp_path: Path) -> None:
    """Read by smaller pieces it would keep every other thread of a service waiting: see `lines_of`."""
    catalogue = Catalogue(Item(f"i{n}", title=f"line\u2028separator {n}", categories=("a",)) for n in range(5000))
    catalogue.write(tmp_path / "catalogue.jsonl")
    lines = lines_of(tmp_path / "catalogue.jsonl")
    next(lines)
    assert list(Catalogue.read(tmp_path / "catalogue.jsonl")) == list(catalogue)
    (tmp_path / "catalogue.jsonl").write_text("")
    assert len(list(lines)) == len(catalogue) - 1
