"""The tokenizer: fresh noise and masks on every call, none at encoding, and collapse that shows in the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.continuous.tokenizer import Tokenizer, TokenizerNoise, TokenizerShape, cross_correlation, health

SHAPE = TokenizerShape(collaborative=6, text=10, ways=3, token_dim=8, hidden=24)
WIDTH = SHAPE.collaborative + SHAPE.text
NOISE = TokenizerNoise(sigma=0.5, feature_mask=0.2, block_mask=0.3, decorrelation=0.1)
ITEMS = 40


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known(items: int = ITEMS) -> torch.Tensor:
    return torch.ones(items, dtype=torch.bool)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Random weights, and a mean and std that are not the neutral ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = Tokenizer(SHAPE)
    tokenizer.mean.copy_(drawn(2, WIDTH) * 3)
    tokenizer.std.copy_(drawn(3, WIDTH).abs() + 0.5)
    return tokenizer


# ----------------------------------------------------------------------------------------------------------------
# Noise (literature.md 1.3, fault 1: drawn once, one vector for all items)


def test_noise_is_fresh_on_every_call_and_for_every_item() -> None:
    mu, shared = torch.zeros(ITEMS, 3, 8), generator()
    first, second = Tokenizer.draw(mu, NOISE, shared), Tokenizer.draw(mu, NOISE, shared)
    assert (first != second).all()
    assert (first[0] != first[1]).all()
    assert len(first.flatten().unique()) == first.numel(), "an element's noise appears twice"


def test_sigma_is_drawn_per_item_with_the_stated_spread() -> None:
    """Within an item the noise has one scale |sigma|; over items sigma ~ N(0, C_sigma), so the scales differ."""
    noise = Tokenizer.draw(torch.zeros(4000, 4, 64), replace(NOISE, sigma=0.3), generator())
    scale = noise.square().mean(dim=(1, 2)).sqrt()  # |sigma| of each item, to about 4 percent
    assert float(scale.square().mean().sqrt()) == pytest.approx(0.3, rel=0.05)
    assert float(scale.median()) == pytest.approx(0.3 * 0.6745, rel=0.1)  # the median of |N(0, 1)|
    assert float((noise / scale[:, None, None]).std()) == pytest.approx(1.0, rel=0.02)


def test_the_loss_draws_anew_but_only_from_its_generator(tokenizer: Tokenizer) -> None:
    signals, shared = drawn(4, ITEMS, WIDTH), generator(5)
    first = tokenizer.loss(signals, known(), NOISE, shared)
    assert first != tokenizer.loss(signals, known(), NOISE, shared)
    assert first == tokenizer.loss(signals, known(), NOISE, generator(5))


@pytest.mark.parametrize("training", [True, False])
def test_encoding_draws_nothing_in_either_mode(tokenizer: Tokenizer, training: bool) -> None:
    signals = drawn(4, ITEMS, WIDTH)
    tokenizer.train(training)
    state = torch.get_rng_state()
    first, second = tokenizer.encode(signals, known()), tokenizer.encode(signals, known())
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[7:8], tokenizer.encode(signals[7:8], known(1))) or torch.allclose(
        first[7:8], tokenizer.encode(signals[7:8], known(1)), atol=1e-6
    )  # no batch statistics: an item's tokens are its own; products of another size may round the last bit


def test_tokens_have_the_scale_that_sigma_is_measured_against(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(1000 * drawn(4, ITEMS, WIDTH), known())
    assert tokens.shape == (ITEMS, SHAPE.ways, SHAPE.token_dim)
    torch.testing.assert_close(tokens.mean(dim=2), torch.zeros(ITEMS, SHAPE.ways), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(dim=2, correction=0), torch.ones(ITEMS, SHAPE.ways), atol=1e-2, rtol=0)


# ----------------------------------------------------------------------------------------------------------------
# Masks (fault 2: made in place, one for the whole batch)


def test_the_mask_leaves_its_input_alone(tokenizer: Tokenizer) -> None:
    x = drawn(6, ITEMS, WIDTH)
    kept = x.clone()
    masked = tokenizer.mask(x, NOISE, generator())
    assert torch.equal(x, kept)
    assert masked.data_ptr() != x.data_ptr()
    assert ((masked == 0) | (masked == x)).all()
    assert (masked == 0).any()
    tokenizer.loss(x, known(), NOISE, generator()).backward()
    assert torch.equal(x, kept), "the loss changed the signals it was given"


def test_every_row_draws_its_own_mask_at_the_stated_rate(tokenizer: Tokenizer) -> None:
    noise = replace(NOISE, block_mask=0.0)
    hidden = tokenizer.mask(torch.ones(5000, WIDTH), noise, generator()) == 0
    assert len(hidden.unique(dim=0)) > 1000
    assert float(hidden.double().mean()) == pytest.approx(noise.feature_mask, abs=0.005)
    again = tokenizer.mask(torch.ones(5000, WIDTH), noise, generator(1)) == 0
    assert not torch.equal(hidden, again)


def test_the_collaborative_block_is_hidden_as_a_block_at_the_stated_rate(tokenizer: Tokenizer) -> None:
    noise = replace(NOISE, feature_mask=0.0)
    hidden = tokenizer.mask(torch.ones(5000, WIDTH), noise, generator()) == 0
    block, text = hidden[:, : SHAPE.collaborative], hidden[:, SHAPE.collaborative :]
    assert torch.equal(block.any(dim=1), block.all(dim=1))
    assert float(block.all(dim=1).double().mean()) == pytest.approx(noise.block_mask, abs=0.02)
    assert not text.any()


def test_the_target_of_the_reconstruction_is_not_masked(tokenizer: Tokenizer) -> None:
    """With every feature hidden from the encoders the loss still depends on the signals: they are the target."""
    noise = TokenizerNoise(sigma=0.0, feature_mask=0.999999, block_mask=0.0, decorrelation=0.0)
    signals = drawn(4, ITEMS, WIDTH)
    target = tokenizer.standardise(signals, known())
    blind = tokenizer.decode(tokenizer._encode(torch.zeros_like(target)))
    expected = (blind - target).square().mean()
    torch.testing.assert_close(tokenizer.loss(signals, known(), noise, generator()), expected)


# ----------------------------------------------------------------------------------------------------------------
# Inputs (fault 27: other preprocessing in training than in use)


def test_the_collaborative_half_of_an_item_not_known_cannot_reach_its_tokens(tokenizer: Tokenizer) -> None:
    signals, unknown = drawn(4, ITEMS, WIDTH), known()
    unknown[::2] = False
    other = signals.clone()
    other[:, : SHAPE.collaborative] = 1e4 * drawn(8, ITEMS, SHAPE.collaborative)
    before, after = tokenizer.encode(signals, unknown), tokenizer.encode(other, unknown)
    assert torch.equal(before[::2], after[::2])
    assert (before[1::2] != after[1::2]).any(dim=(1, 2)).all()
    noiseless = TokenizerNoise(0.0, 0.0, 0.0, 0.0)
    losses = [tokenizer.loss(x[::2], unknown[::2], noiseless, generator()) for x in (signals, other)]
    assert losses[0] == losses[1], "nor the loss: a value that is not there is no target either"


def test_loss_and_encoding_see_the_same_standardised_signals(tokenizer: Tokenizer) -> None:
    """Without noise and mask the loss is the reconstruction error of exactly what `encode` gives."""
    signals = drawn(4, ITEMS, WIDTH) * tokenizer.std + tokenizer.mean
    target = tokenizer.standardise(signals, known())
    torch.testing.assert_close(target, drawn(4, ITEMS, WIDTH), atol=1e-5, rtol=1e-5)
    tokens = tokenizer.encode(signals, known())
    expected = (tokenizer.decode(tokens) - target).square().mean()
    noiseless = TokenizerNoise(0.0, 0.0, 0.0, 0.0)
    torch.testing.assert_close(tokenizer.loss(signals, known(), noiseless, generator()), expected)


def test_what_is_saved_is_what_is_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    signals = drawn(4, ITEMS, WIDTH)
    assert loaded.shape == SHAPE
    assert not loaded.training
    assert torch.equal(loaded.mean, tokenizer.mean)
    assert torch.equal(loaded.std, tokenizer.std)
    assert torch.equal(loaded.encode(signals, known()), tokenizer.encode(signals, known()))
    assert torch.equal(
        loaded.decode(loaded.encode(signals, known())), tokenizer.decode(loaded.encode(signals, known()))
    )


# ----------------------------------------------------------------------------------------------------------------
# Decorrelation and health


def test_cross_correlation_is_one_for_copies_of_one_feature_and_nearly_zero_for_independent_ways() -> None:
    x = drawn(9, 4000, 1, 1)
    assert float(cross_correlation(x.expand(4000, 3, 1))) == pytest.approx(1.0, abs=1e-3)
    assert float(cross_correlation(drawn(9, 4000, 3, 4))) < 1e-3
    assert float(cross_correlation(drawn(9, 100, 1, 4))) == 0
    assert float(cross_correlation(drawn(9, 1, 3, 4))) == 0


def test_cross_correlation_equals_a_plain_loop() -> None:
    tokens = drawn(10, 30, 3, 4)
    tokens[:, 1] += 0.7 * tokens[:, 0]
    squares = []
    for a in range(3):
        for b in range(a + 1, 3):
            for i in range(4):
                for j in range(4):
                    # Sample covariance over n - 1 becomes over n as in the module; the deviations stay n - 1.
                    squares.append(
                        (torch.corrcoef(torch.stack([tokens[:, a, i], tokens[:, b, j]]))[0, 1] * 29 / 30) ** 2
                    )
    torch.testing.assert_close(cross_correlation(tokens), torch.stack(squares).mean())


def test_a_step_down_its_gradient_decorrelates_the_ways() -> None:
    tokens = drawn(11, 200, 2, 6)
    tokens[:, 1] = tokens[:, 0] + 0.1 * tokens[:, 1]
    values = []
    for _ in range(100):
        tokens.requires_grad_(True)
        value = cross_correlation(tokens)
        (gradient,) = torch.autograd.grad(value, tokens)
        values.append(float(value.detach()))
        tokens = (tokens - 60 * gradient).detach()
    assert values[-1] < 0.5 * values[0]


def test_training_with_the_term_leaves_the_ways_less_correlated() -> None:
    """Two tokenizers from the same start, one with the weight at zero: the term does what it is for."""
    signals = drawn(12, 256, WIDTH) @ drawn(13, WIDTH, WIDTH)
    found = {}
    for weight in (0.0, 1.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tokenizer = Tokenizer(SHAPE)
        tokenizer.std.copy_(signals.std(dim=0))
        noise, draws = replace(NOISE, decorrelation=weight), generator()
        optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
        for _ in range(150):
            optimiser.zero_grad()
            tokenizer.loss(signals, known(256), noise, draws).backward()
            optimiser.step()
        with torch.no_grad():
            found[weight] = float(cross_correlation(tokenizer.encode(signals, known(256))))
    assert found[1.0] < 0.7 * found[0.0]


def test_health_shows_healthy_tokens_as_healthy() -> None:
    signals = drawn(14, 300, 12)
    found = health(signals.reshape(300, 2, 6), signals, signals)
    assert found["effective_rank"] > 11
    assert found["dimensions"] == 12
    assert found["variance_min"] > 0.7
    assert found["explained"] == pytest.approx(1.0)
    assert found["neighbours_kept"] > 0.9  # not 1: tokens are centred before the cosine, signals are standardised


@pytest.mark.parametrize("collapse", ["to a point", "to a line"])
def test_health_shows_collapse(collapse: str) -> None:
    signals = drawn(14, 300, 12)
    line = drawn(15, 300, 1) if collapse == "to a line" else torch.ones(300, 1)
    tokens = (line * drawn(16, 1, 12)).reshape(300, 2, 6)
    found = health(tokens, signals, torch.zeros_like(signals))
    assert found["effective_rank"] < 1.5
    assert found["explained"] == pytest.approx(0.0)
    assert found["neighbours_kept"] < 0.2
    if collapse == "to a point":
        assert found["variance_mean"] < 1e-9


def test_health_of_a_single_item_is_finite() -> None:
    found = health(drawn(17, 1, 2, 3), drawn(18, 1, 5), drawn(18, 1, 5))
    assert all(value == value and abs(value) < float("inf") for value in found.values())
