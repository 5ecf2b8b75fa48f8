"""The item space: tokens projected together plus a residual, and items that go without theirs for a step."""

from __future__ import annotations

import pytest
import torch

from model.continuous.space import ItemSpace


@pytest.fixture
def space() -> ItemSpace:
    generator = torch.Generator().manual_seed(0)
    return ItemSpace(torch.randn(500, 2, 3, generator=generator), 5, generator)


def test_a_vector_is_the_projection_of_all_tokens_and_the_residual(space: ItemSpace) -> None:
    tokens = space.tokens.reshape(500, 2, 3)
    weight = space.project.weight
    projected = tokens[:, 0] @ weight[:, :3].T + tokens[:, 1] @ weight[:, 3:].T
    torch.testing.assert_close(space(), projected + space.residual)
    assert space.bias.shape == (500,)


def test_the_stated_share_goes_without_its_residual_and_the_rest_keeps_it(space: ItemSpace) -> None:
    projected = space.project(space.tokens)
    dropped = (space(0.3, torch.Generator().manual_seed(1)) - projected).abs().sum(dim=1) < 1e-7
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=0.06)
    kept = space(0.3, torch.Generator().manual_seed(1))[~dropped]
    torch.testing.assert_close(kept, space()[~dropped])  # not scaled up: serving never drops
    other = (space(0.3, torch.Generator().manual_seed(2)) - projected).abs().sum(dim=1) < 1e-7
    assert not torch.equal(dropped, other)


def test_without_dropping_nothing_is_drawn(space: ItemSpace) -> None:
    state = torch.get_rng_state()
    assert torch.equal(space(), space())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_tokens_are_frozen_and_travel_in_no_file(space: ItemSpace) -> None:
    assert set(space.state_dict()) == {"project.weight", "residual", "bias"}
    assert not space.tokens.requires_grad
