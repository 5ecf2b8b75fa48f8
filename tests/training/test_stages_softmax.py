"""The catalogue softmax is F.cross_entropy: value and every gradient, whatever the chunk."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.stages import precision, softmax
from training.stages.softmax import Without, catalogue_cross_entropy
from training.stages.trunk import few_sizes

Parts = tuple[Tensor, Tensor, Tensor]


def case(positions: int, items: int, width: int, seed: int = 0) -> tuple[Parts, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts = (
        torch.randn(positions, width, generator=generator),
        torch.randn(items, width, generator=generator),
        torch.randn(items, generator=generator),
    )
    return parts, torch.randint(items, (positions,), generator=generator)


def plain(parts: Parts, targets: Tensor, scale: float = 1.0) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [part.clone().requires_grad_(True) for part in parts]
    loss = F.cross_entropy(leaves[0] @ leaves[1].T + leaves[2], targets)
    return loss.detach(), torch.autograd.grad(scale * loss, leaves)


def ours(parts: Parts, targets: Tensor, scale: float = 1.0, bf16: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [part.clone().requires_grad_(True) for part in parts]
    loss = catalogue_cross_entropy(*leaves, targets, bf16=bf16)
    return loss.detach(), torch.autograd.grad(scale * loss, leaves)


@settings(deadline=None, max_examples=60)
@given(
    positions=st.integers(1, 30) | st.integers(1, 300),
    items=st.integers(1, 50),
    width=st.integers(1, 9),
    chunk_rows=st.integers(1, 31) | st.integers(60, 301),
    seed=st.integers(0, 99),
)
def test_equals_cross_entropy_in_value_and_gradients(
    positions: int, items: int, width: int, chunk_rows: int, seed: int
) -> None:
    """Chunks of 1 row to more than all, so that the last one is short, exact or alone."""
    parts, targets = case(positions, items, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "_CHUNK_ELEMENTS", chunk_rows * items)
        loss, gradients = ours(parts, targets, scale=3.0)
    expected, expected_gradients = plain(parts, targets, scale=3.0)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    positions=st.integers(1, 20) | st.integers(65, 200),
    items=st.integers(1, 30),
    chunk_rows=st.integers(1, 21) | st.integers(64, 200),
    seed=st.integers(0, 99),
)
def test_items_that_a_position_does_without_have_no_share_and_no_gradient(
    positions: int, items: int, chunk_rows: int, seed: int
) -> None:
    """The plain twin holds the whole matrix of logits."""
    parts, targets = case(positions, items, 4, seed)
    out = torch.rand(positions, items, generator=torch.Generator().manual_seed(seed)) < 0.5
    # A target that was met before is among them, and stays in. A third is told in groups.
    draw = torch.Generator().manual_seed(seed)
    some, met = torch.randperm(positions, generator=draw)[: positions // 3], torch.rand(items, generator=draw) < 0.3
    without = Without(*out.nonzero(as_tuple=True), [(some, met.nonzero()[:, 0])])
    out[some] |= met
    out[torch.arange(positions), targets] = False
    plainly = [part.clone().requires_grad_(True) for part in parts]
    logits = (plainly[0] @ plainly[1].T + plainly[2]).masked_fill(out, -torch.inf)
    expected = F.cross_entropy(logits, targets)
    leaves = [part.clone().requires_grad_(True) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "_CHUNK_ELEMENTS", chunk_rows * items)
        loss = catalogue_cross_entropy(*leaves, targets, without=without)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(loss, leaves)
    for one, other in zip(found, torch.autograd.grad(expected, plainly), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 100, 7])
def test_bfloat16_stays_near_and_keeps_its_sums_in_float32(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    parts, targets = case(200, 300, 16)
    monkeypatch.setattr(softmax, "_CHUNK_ELEMENTS", rows * 300)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)  # emulated where it has not: slow, and the same
    loss, gradients = ours(parts, targets, bf16=True)
    expected, expected_gradients = plain(parts, targets)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=5e-3)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 1e-2


def test_the_products_of_a_training_have_few_shapes() -> None:
    """oneDNN makes code for each: see `few_sizes`."""
    assert len({softmax._chunk(positions, 3000) for positions in range(3001, 6400)}) <= 25
    for positions in range(1, 700):
        chunk = softmax._chunk(positions, 100)
        assert 1 <= chunk <= 100
        assert chunk * math.ceil(positions / chunk) < positions + chunk
    sizes = [few_sizes(size) for size in range(1, 6400)]
    assert all(size <= more <= size * 17 / 16 for size, more in enumerate(sizes, start=1))
    assert len(set(sizes)) <= 16 * 10
    assert [few_sizes(size) for size in sizes] == sizes


def test_gradients_equal_finite_differences() -> None:
    """Of the function itself: no other implementation is asked."""
    parts, targets = case(5, 7, 3)
    _, gradients = ours(parts, targets)
    for number, gradient in enumerate(gradients):
        for place in range(parts[number].numel()):
            losses = []
            for step in (-1e-2, 1e-2):
                moved = [part.clone() for part in parts]
                moved[number].view(-1)[place] += step
                losses.append(float(catalogue_cross_entropy(*moved, targets)))
            assert float(gradient.flatten()[place]) == pytest.approx((losses[1] - losses[0]) / 2e-2, abs=2e-4)


def test_gradients_reach_what_made_the_vectors_and_items() -> None:
    """As in training: items feed both sides, and the same leaf collects both gradients."""
    (_, items, bias), targets = case(6, 8, 4)
    rows = torch.tensor([0, 1, 2, 3, 4, 5])
    found, wanted = [], []
    for results, function in (
        (found, catalogue_cross_entropy),
        (wanted, lambda v, e, b, t: F.cross_entropy(v @ e.T + b, t)),
    ):
        leaf = items.clone().requires_grad_(True)
        loss = function(2 * leaf[rows], leaf, bias.clone().requires_grad_(True), targets)
        results.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(found[0], wanted[0], atol=1e-6, rtol=1e-5)


def test_inputs_are_left_alone() -> None:
    parts, targets = case(6, 8, 4)
    kept = [part.clone() for part in parts]
    ours(parts, targets)
    assert all(torch.equal(one, other) for one, other in zip(parts, kept, strict=True))


def test_confident_logits_neither_overflow_nor_stop_the_gradient() -> None:
    parts, targets = case(6, 8, 4)
    loss, gradients = ours((50 * parts[0], parts[1], parts[2]), targets)
    assert torch.isfinite(loss)
    _, wanted = plain((50 * parts[0], parts[1], parts[2]), targets)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
