"""Maximal marginal relevance against its plain twin, and what each end of the dial means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.diversity import mmr, mmr_plain


@settings(max_examples=80, deadline=None)
@given(n=st.integers(0, 30), k=st.integers(0, 35), diversity=st.sampled_from([0.0, 0.2, 0.7, 1.0]), seed=st.integers(0))
def test_mmr_equals_its_plain_twin(n: int, k: int, diversity: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = -np.sort(-draw.standard_normal(n)).astype(np.float32)
    vectors = draw.standard_normal((n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = mmr(scores, vectors, diversity, k)
    assert order.tolist() == mmr_plain(scores, vectors, diversity, k).tolist()
    assert len(set(order.tolist())) == len(order) == min(k, n)
    if diversity == 0:
        assert order.tolist() == list(range(min(k, n)))


def test_the_answer_is_visible_by_eye() -> None:
    """Two of a kind are best, a third is another thing: with diversity the other thing comes second."""
    scores = np.array([1.0, 0.9, 0.5, 0.0], dtype=np.float32)
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    assert mmr(scores, vectors, 0.0, 4).tolist() == [0, 1, 2, 3]
    assert mmr(scores, vectors, 0.5, 4).tolist() == [0, 2, 3, 1]
    assert mmr(scores, vectors, 1.0, 4).tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("diversity", [0.0, 0.5, 1.0])
def test_equal_scores_keep_their_order(diversity: float) -> None:
    same = np.zeros((5, 2), dtype=np.float32)
    assert mmr(np.ones(5, dtype=np.float32), same, diversity, 5).tolist() == [0, 1, 2, 3, 4]
