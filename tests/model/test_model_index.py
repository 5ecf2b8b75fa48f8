"""The item index against its plain twin, its edges, and what it does when FAISS cannot be taken at its word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.index import ItemIndex
from model.recommender import Floats


def matrix_of(rows: int, dimensions: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    dimensions=st.integers(1, 9),
    queries=st.integers(0, 4),
    k=st.integers(0, 90),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**20),
)
def test_search_equals_its_plain_twin(
    rows: int, dimensions: int, queries: int, k: int, share: float, seed: int
) -> None:
    index = ItemIndex(matrix_of(rows, dimensions, seed))
    asked = matrix_of(queries, dimensions, seed + 1)
    eligible = np.random.default_rng(seed).random(rows) < share
    found, scores = index.search(asked, eligible, k)
    twin, twin_scores = index.search_plain(asked, eligible, k)
    assert found.shape == scores.shape == (queries, min(k, int(eligible.sum())))
    assert found.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, twin_scores, rtol=1e-4, atol=1e-5)
    assert eligible[found].all()
    assert all(len(set(row)) == len(row) for row in found.tolist())
    # Rows may differ only where two items score the same within rounding.
    for row, other, query in zip(found, twin, asked, strict=True):
        np.testing.assert_allclose(index.matrix[row] @ query, index.matrix[other] @ query, rtol=1e-4, atol=1e-5)


def test_the_answer_is_visible_by_eye() -> None:
    index = ItemIndex(np.eye(5, dtype=np.float32))
    query = np.array([[0.1, 0.5, 0.4, 0.3, 0.2]], dtype=np.float32)
    rows, scores = index.search(query, None, 3)
    assert rows.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(scores, [[0.5, 0.4, 0.3]], rtol=1e-6)
    eligible = np.array([True, False, True, False, True])
    assert index.search(query, eligible, 9)[0].tolist() == [[2, 4, 0]]


def test_equal_scores_inside_the_list_go_to_the_lower_row() -> None:
    index = ItemIndex(np.ones((40, 3), dtype=np.float32))
    rows, _ = index.search(np.ones((2, 3), dtype=np.float32), None, 40)
    assert rows.tolist() == [list(range(40))] * 2


def test_nothing_asked_and_nothing_allowed() -> None:
    index = ItemIndex(matrix_of(6, 4))
    queries = matrix_of(2, 4)
    assert index.search(queries, None, 0)[0].shape == (2, 0)
    assert index.search(queries, np.zeros(6, dtype=np.bool_), 5)[0].shape == (2, 0)
    assert index.search(queries, None, 50)[0].shape == (2, 6)
    assert index.search(np.zeros((0, 4), dtype=np.float32), None, 3)[0].shape == (0, 3)
    assert ItemIndex(np.zeros((0, 4), dtype=np.float32)).search(queries, None, 3)[0].shape == (2, 0)


class Faulty:
    """FAISS as seen in faiss #3186 and #5504: it answers, but too little or with a row that was filtered out."""

    def __init__(self, row: int) -> None:
        self.row = row

    def __call__(self, queries: Floats, selector: Any, k: int) -> tuple[Any, Floats]:
        return np.full((len(queries), k), self.row, dtype=np.int64), np.ones((len(queries), k), dtype=np.float32)


@pytest.mark.parametrize("row", [-1, 0, 99], ids=["came short", "forgot the selector", "no such row"])
def test_a_filtered_search_that_cannot_be_trusted_is_redone_exactly(row: int) -> None:
    index = ItemIndex(matrix_of(8, 3))
    eligible = np.ones(8, dtype=np.bool_)
    eligible[0] = False
    queries = matrix_of(2, 3, seed=5)
    index._nearest = Faulty(row)  # type: ignore[method-assign]
    rows, scores = index.search(queries, eligible, 4)
    expected, expected_scores = index.search_plain(queries, eligible, 4)
    assert rows.tolist() == expected.tolist()
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_matrix_of_an_index_cannot_change() -> None:
    matrix = matrix_of(4, 3)
    index = ItemIndex(matrix)
    kept = matrix.copy()
    matrix[:] = 0
    np.testing.assert_array_equal(index.matrix, kept)
    with pytest.raises(ValueError, match="read-only"):
        index.matrix[0, 0] = 1


def test_a_matrix_that_is_not_one_is_refused() -> None:
    broken = matrix_of(4, 3)
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2 of the item matrix is not finite"):
        ItemIndex(broken)
    with pytest.raises(ValueError, match="must be float32"):
        ItemIndex(np.zeros((4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be \\(items, dimensions\\)"):
        ItemIndex(np.zeros(4, dtype=np.float32))


def test_a_question_of_another_shape_is_refused() -> None:
    index = ItemIndex(matrix_of(4, 3))
    with pytest.raises(ValueError, match="this index needs \\(queries, 3\\)"):
        index.search(matrix_of(2, 5), None, 1)
    with pytest.raises(ValueError, match="must be bool\\(4,\\)"):
        index.search(matrix_of(2, 3), np.ones(3, dtype=np.bool_), 1)
    with pytest.raises(ValueError, match="cannot be negative"):
        index.search(matrix_of(2, 3), None, -1)
    with pytest.raises(ValueError, match="not finite"):
        index.search(np.full((1, 3), np.inf, dtype=np.float32), None, 1)


# ----------------------------------------------------------------------------------------------------------------
# Growing


def assert_the_same(one: ItemIndex, other: ItemIndex) -> None:
    np.testing.assert_array_equal(one.matrix, other.matrix)
    queries = matrix_of(3, one.dimensions, seed=9)
    for mask in (None, np.random.default_rng(1).random(len(one)) < 0.5):
        for found, expected in zip(one.search(queries, mask, 7), other.search(queries, mask, 7), strict=True):
            np.testing.assert_array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 30), steps=st.lists(st.integers(0, 700), max_size=5), seed=st.integers(0, 2**20))
def test_a_grown_index_equals_one_built_at_once(first: int, steps: list[int], seed: int) -> None:
    """Past the spare room and within it; every snapshot on the way stays what it was."""
    draw = np.random.default_rng(seed)
    plain = matrix_of(first, 3, seed)
    snapshots = [(ItemIndex(plain), plain)]
    for step in steps:
        added = draw.standard_normal((step, 3)).astype(np.float32)
        rows = np.flatnonzero(draw.random(len(plain)) < draw.choice([0.0, 0.1]))
        replaced = draw.standard_normal((len(rows), 3)).astype(np.float32)
        plain = np.concatenate([plain, added])
        plain[rows] = replaced
        snapshots.append((snapshots[-1][0].extended(added, rows, replaced), plain.copy()))
    for grown, matrix in snapshots:
        assert_the_same(grown, ItemIndex(matrix))


def test_two_that_grow_from_one_do_not_meet() -> None:
    base = ItemIndex(matrix_of(5, 3))
    one, other = base.extended(matrix_of(2, 3, seed=1)), base.extended(matrix_of(4, 3, seed=2))
    assert_the_same(one, ItemIndex(np.concatenate([matrix_of(5, 3), matrix_of(2, 3, seed=1)])))
    assert_the_same(other, ItemIndex(np.concatenate([matrix_of(5, 3), matrix_of(4, 3, seed=2)])))
    assert_the_same(base, ItemIndex(matrix_of(5, 3)))
    assert np.shares_memory(base.memory, one.memory), "the first to grow copies nothing"


def test_what_could_not_have_been_built_cannot_be_added() -> None:
    index = ItemIndex(matrix_of(4, 3))
    with pytest.raises(ValueError, match="not finite"):
        index.extended(np.full((1, 3), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="must be float32"):
        index.extended(np.zeros((1, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs \\(rows, 3\\)"):
        index.extended(matrix_of(1, 2))
    with pytest.raises(ValueError, match="0 vectors replace 1 rows"):
        index.extended(matrix_of(1, 3), np.array([0]))
    assert len(index) == 4
