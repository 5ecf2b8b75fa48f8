"""The head: the trunk at t = 1 by construction, the right schedule and signs, and noise that only the caller draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.continuous.head import (
    Head,
    HeadShape,
    direction_loss,
    dispersive_loss,
    draw_times,
    schedule,
    time_features,
)

SHAPE = HeadShape(width=10, hidden=16, blocks=3, norm=2.0)
BATCH = 7


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_head(shape: HeadShape = SHAPE, seed: int = 0, scale: float = 0.5) -> Head:
    """Every weight drawn: also those that start at zero."""
    head = Head(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return head.eval()


def inputs(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return drawn(seed, BATCH, SHAPE.width), drawn(seed + 1, BATCH, SHAPE.width), drawn(seed + 2, BATCH, SHAPE.width)


# ----------------------------------------------------------------------------------------------------------------
# The anchor and the schedule


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_at_pure_noise_the_head_is_exactly_the_anchor_for_any_weights(seed: int, scale: float) -> None:
    head = random_head(seed=seed, scale=scale)
    x_t, condition, anchor = inputs(seed)
    anchor = anchor * 1e-6  # so small that any remainder of f would be seen
    with torch.no_grad():
        x0_hat, _ = head(x_t, torch.ones(BATCH), condition, anchor)
        moved, _ = head(x_t, torch.full((BATCH,), 0.9), condition, anchor)
        f, _ = head.residual(x_t, torch.ones(BATCH), condition)
    assert torch.equal(x0_hat, anchor)
    assert not torch.allclose(moved, anchor), "at other times f takes part"
    assert f.abs().max() > 1e-3, "f itself does not fade out"


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 1.0])
def test_an_untrained_head_is_the_trunk_at_every_time(t: float) -> None:
    head = Head(SHAPE)
    x_t, condition, anchor = inputs()
    x0_hat, activation = head(x_t, torch.full((BATCH,), t), condition, anchor)
    assert torch.equal(x0_hat, anchor)
    assert activation.shape == (BATCH, SHAPE.hidden)
    assert torch.isfinite(activation).all()


def test_an_untrained_head_can_learn() -> None:
    """Zero outputs and zero gates must not be a dead start."""
    head = Head(SHAPE)
    x_t, condition, anchor = inputs()
    wanted, t = drawn(9, BATCH, SHAPE.width), torch.full((BATCH,), 0.5)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    errors = []
    for _ in range(200):
        x0_hat, _ = head(x_t, t, condition, anchor)
        loss = F.mse_loss(x0_hat, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.01 * errors[0]
    assert all(float(block.modulation.weight.detach().abs().max()) > 0 for block in head.blocks)


def test_the_schedule_preserves_variance_and_falls_from_the_item_to_noise() -> None:
    t = torch.linspace(0, 1, 1001)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(1001), atol=1e-6, rtol=0)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha[-1], sigma[-1]) == (0, 1)
    assert float(schedule(torch.tensor(0.5))[0]) == pytest.approx(math.sqrt(0.5))


def test_what_the_network_reads_has_unit_variance_at_every_time() -> None:
    """x_t of random clean vectors, scaled as `forward` scales it: read off at the input layer."""
    head, read = Head(SHAPE), []
    head.inputs.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    x0 = head.clean(drawn(3, 6000, SHAPE.width))
    torch.testing.assert_close(x0.norm(dim=1), torch.full((6000,), SHAPE.norm))
    nothing = torch.zeros_like(x0)
    for time in (0.05, 0.4, 0.8, 1.0):
        t = torch.full((6000,), time)
        head(head.noised(x0, t, drawn(4, 6000, SHAPE.width)), t, nothing, nothing)
        assert float(read[-1].square().mean()) == pytest.approx(1.0, rel=0.03)


def test_noising_is_the_schedule_written_out() -> None:
    head = Head(SHAPE)
    x0, noise = drawn(1, 3, SHAPE.width), drawn(2, 3, SHAPE.width)
    t = torch.tensor([0.0, 0.25, 1.0])
    expected = torch.stack(
        [
            math.cos(time * math.pi / 2) * a + math.sin(time * math.pi / 2) * b
            for time, a, b in zip(t, x0, noise, strict=True)
        ]
    )
    torch.testing.assert_close(head.noised(x0, t, noise), expected)


@pytest.mark.parametrize("width", [1, 7, 16])
def test_time_features_tell_times_apart_at_any_width(width: int) -> None:
    features = time_features(torch.linspace(0, 1, 50), width)
    assert features.shape == (50, width)
    if width > 1:
        assert float(torch.pdist(features).min()) > 1e-3


# ----------------------------------------------------------------------------------------------------------------
# Times


def test_times_lie_within_the_range_shifted_towards_noise_and_repeat_with_the_seed() -> None:
    def times(shift: float, seed: int = 0) -> torch.Tensor:
        return draw_times(20_000, shift, torch.Generator().manual_seed(seed), torch.device("cpu"))

    for shift in (1.0, 3.0, 50.0):
        assert float(times(shift).min()) >= 0
        assert float(times(shift).max()) <= 1
        # The median of u is a half, and the shift keeps order: s / 2 / (1 + (s - 1) / 2) = s / (s + 1).
        assert float(times(shift).median()) == pytest.approx(shift / (shift + 1), abs=0.01)
    assert torch.equal(times(3.0), times(3.0))
    assert not torch.equal(times(3.0), times(3.0, seed=1))


# ----------------------------------------------------------------------------------------------------------------
# Losses


def test_direction_loss_is_zero_exactly_for_parallel_vectors_and_weighted_by_alpha() -> None:
    x0, t = drawn(1, BATCH, 6), torch.linspace(0.1, 0.9, BATCH)
    lengths = torch.linspace(0.5, 4, BATCH)[:, None]
    assert float(direction_loss(lengths * x0, x0, t)) == pytest.approx(0.0, abs=1e-6)
    assert float(direction_loss(-x0, x0, t)) == pytest.approx(2 * float(schedule(t)[0].mean()), rel=1e-5)
    turned = x0.clone()
    turned[3, 0] += 1.0
    assert float(direction_loss(turned, x0, t)) > 1e-3
    only = torch.ones(BATCH)
    only[3] = 0.5  # everything else at pure noise, where nothing can be known and nothing is asked
    cosine = F.cosine_similarity(turned[3], x0[3], dim=0)
    expected = math.sqrt(0.5) * (1 - float(cosine)) / BATCH
    assert float(direction_loss(turned, x0, only)) == pytest.approx(expected, abs=1e-6)


def test_dispersive_loss_equals_a_plain_double_loop() -> None:
    z = drawn(5, 23, 9)
    u = [row / float(row.square().sum()) ** 0.5 for row in z]
    terms = [math.exp(-float((u[i] - u[j]).square().sum()) / 0.5) for i in range(23) for j in range(23)]
    assert float(dispersive_loss(z)) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-5)
    assert float(dispersive_loss(torch.cat([z, -z]), rows=23)) == float(dispersive_loss(z))
    assert float(dispersive_loss(torch.ones(5, 3))) == pytest.approx(0.0, abs=1e-6)  # its greatest value: all one point


def test_scale_is_no_way_out_of_the_dispersive_loss() -> None:
    """Of raw rows, 20 times the scale reached the floor, -log(rows), at the same cosines."""
    spread, together = drawn(8, 64, 32), 10 * drawn(9, 1, 32) + drawn(10, 64, 32)
    for z in (spread, together):
        assert float(dispersive_loss(20 * z)) == pytest.approx(float(dispersive_loss(z)), abs=1e-5)
    cosines = F.normalize(together, dim=1) @ F.normalize(together, dim=1).T
    assert float(cosines.mean()) == pytest.approx(0.99, abs=0.005)
    assert float(dispersive_loss(together)) > -0.1
    assert float(dispersive_loss(spread)) < -2.5


def test_a_step_down_the_dispersive_gradient_pushes_apart() -> None:
    """Literature.md 1.3, fault 8: with the sign turned round the term rewards collapse. Of directions: see above."""
    z = 0.3 * (1 + drawn(6, 40, 8))
    distances = [float(torch.pdist(F.normalize(z, dim=1)).mean())]
    for _ in range(5):
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(dispersive_loss(z), z)
        z = (z - 5 * gradient).detach()
        distances.append(float(torch.pdist(F.normalize(z, dim=1)).mean()))
    assert all(later > earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] > 1.05 * distances[0]


def test_what_is_dispersed_is_the_second_block_not_the_output() -> None:
    head, seen = random_head(), []
    head.blocks[1].register_forward_hook(lambda module, args, out: seen.append(out))
    x_t, condition, anchor = inputs()
    x0_hat, activation = head(x_t, torch.full((BATCH,), 0.5), condition, anchor)
    assert torch.equal(activation, seen[0])
    assert activation.shape != x0_hat.shape


# ----------------------------------------------------------------------------------------------------------------
# Sampling


TIMES = (0.9, 0.6, 0.3)


def plain_f(head: Head, x: np.ndarray, t: float, condition: np.ndarray) -> np.ndarray:
    """f(x_t, t, h) once more, in numpy and double precision, from the module's text and the weights alone."""
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)

    half = SHAPE.hidden // 2
    angles = 1000 * t * 10_000.0 ** (-np.arange(half) / half)
    time = linear("time.2", silu(linear("time.0", np.concatenate([np.cos(angles), np.sin(angles)])[None])))
    c = time + linear("condition", condition)
    clean = np.cos(t * np.pi / 2) ** 2 * SHAPE.norm**2 / SHAPE.width
    x = linear("inputs", x / np.sqrt(clean + np.sin(t * np.pi / 2) ** 2))
    for block in range(SHAPE.blocks):
        shift, scale, gate = np.split(linear(f"blocks.{block}.modulation", silu(c)), 3, axis=1)
        inner = norm(x) * (1 + scale) + shift
        x = x + gate * linear(f"blocks.{block}.mlp.2", silu(linear(f"blocks.{block}.mlp.0", inner)))
    return linear("outputs", norm(x))


def test_sampling_equals_the_walk_derived_once_more_in_numpy() -> None:
    head = random_head(scale=0.2)
    condition, anchor = drawn(2, BATCH, SHAPE.width), drawn(3, BATCH, SHAPE.width)
    noise = drawn(4, BATCH, len(TIMES), SHAPE.width)
    h, g, z = (tensor.double().numpy() for tensor in (condition, anchor, noise))
    x0 = g
    for step, t in enumerate(TIMES):
        alpha, sigma = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)
        clean = SHAPE.norm * x0 / np.linalg.norm(x0, axis=1, keepdims=True)
        x0 = g + alpha * plain_f(head, alpha * clean + sigma * z[:, step], t, h)
    with torch.no_grad():
        sampled = head.sample(condition, anchor, noise, TIMES).double().numpy()
    assert np.abs(x0 - g).max() > 0.05, "f must take part, or this test holds nothing"
    np.testing.assert_allclose(sampled, x0, atol=2e-4, rtol=2e-4)


def test_a_batch_samples_what_its_members_sample() -> None:
    head = random_head()
    _, condition, anchor = inputs()
    noise = drawn(4, BATCH, len(TIMES), SHAPE.width)
    with torch.no_grad():
        together = head.sample(condition, anchor, noise, TIMES)
        alone = [head.sample(condition[n, None], anchor[n, None], noise[n, None], TIMES) for n in range(BATCH)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_sampling_draws_nothing_itself_and_follows_the_noise_it_is_given() -> None:
    head = random_head()
    _, condition, anchor = inputs()
    noise = drawn(4, BATCH, len(TIMES), SHAPE.width)
    with torch.no_grad():
        first = head.sample(condition, anchor, noise, TIMES)
        state = torch.get_rng_state()
        torch.randn(5)
        assert torch.equal(first, head.sample(condition, anchor, noise, TIMES))
        torch.set_rng_state(state)
        head.sample(condition, anchor, noise, TIMES)
        assert torch.equal(torch.get_rng_state(), state)
        other = head.sample(condition, anchor, drawn(5, BATCH, len(TIMES), SHAPE.width), TIMES)
        last = noise.clone()
        last[:, -1] = 0
        assert (other != first).any(dim=1).all()
        assert (head.sample(condition, anchor, last, TIMES) != first).any(dim=1).all(), "each time has its own draw"


def test_without_times_the_sample_is_the_anchor() -> None:
    _, condition, anchor = inputs()
    assert torch.equal(random_head().sample(condition, anchor, torch.zeros(BATCH, 0, SHAPE.width), ()), anchor)


@pytest.mark.parametrize("draws", [0, 2, 4])
def test_noise_of_another_length_is_refused(draws: int) -> None:
    _, condition, anchor = inputs()
    with pytest.raises(ValueError, match=rf"3 times need as many draws of noise, not {draws}"):
        random_head().sample(condition, anchor, torch.zeros(BATCH, draws, SHAPE.width), TIMES)


def test_the_condition_reaches_the_sample() -> None:
    head = random_head()
    _, condition, anchor = inputs()
    noise = drawn(4, BATCH, len(TIMES), SHAPE.width)
    with torch.no_grad():
        changed = head.sample(condition + 1, anchor, noise, TIMES)
        assert (changed != head.sample(condition, anchor, noise, TIMES)).any(dim=1).all()


# ----------------------------------------------------------------------------------------------------------------
# Guidance


def test_guided_sampling_is_the_walk_of_the_formula() -> None:
    """nobody + 2 (conditional - nobody), at the conditional's length, at every time; derived from the plain passes."""
    head = random_head(scale=0.2)
    _, condition, anchor = inputs()
    noise = drawn(4, BATCH, len(TIMES), SHAPE.width)
    nobody, its_anchor = (row.expand(BATCH, -1) for row in head.nobody.detach())
    with torch.no_grad():
        x0 = anchor
        for step, time in enumerate(TIMES):
            t = torch.full((BATCH,), time)
            x_t = head.noised(head.clean(x0), t, noise[:, step])
            with_it, without = head(x_t, t, condition, anchor)[0], head(x_t, t, nobody, its_anchor)[0]
            moved = without + 2 * (with_it - without)
            x0 = moved / moved.norm(dim=1, keepdim=True) * with_it.norm(dim=1, keepdim=True)
        guided = head.sample(condition, anchor, noise, TIMES, guidance=2.0)
        torch.testing.assert_close(guided, x0, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(guided, head.sample(condition, anchor, noise, TIMES), atol=1e-2)


def test_rows_without_a_condition_train_the_vectors_of_nobody_and_no_others_do() -> None:
    head = random_head(scale=0.2)
    _, condition, anchor = inputs()
    rows = torch.arange(BATCH) < 2
    its_condition, its_anchor = head.anonymous(condition, anchor, rows)
    assert torch.equal(its_condition[2:], condition[2:])
    assert torch.equal(its_anchor[2:], anchor[2:])
    assert torch.equal(its_condition[:2], head.nobody[:1].expand(2, -1))
    (its_condition.sum() + 3 * its_anchor.sum()).backward()
    assert head.nobody.grad is not None
    assert head.nobody.grad.tolist() == [[2.0] * SHAPE.width, [6.0] * SHAPE.width]
