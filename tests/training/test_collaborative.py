"""The spectral embedding is a plain truncated SVD of the training interactions, reproducible to the sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from training.collaborative import spectral


def arrays(histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    return offsets, np.array([row for history in histories for row in history], dtype=np.int32)


def dense(histories: Sequence[Sequence[int]], items: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values, and item vectors scaled by them, of the normalised matrix, by numpy."""
    matrix = np.zeros((len(histories), items))
    for user, history in enumerate(histories):
        matrix[user, list(history)] = 1
    users, popularity = matrix.sum(axis=1, keepdims=True), matrix.sum(axis=0, keepdims=True)
    normalised = matrix / np.sqrt(np.maximum(users, 1)) / np.sqrt(np.maximum(popularity, 1))
    _, values, vectors = np.linalg.svd(normalised, full_matrices=False)
    return values, (values[:, None] * vectors).T


@pytest.fixture(scope="module")
def histories() -> list[list[int]]:
    """60 users, 30 items of which the last two belong to nobody, one user without events; repeats within a user."""
    draw = np.random.default_rng(0)
    found = [draw.choice(28, size=draw.integers(2, 12)).tolist() for _ in range(59)]
    return [*found[:7], [], *found[7:]]


@pytest.mark.parametrize("dim", [1, 5, 29, 30, 45])
def test_equals_the_dense_decomposition_up_to_sign(histories: list[list[int]], dim: int) -> None:
    """29 and less by iteration, 30 and more at once; beyond the rank, 28, zero."""
    embedding, known = spectral(*arrays(histories), 30, dim)
    values, expected = dense(histories, 30)
    assert embedding.shape == (30, dim)
    assert embedding.dtype == np.float32
    rank = min(dim, 28)
    assert (np.diff(values[:28]) < -1e-6).all(), "the test's own matrix has a double value: its vectors are not unique"
    sign = np.sign((embedding[:, :rank] * expected[:, :rank]).sum(axis=0))
    np.testing.assert_allclose(embedding[:, :rank] * sign, expected[:, :rank], atol=1e-5)
    assert not embedding[:, rank:].any()
    assert known.tolist() == [True] * 28 + [False] * 2
    assert not embedding[28:].any()


def test_the_sign_is_fixed_and_the_result_reproducible(histories: list[list[int]]) -> None:
    first, _ = spectral(*arrays(histories), 30, 6)
    np.random.default_rng().random(10)
    np.testing.assert_array_equal(first, spectral(*arrays(histories), 30, 6)[0])
    assert (first[np.abs(first).argmax(axis=0), np.arange(6)] > 0).all()


def test_a_repeated_interaction_counts_once(histories: list[list[int]]) -> None:
    once = [sorted(set(history)) for history in histories]
    np.testing.assert_allclose(spectral(*arrays(histories), 30, 6)[0], spectral(*arrays(once), 30, 6)[0], atol=1e-6)


def test_two_worlds_take_two_directions() -> None:
    """Ten users of items 0 to 2, ten of 3 to 5: rank two, the rest exactly zero, and worlds at right angles."""
    embedding, known = spectral(*arrays([[0, 1, 2], [3, 4, 5]] * 10), 7, 5)
    assert not embedding[:, 2:].any()
    assert known.tolist() == [True] * 6 + [False]
    near = embedding @ embedding.T
    np.testing.assert_allclose(near[:3, 3:6], 0, atol=1e-6)
    np.testing.assert_allclose(near[:3, :3], near[0, 0], atol=1e-6)
    assert near[0, 0] > 0.1


@pytest.mark.parametrize("histories", [[], [[]], [[], []]])
def test_without_interactions_nothing_is_known(histories: list[list[int]]) -> None:
    embedding, known = spectral(*arrays(histories), 4, 3)
    assert not embedding.any()
    assert not known.any()


def test_one_user_and_one_item() -> None:
    embedding, known = spectral(*arrays([[2, 0]]), 3, 2)
    np.testing.assert_allclose(embedding, [[0.5**0.5, 0], [0, 0], [0.5**0.5, 0]], atol=1e-6)
    assert known.tolist() == [True, False, True]
    np.testing.assert_allclose(spectral(*arrays([[0]]), 1, 2)[0], [[1, 0]], atol=1e-6)
