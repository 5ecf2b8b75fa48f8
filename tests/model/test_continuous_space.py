"""The item spaces: tokens or words projected, and the residual that an item may have beside them."""

from __future__ import annotations

import pytest
import torch

from model.continuous.space import ItemSpace, TextSpace


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


def test_nothing_is_drawn(space: ItemSpace) -> None:
    state = torch.get_rng_state()
    assert torch.equal(space(), space())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_tokens_are_frozen_and_travel_in_no_file(space: ItemSpace) -> None:
    assert set(space.state_dict()) == {"project.weight", "residual", "bias"}
    assert not space.tokens.requires_grad


@pytest.mark.parametrize("residual", [False, True])
def test_items_of_the_same_words_differ_only_by_a_residual(residual: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(40, 1, 6, generator=generator)
    text[7] = text[3]
    space = TextSpace(text, 5, hidden=8, residual=residual)
    vectors = space()
    assert ("residual" in space.state_dict()) == residual
    assert torch.equal(vectors[3], vectors[7]) is not residual
    own = space.residual if residual else torch.zeros(40, 5)
    torch.testing.assert_close(vectors - own, space.place(text[:, 0]))  # where a new item of these words would lie


def test_a_residual_leaves_what_is_drawn_before_it_as_it_was() -> None:
    """So that a set that asks for none gets the very trunk that it got before there was one."""
    places = []
    for residual in (False, True):
        torch.manual_seed(1)
        places.append(TextSpace(torch.ones(4, 1, 6).cumsum(dim=0), 5, hidden=8, residual=residual).place.linear.weight)
    assert torch.equal(*places)


@pytest.mark.parametrize("alike", [0.0, 1e-4])
def test_a_new_item_is_not_blown_up_where_all_others_say_the_same(alike: float) -> None:
    """All of one category and without a title: then one with a title comes."""
    generator = torch.Generator().manual_seed(0)
    text = torch.eye(64)[0] + alike * torch.randn(40, 1, 64, generator=generator)
    torch.manual_seed(0)
    space = TextSpace(text, 16)
    other = space.place(torch.eye(64)[1:2])
    assert float(other.detach().norm()) < 2, "of vectors that begin with a length of .08"


def test_ordinary_texts_are_scaled_by_what_they_vary_by() -> None:
    text = torch.nn.functional.normalize(torch.randn(40, 1, 64, generator=torch.Generator().manual_seed(0)), dim=2)
    flat = text[:, 0]
    assert float(TextSpace(text, 16).place.scale) == pytest.approx(float((flat - flat.mean(0)).square().mean().sqrt()))
