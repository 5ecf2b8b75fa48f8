"""`Popular` keeps the contract of every recommender; and user tokens refuse bytes that are not theirs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.recommender import Popular, Recommender, UserTokens, best
from tests.contracts.recommender_contract import ITEMS, RecommenderContract, rows_of, toy_catalogue, toy_histories


class TestPopular(RecommenderContract):
    def build(self) -> Recommender:
        rows = np.concatenate([*toy_histories(), np.full(1000, 7), np.full(900, 20)])
        return Popular(toy_catalogue(), np.bincount(rows, minlength=ITEMS))

    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        for history in (rows_of(), rows_of(1, 2), rows_of(13)):
            assert recommender.recommend(history, k=2)[0].tolist() == [7, 20]
        assert recommender.recommend(rows_of(7), k=1)[0].tolist() == [20]


def test_counts_must_fit_the_catalogue() -> None:
    with pytest.raises(ValueError, match="counts has shape"):
        Popular(toy_catalogue(), np.zeros(3, dtype=np.int64))


def test_bytes_that_are_no_user_tokens_are_refused() -> None:
    data = UserTokens(np.ones(3, dtype=np.float32), np.zeros(2, dtype=np.float32)).to_bytes()
    for broken in (b"", data[:8], data[:-1], data + b"\0", b"xxxx" + data[4:], data[:4] + b"\x09" + data[5:]):
        with pytest.raises(ValueError, match="user tokens"):
            UserTokens.from_bytes(broken)


def test_best_breaks_ties_by_the_lower_row() -> None:
    scores = np.array([1, 3, 3, 3, 0], dtype=np.float32)
    assert best(scores, np.ones(5, dtype=np.bool_), 2)[0].tolist() == [1, 2]
    assert best(scores, np.array([True, False, True, True, True]), 3)[0].tolist() == [2, 3, 0]


@pytest.mark.parametrize("k", [0, 1, 7, 29, 30, 31])
def test_the_best_are_those_of_a_whole_sort_whatever_is_left(k: int) -> None:
    draw = np.random.default_rng(k)
    for share in (0.0, 0.1, 0.9, 1.0):
        scores = draw.integers(-3, 3, 30).astype(np.float32)  # with ties
        scores[draw.random(30) < 0.2] = -np.inf
        eligible = draw.random(30) < share
        rows, found = best(scores, eligible, k)
        expected = sorted(np.flatnonzero(eligible).tolist(), key=lambda row: (-scores[row], row))[:k]
        assert rows.tolist() == expected
        assert found.tolist() == scores[expected].tolist()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 3000), ties=st.booleans())
def test_the_best_of_many_are_those_of_a_whole_sort(seed: int, items: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.standard_normal(items).astype(np.float32)
    if ties:
        scores = np.rint(scores)
    scores[draw.random(items) < draw.random()] = -np.inf
    k = int(draw.integers(1, min(items, 40) + 1))
    rows, found = best(scores, np.ones(items, dtype=np.bool_), k)
    assert len(set(rows.tolist())) == k
    assert found.tolist() == sorted(scores.tolist(), reverse=True)[:k]
    assert rows.tolist() == np.argsort(-scores, kind="stable")[:k].tolist()
