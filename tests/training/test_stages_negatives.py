"""Negative-aware losses: the right sign, the right rows, and nothing where nobody dislikes anything."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from training.stages.head import MARGIN
from training.stages.negatives import Disliked, centroids, margin_loss, pairwise_loss, preferdiff_loss


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_user_draws_only_what_they_disliked() -> None:
    disliked = Disliked(np.array([0, 2, 2, 5], dtype=np.int64), np.array([7, 8, 1, 2, 3], dtype=np.int32))
    users = torch.tensor([0, 1, 2] * 200)
    rows, has = disliked.draw(users, torch.Generator().manual_seed(0))
    assert set(rows[users == 0].tolist()) == {7, 8}
    assert set(rows[users == 2].tolist()) == {1, 2, 3}
    assert not has[users == 1].any()
    assert has[users != 1].all()


def test_without_any_dislike_the_pairwise_loss_is_zero_and_has_no_gradient_to_give() -> None:
    nobody = Disliked(np.zeros(4, dtype=np.int64), np.zeros(0, dtype=np.int32))
    rows, has = nobody.draw(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert len(rows) == 3
    loss = pairwise_loss(_random(3, 4), _random(3, 5), _random(3, 5), has)
    assert float(loss) == 0.0


def test_the_pairwise_loss_is_the_written_out_formula_and_pushes_away() -> None:
    x, target, disliked = _random(6, 4, seed=1).requires_grad_(), _random(6, 5, seed=2), _random(6, 5, seed=3)
    has = torch.tensor([True, True, False, True, False, True])
    loss = pairwise_loss(x, target, disliked, has)

    def score(item: torch.Tensor) -> torch.Tensor:
        return (x * item[:, :4]).sum(dim=1) + item[:, 4]

    expected = -F.logsigmoid(score(target) - score(disliked))[has].mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert x.grad is not None
    step = x.detach() - 0.1 * x.grad
    before, after = (x.detach() * disliked[:, :4]).sum(1)[has], (step * disliked[:, :4]).sum(1)[has]
    gain = ((step - x.detach()) * (target - disliked)[:, :4]).sum(1)[has]
    assert (gain > 0).all()
    assert before.shape == after.shape
    assert torch.equal(x.grad[~has], torch.zeros(2, 4))


def test_the_margin_is_met_or_paid() -> None:
    x0 = F.normalize(_random(3, 8), dim=1)
    assert float(margin_loss(x0, x0, -x0, margin=2.0)) == 0.0
    torch.testing.assert_close(margin_loss(x0, -x0, x0, margin=1.0), torch.tensor(3.0))


def test_the_margin_is_the_published_one_of_squared_distances() -> None:
    """max(0, 2 + d_pos^2 - d_neg^2) of unit vectors is twice the hinge of cosines, paid and met in the same rows."""
    found, wanted, unwanted = (F.normalize(_random(200, 3, seed=seed), dim=1) for seed in (6, 7, 8))
    x, pos, neg = (rows.double().numpy() for rows in (found, wanted, unwanted))
    hinges = np.maximum(0, 2 + ((x - pos) ** 2).sum(axis=1) - ((x - neg) ** 2).sum(axis=1))
    assert 20 < (hinges == 0).sum() < 180
    np.testing.assert_allclose(2 * float(margin_loss(found, wanted, unwanted, MARGIN)), hinges.mean(), rtol=1e-5)


def test_preferdiff_rewards_the_better_denoised_positive() -> None:
    x0, other = F.normalize(_random(5, 8, seed=4), dim=1), F.normalize(_random(5, 8, seed=5), dim=1)
    good = preferdiff_loss(x0, x0, -other, other, gamma=5.0)
    bad = preferdiff_loss(-x0, x0, other, other, gamma=5.0)
    torch.testing.assert_close(good, F.softplus(torch.tensor(-20.0)))
    torch.testing.assert_close(bad, F.softplus(torch.tensor(20.0)))


def test_a_centroid_leaves_its_own_target_out() -> None:
    vectors, targets = _random(10, 4), torch.tensor([3, 5, 5, 9])
    found = centroids(vectors, targets)
    for place in range(4):
        rest = [int(targets[n]) for n in range(4) if n != place]
        torch.testing.assert_close(found[place], vectors[rest].mean(dim=0))
