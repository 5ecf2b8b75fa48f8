"""The trunk: nothing after an item reaches the states before it, and one condition serves training and serving."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, Item
from model.continuous.backbone import BackboneShape, Trunk, attention, convolved, pad
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender, profiles
from training.stages.trunk import read_states
from training.stages.windows import Windows

SHAPE = BackboneShape(width=16, layers=2, heads=2, feed_forward=24, max_history=8, kernel=3)
MAX_PROFILE = 5
ITEMS = 50
BATCH, LENGTH = 4, 7


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    """Weights larger than a fresh trunk's, so that whatever can flow shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = Trunk(SHAPE, dropout=0.5)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(4 * parameter)
        for number, weights in enumerate(trunk.backbone.short):  # they start at zero
            weights.copy_(drawn(8 + number, *weights.shape))
        trunk.anchor.weight.copy_(drawn(1, SHAPE.width, SHAPE.width))
    return trunk.eval()


@pytest.fixture(scope="module")
def recommender(trunk: Trunk) -> ContinuousRecommender:
    vectors = drawn(2, ITEMS, SHAPE.width) / 4
    return ContinuousRecommender(
        Catalogue(Item(f"i{row}") for row in range(ITEMS)),
        trunk,
        Head(HeadShape(SHAPE.width, 8, 1, 2.0)),
        vectors,
        drawn(3, ITEMS),
        torch.ones(ITEMS, dtype=torch.int64),
        Mixture(1, (0.5,), 0.0),
        max_profile=MAX_PROFILE,
    )


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def inputs(length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Items, profiles, and who has one: every second."""
    return (
        drawn(4, BATCH, LENGTH, SHAPE.width)[:, :length] / 4,
        drawn(5, BATCH, SHAPE.width) / 4,
        torch.arange(BATCH) % 2 == 0,
    )


# ----------------------------------------------------------------------------------------------------------------
# What may flow where


@pytest.mark.parametrize("t", range(LENGTH))
def test_an_item_and_all_after_it_change_nothing_before_it(trunk: Trunk, t: int) -> None:
    items, profile, has_profile = inputs()
    before = trunk.backbone(items, profile, has_profile)
    assert before.shape == (BATCH, LENGTH + 1, SHAPE.width)
    changed = items.clone()
    changed[:, t:] = drawn(6, BATCH, LENGTH - t, SHAPE.width)
    after = trunk.backbone(changed, profile, has_profile)
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])  # state t has read items 0..t-1
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any(dim=2).all()


@pytest.mark.parametrize("length", [0, 1, 4])
def test_padding_on_the_right_changes_no_state(trunk: Trunk, length: int) -> None:
    items, profile, has_profile = inputs()
    padded = trunk.backbone(items, profile, has_profile)
    short = trunk.backbone(items[:, :length], profile, has_profile)
    # Products of another shape are summed in another order, so to the last bits only.
    torch.testing.assert_close(padded[:, : length + 1], short, atol=2e-5, rtol=2e-5)


def test_the_profile_reaches_every_state_of_who_has_one_and_no_other(trunk: Trunk) -> None:
    items, profile, has_profile = inputs()
    before = trunk.backbone(items, profile, has_profile)
    after = trunk.backbone(items, profile + 1, has_profile)
    assert (before[has_profile] != after[has_profile]).any(dim=2).all()
    assert torch.equal(before[~has_profile], after[~has_profile])


def test_the_rows_of_a_batch_do_not_meet(trunk: Trunk) -> None:
    items, profile, has_profile = inputs()
    before = trunk.backbone(items, profile, has_profile)
    items = items.clone()
    items[1:] += 1
    assert torch.equal(before[:1], trunk.backbone(items, profile, has_profile)[:1])


def test_the_order_of_items_matters(trunk: Trunk) -> None:
    items, profile, has_profile = inputs()
    before, after = (trunk.backbone(x, profile, has_profile)[:, -1] for x in (items, items.flip(1)))
    assert (before != after).any(dim=1).all()


def test_attention_under_bfloat16_is_that_of_float32() -> None:
    query, key, value = (drawn(11 + n, 3, 2, 9, 8).bfloat16() for n in range(3))
    expected = torch.softmax(
        (query.float() @ key.float().mT / math.sqrt(8)).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf), dim=-1
    )
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention(torch.nn.Module(), query, key, value, None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, (expected @ value.float()).transpose(1, 2).bfloat16(), atol=0, rtol=2**-7)


def test_the_convolution_is_the_sum_over_the_positions_before() -> None:
    x, weights = drawn(9, 2, 5, 4), drawn(10, 3, 4)
    expected = x.clone()
    for t in range(5):
        for back in range(min(3, t + 1)):
            expected[:, t] += weights[back] * x[:, t - back]
    torch.testing.assert_close(convolved(x, weights), expected)
    torch.testing.assert_close(convolved(x[:, :2], weights), expected[:, :2])


def test_the_layers_read_what_is_convolved(trunk: Trunk) -> None:
    """By hand, around the layers of a trunk without: also what a bundle of before the convolution holds."""
    plain = Trunk(replace(SHAPE, kernel=1))
    weights = {name: tensor for name, tensor in trunk.state_dict().items() if ".short." not in name}
    assert plain.state_dict().keys() == weights.keys()
    plain.load_state_dict(weights)
    items, profile, has_profile = inputs()
    for layer, short in zip(plain.eval().backbone.lm.layers, trunk.backbone.short, strict=True):
        layer.register_forward_pre_hook(lambda _, args, short=short: (convolved(args[0], short), *args[1:]))
    found, expected = (one.backbone(items, profile, has_profile) for one in (trunk, plain))
    torch.testing.assert_close(found, expected)
    assert (found != Trunk(SHAPE).eval().backbone(items, profile, has_profile)).any()


def test_a_shape_from_before_the_convolution_has_none(tmp_path: Path) -> None:
    old = Trunk(replace(SHAPE, kernel=1)).eval()
    old.save(tmp_path)
    shape = json.loads((tmp_path / "shape.json").read_text(encoding="utf-8"))
    assert shape.pop("kernel") == 1
    (tmp_path / "shape.json").write_text(json.dumps(shape), encoding="utf-8")
    read = Trunk.load(tmp_path).eval()
    assert len(read.backbone.short) == 0
    assert torch.equal(read.backbone(*inputs()), old.backbone(*inputs()))


def test_dropout_acts_in_training_only() -> None:
    trunk = Trunk(SHAPE, dropout=0.3)
    items, profile, has_profile = inputs()
    trunk.eval()
    state = torch.get_rng_state()
    h = trunk.backbone(items, profile, has_profile)
    assert torch.equal(h, trunk.backbone(items, profile, has_profile))
    assert torch.equal(trunk.g(h), trunk.g(h))
    assert torch.equal(torch.get_rng_state(), state), "serving drew random numbers"
    trunk.train()
    assert not torch.equal(trunk.backbone(items, profile, has_profile), trunk.backbone(items, profile, has_profile))
    assert not torch.equal(trunk.g(h), trunk.g(h))


def test_dropout_acts_on_the_residual_branches_too() -> None:
    """A trunk whose input is dropped to nothing would show no branch; so watch what the layers add."""
    trunk = Trunk(SHAPE, dropout=0.3).train()
    zeros: list[float] = []
    for layer in trunk.backbone.lm.layers:
        # Registered after the trunk's own hooks, so it sees what is added to the residual stream.
        for module in (layer.self_attn, layer.mlp):
            module.register_forward_hook(
                lambda module, args, out: zeros.append(
                    float(((out[0] if isinstance(out, tuple) else out) == 0).double().mean())
                )
            )
    items, profile, has_profile = inputs()
    trunk.backbone(items, profile, has_profile)
    assert len(zeros) == 2 * SHAPE.layers
    assert all(0.15 < share < 0.45 for share in zeros)
    zeros.clear()
    trunk.eval().backbone(items, profile, has_profile)
    assert zeros == [0.0] * (2 * SHAPE.layers)


def test_a_fresh_anchor_is_the_condition_itself() -> None:
    h = drawn(7, 3, SHAPE.width)
    torch.testing.assert_close(Trunk(SHAPE).eval().g(h), h)


def test_padding_keeps_rows_and_lengths() -> None:
    rows, lengths = pad([torch.tensor([3, 4]), torch.tensor([], dtype=torch.long), torch.tensor([5])])
    assert rows.tolist() == [[3, 4], [0, 0], [5, 0]]
    assert lengths.tolist() == [2, 0, 1]
    assert pad([])[0].shape == (0, 0)
    assert pad([torch.tensor([], dtype=torch.long)])[0].shape == (1, 0)


# ----------------------------------------------------------------------------------------------------------------
# The profile: only from what lies before the tail


def history_of(length: int) -> np.ndarray:
    return np.random.default_rng(length).permutation(ITEMS)[:length].astype(np.int64)


def test_the_profile_reads_before_the_tail_and_no_further_back_than_told(recommender: ContinuousRecommender) -> None:
    history = history_of(20)
    (tokens,) = recommender.encode([history])
    for position in range(20):
        changed = history.copy()
        changed[position] = (history[position] + 1) % ITEMS
        (other,) = recommender.encode([changed])
        in_tail = position >= 20 - SHAPE.max_history
        in_profile = not in_tail and position >= 20 - SHAPE.max_history - MAX_PROFILE
        assert np.array_equal(tokens.profile, other.profile) == (not in_profile)
        assert np.array_equal(tokens.condition, other.condition) == (not in_tail and not in_profile)


def test_the_profile_is_the_mean_and_absent_where_the_tail_is_all(recommender: ContinuousRecommender) -> None:
    history = history_of(11)
    profile, has_profile = profiles(recommender.vectors, [history, history[:8], history[:0]], 8, MAX_PROFILE)
    assert has_profile.tolist() == [True, False, False]
    torch.testing.assert_close(profile[0], recommender.vectors[torch.from_numpy(history[:3])].mean(dim=0))
    assert not profile[1:].any()
    assert [len(t.profile) for t in recommender.encode([history, history[:8], history[:0]])] == [SHAPE.width, 0, 0]


# ----------------------------------------------------------------------------------------------------------------
# One condition for training and serving (literature.md 1.3, faults 5 and 6)


def test_training_and_serving_read_the_same_condition(trunk: Trunk, recommender: ContinuousRecommender) -> None:
    """Every position of a first window, and the last target of every later one: the states are those of `encode`.

    Users with 1, 5, 8, 9, 10, 17, 18, 30 and 40 events: shorter than the tail, on its edges, and with a profile.
    """
    histories = [history_of(length) for length in (1, 5, 8, 9, 10, 17, 18, 30, 40)]
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    windows = Windows(offsets, np.concatenate(histories).astype(np.int32), SHAPE.max_history, MAX_PROFILE)
    compared, with_profile = 0, 0
    for user, history in enumerate(histories):
        mine = [n for n, (_, _, start, _) in enumerate(windows._bounds) if offsets[user] <= start < offsets[user + 1]]
        for number in mine:
            _, _, start, end = (int(bound) - int(offsets[user]) for bound in windows._bounds[number])
            # In one batch with the others, so that padding is part of what is held equal.
            together = windows.batch(np.array([0, number, len(windows) - 1]))
            conditions, anchors, targets = read_states(trunk, recommender.vectors, together)
            assert torch.equal(anchors, trunk.g(conditions))
            skip = int(together.lengths[0])
            conditions = conditions[skip : skip + end - start]
            assert targets[skip : skip + end - start].tolist() == history[start:end].tolist()
            for target in range(start, end) if start == 0 else (end - 1,):
                (served,) = recommender.encode([history[:target]])
                np.testing.assert_allclose(conditions[target - start].numpy(), served.condition, atol=2e-5, rtol=2e-5)
                compared += 1
                with_profile += len(served.profile) > 0
    assert compared > 40
    assert with_profile >= 5


def test_a_batch_of_histories_is_encoded_as_each_alone(recommender: ContinuousRecommender) -> None:
    histories = [history_of(length) for length in (0, 1, 8, 9, 40, 3)]
    for alone, together in zip(
        (recommender.encode([h])[0] for h in histories), recommender.encode(histories), strict=True
    ):
        np.testing.assert_allclose(alone.condition, together.condition, atol=2e-5, rtol=2e-5)
        np.testing.assert_array_equal(alone.profile, together.profile)
