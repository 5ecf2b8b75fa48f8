"""bench/quality/plain.py: ancestral sampling against what is known in closed form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.quality import plain
from bench.quality.plain import STEPS, TIMES, ancestral, posterior
from tests.contracts.recommender_contract import HISTORIES
from tests.model.fitted import fitted

MEAN, SPREAD = 1.5, 0.4


def alpha_sigma(t: float) -> tuple[float, float]:
    return float(np.cos(t * np.pi / 2)), float(np.sin(t * np.pi / 2))


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.995), (0.9, 0.2), (0.5, 0.495), (0.01, 0.005)])
def test_a_step_is_the_conditional_of_the_joint_gaussian(t: float, s: float) -> None:
    """x_s and x_t given x0 are jointly normal with covariance (alpha_t / alpha_s) sigma_s^2: condition it in numpy."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    covariance = alpha_t / alpha_s * sigma_s**2
    slope = covariance / sigma_t**2
    expected = (slope, alpha_s - slope * alpha_t, np.sqrt(sigma_s**2 - slope * covariance))
    np.testing.assert_allclose(posterior(t, s), expected, rtol=1e-6, atol=1e-9)


def test_the_last_step_is_the_clean_estimate() -> None:
    np.testing.assert_allclose(posterior(0.005, 0.0), (0, 1, 0), atol=1e-12)


def best_estimate(x_t: torch.Tensor, t: float) -> torch.Tensor:
    """E[x0 | x_t] where x0 is N(MEAN, SPREAD^2)."""
    alpha, sigma = alpha_sigma(t)
    return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x_t - alpha * MEAN)


def moments(times: tuple[float, ...]) -> tuple[float, float]:
    """Mean and standard deviation of what the chain ends with: every step is linear in x and in its noise."""
    mean, variance = 0.0, 1.0
    for t, s in pairwise(times):
        alpha, sigma = alpha_sigma(t)
        of_x, of_x0, of_noise = posterior(t, s)
        slope = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        mean = (of_x + of_x0 * slope) * mean + of_x0 * MEAN * (1 - slope * alpha)
        variance = (of_x + of_x0 * slope) ** 2 * variance + of_noise**2
    return mean, variance**0.5


def test_samples_of_a_gaussian_are_that_gaussian() -> None:
    """With the estimate that is best for it; to noise the estimate anew at each step would halve the variance."""
    assert moments(tuple(np.linspace(1, 0, 4001).tolist())) == pytest.approx((MEAN, SPREAD), rel=2e-3)
    mean, spread = moments(TIMES)
    assert (mean, spread) == pytest.approx((MEAN, SPREAD), rel=0.03), "what 200 steps leave"
    draws = 40_000
    noise = torch.randn(STEPS, draws, 1, generator=torch.Generator().manual_seed(0)).double()
    found = ancestral(best_estimate, noise, TIMES).numpy()
    assert found.mean() == pytest.approx(mean, abs=4 * SPREAD / draws**0.5)
    assert found.std() == pytest.approx(spread, rel=4 / (2 * draws) ** 0.5)


def test_a_step_keeps_of_the_last_what_the_posterior_says_and_draws_its_own_noise() -> None:
    seen: list[tuple[float, torch.Tensor]] = []

    def nothing(x_t: torch.Tensor, t: float) -> torch.Tensor:
        seen.append((t, x_t))
        return torch.zeros_like(x_t)

    noise = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1)).double()
    found = ancestral(nothing, noise, (1.0, 0.7, 0.3, 0.0))
    torch.testing.assert_close(found, torch.zeros_like(found))
    assert [t for t, _ in seen] == [1.0, 0.7, 0.3]
    for (_, before), (_, after), (t, s), fresh in zip(
        seen, seen[1:], ((1.0, 0.7), (0.7, 0.3)), noise[1:], strict=False
    ):
        of_x, _, of_noise = posterior(t, s)
        torch.testing.assert_close(after, of_x * before + of_noise * fresh)


def test_the_first_step_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The anchored prediction is zero at pure noise without its anchor; what the network gives there is not."""
    monkeypatch.setattr(plain, "TIMES", (1.0, 0.0))
    monkeypatch.setattr(plain, "STEPS", 1)
    recommender = fitted().recommender(0.5)
    scorer = plain._Scorer(recommender, recommender.head, 0.0)
    found = scorer(np.arange(len(HISTORIES)), list(HISTORIES))
    condition = torch.from_numpy(np.stack([token.condition for token in recommender.encode(HISTORIES)]))
    noise = torch.randn(1, 1, condition.shape[1], generator=torch.Generator().manual_seed(0))[0].expand_as(condition)
    with torch.no_grad():
        x0, _ = recommender.head.residual(noise, torch.ones(len(condition)), condition)
    expected = (x0 @ F.normalize(recommender.vectors, dim=1).T).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3
