"""The plane of the map: the two directions of most variance, against a plain SVD, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from model.plane import Plane


def cloud(items: int = 300, width: int = 12) -> np.ndarray:
    scale = np.array([9.0, 5.0, *[1.0] * (width - 2)])
    draw = np.random.default_rng(4)
    return (draw.standard_normal((items, width)) * scale + draw.standard_normal(width)).astype(np.float32)


def test_it_is_the_plane_that_an_svd_finds() -> None:
    vectors = cloud()
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    spread = directions - directions.mean(axis=0)
    left, values, _ = np.linalg.svd(spread.astype(np.float64), full_matrices=False)
    plane = Plane.of(vectors)
    points = plane.project(vectors)
    for axis in range(2):
        expected = left[:, axis] * values[axis]
        np.testing.assert_allclose(np.abs(points[:, axis] @ expected), expected @ expected, rtol=1e-4)
    assert plane.share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), rel=1e-6)


def test_length_does_not_matter_and_order_changes_nothing_that_can_be_seen() -> None:
    vectors = cloud()
    plane = Plane.of(vectors)
    np.testing.assert_allclose(plane.project(3 * vectors), plane.project(vectors), atol=1e-6)
    turned = Plane.of(vectors[::-1].copy())
    np.testing.assert_allclose(turned.project(vectors), plane.project(vectors), atol=1e-5)
    np.testing.assert_array_equal(Plane.of(vectors).axes, plane.axes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 1), (7, 2)])
def test_small_catalogues_have_a_map_too(shape: tuple[int, int]) -> None:
    vectors = np.ones(shape, dtype=np.float32)
    plane = Plane.of(vectors)
    points = plane.project(vectors)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points, 0, atol=1e-6)
    assert plane.share == 1
    assert np.isfinite(plane.project(np.zeros_like(vectors))).all()
