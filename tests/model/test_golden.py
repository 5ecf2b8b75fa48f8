"""model/golden.py: what a bundle gave when it was published, asked again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.bundle import BundleError
from model.catalogue import Catalogue, Item
from model.golden import NAME, K, check, golden, read_golden, write_golden
from model.recommender import Popular
from tests.model import fitted as toy


def counted(items: int) -> Popular:
    return Popular(Catalogue(Item(f"i{n}") for n in range(items)), np.arange(items, dtype=np.int64))


def test_a_recommender_still_gives_what_it_gave(fitted: toy.Fitted, tmp_path: Path) -> None:
    recommender = fitted.recommender(0.5)
    write_golden(recommender, tmp_path)
    lists = read_golden(tmp_path)
    assert lists == golden(recommender)
    assert [len(one.history) for one in lists] == [0, 1, 10]  # of 24 items
    assert all(len(one.items) == K and not set(one.items) & set(one.history) for one in lists)
    check(recommender, lists)


def test_histories_hold_the_popular_and_the_rare() -> None:
    *_, longest = golden(counted(1000))
    numbers = [int(item[1:]) for item in longest.history]
    assert len(set(numbers)) == 50
    assert max(numbers) > 950
    assert min(numbers) < 50


def test_one_that_is_read_otherwise_is_refused(fitted: toy.Fitted) -> None:
    """As by code that takes the items in another order: every file is as it was."""
    lists = golden(fitted.recommender(0.0))
    other = fitted.recommender(0.0)
    other.index = other.index.extended(other.index.matrix[:0], np.arange(24), other.index.matrix[::-1].copy())
    other.sieve = other.sieve.extended(other.index.matrix[:0], np.arange(24), other.index.matrix)
    with pytest.raises(BundleError, match=r"after a history of \d+ items \d+ of the 10 that it gave"):
        check(other, lists)


def test_one_item_in_five_may_be_another() -> None:
    recommender = counted(100)
    (first, *_) = golden(recommender)
    check(recommender, [replace(first, items=(*first.items[:8], "i0", "i1"))])
    with pytest.raises(BundleError, match="after a history of 0 items 7 of the 10"):
        check(recommender, [replace(first, items=(*first.items[:7], "i0", "i1", "i2"))])
    check(recommender, [replace(first, items=first.items[::-1])])


@pytest.mark.parametrize("items", [1, 2, 11])
def test_small_catalogues_have_short_lists(items: int) -> None:
    recommender = counted(items)
    lists = golden(recommender)
    assert [len(one.items) for one in lists] == [min(K, items - len(one.history)) for one in lists]
    assert len(lists) == (1 if items == 1 else 2 if items == 2 else 3)
    check(recommender, lists)
    with pytest.raises(BundleError, match="0 of the 1 that it gave"):
        check(recommender, [replace(lists[0], items=("gone",))])


def test_a_bundle_of_before_has_none_and_a_malformed_one_is_said(tmp_path: Path) -> None:
    assert read_golden(tmp_path) == []
    for text in ("", "[]", "{}", '{"lists": 3}', '{"lists": [{}]}', '{"lists": [{"history": 1, "items": []}]}', "\0"):
        (tmp_path / NAME).write_text(text, encoding="utf-8")
        with pytest.raises(BundleError, match=r"golden\.json cannot be read"):
            read_golden(tmp_path)
    (tmp_path / NAME).write_text(json.dumps({"lists": []}), encoding="utf-8")
    assert read_golden(tmp_path) == []
