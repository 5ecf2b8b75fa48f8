"""The semantic stage: every transition, the true views, difficulty of the network that trains, one seed one network."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.recommender import Dials
from model.semantic.codes import MASKED
from model.semantic.decoding import Decoding
from model.semantic.network import SemanticNetwork
from tests.contracts.recommender_contract import ITEMS
from tests.model import fitted_semantic as toy
from training.stages import semantic as stage
from training.stages.semantic import (
    coherent_view,
    fit_semantic,
    recommender_of,
    sampled_cross_entropy,
    semantic_losses,
    shape_of,
    smoothed,
)
from training.stages.windows import Batch, Windows

PART = toy.PART


def untrained(seed: int = 0) -> SemanticNetwork:
    torch.manual_seed(seed)
    digits = toy.fitted().digits
    network = SemanticNetwork(shape_of(PART, 4, 2), torch.from_numpy(digits))
    with torch.no_grad():
        network.table.normal_()
    return network


def batch() -> Batch:
    rows = torch.tensor([[1, 2, 3, 4], [7, 8, 0, 0], [13, 14, 15, 0]])
    return Batch(rows, torch.tensor([4, 2, 3]), [torch.zeros(0, dtype=torch.long)] * 3)


def test_the_network_that_trains_says_how_hard_a_digit_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 2.8.1: difficulty came from another path, without the projection that training uses.

    Held against the path that serves: same histories, same confidences, in training mode too.
    """
    network, heard = untrained().train(), []

    def listen(confidence: torch.Tensor, hide: torch.Tensor) -> torch.Tensor:
        heard.append(confidence)
        return coherent_view(confidence, hide)

    monkeypatch.setattr(stage, "coherent_view", listen)
    semantic_losses(network, batch(), PART.model_copy(update={"residual_drop": 0.0}))
    recommender = recommender_of(network, toy.fitted().cold, toy.fitted().prepared, Decoding())
    histories = [[], [1], [1, 2], [1, 2, 3], [], [7], [], [13], [13, 14]]
    tastes = recommender.generate(
        recommender.encode([np.array(h, dtype=np.int64) for h in histories]), [Dials()] * len(histories)
    )
    expected = np.stack([taste.table.max(axis=1) for taste in tastes])
    np.testing.assert_allclose(heard[0].numpy(), expected, atol=1e-5)


def test_a_view_hides_the_least_sure_digits_and_views_are_nested() -> None:
    confidence = torch.tensor([[-0.1, -3.0, -2.0, -0.5]]).expand(4, 4)
    hidden = coherent_view(confidence, torch.tensor([1, 2, 3, 4]))
    assert hidden.tolist() == [
        [False, True, False, False],
        [False, True, True, False],
        [False, True, True, True],
        [True, True, True, True],
    ]
    draw = torch.randn(200, 4).round()  # ties among them
    views = [coherent_view(draw, torch.full((200,), v)) for v in range(5)]
    for fewer, more in itertools.pairwise(views):
        assert bool((fewer <= more).all())
        assert (more.sum(dim=1) - fewer.sum(dim=1)).unique().tolist() == [1]


def test_a_view_shows_the_truth_and_only_hidden_digits_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    network, shown = untrained(), []
    forward = network.decoder.forward

    def listen(codes: torch.Tensor, *rest: Any) -> torch.Tensor:
        shown.append(codes)
        return forward(codes, *rest)

    monkeypatch.setattr(network.decoder, "forward", listen)
    semantic_losses(network, batch(), PART)
    masked, view = shown
    truth = network.digits[torch.tensor([1, 2, 3, 4, 7, 8, 13, 14, 15])]
    assert bool((masked == MASKED).all())
    hidden = view[:, 0] == MASKED
    assert bool(((view[:, 0] == truth) | hidden).all())
    assert set(hidden.sum(dim=1).tolist()) <= {1, 2, 3}, "some shown, some hidden"


def test_every_transition_is_a_target_once_an_epoch() -> None:
    """Fault 2.8.6: the first transition and all beyond the window were never trained."""
    offsets = np.array([0, 2, 25, 26], dtype=np.int64)  # 2, 23 and 1 events against a window of 6
    items = np.arange(26, dtype=np.int32) % ITEMS
    windows = Windows(offsets, items, PART.max_history, 0)
    seen: list[int] = []
    positions = 0
    for each in windows.epoch(16, seed=0, epoch=0):
        seen += each.rows[each.real].tolist()
        positions += semantic_losses(untrained(), each, PART).positions
    assert sorted(seen) == sorted(items.tolist())
    assert positions == 26


def test_the_first_event_of_a_history_is_trained_on() -> None:
    network = untrained()
    one = Batch(torch.tensor([[5]]), torch.tensor([1]), [torch.zeros(0, dtype=torch.long)])
    losses = semantic_losses(network, one, PART)
    assert losses.positions == 1
    losses.joint.backward()
    assert network.encoder.bos.grad is not None
    assert float(network.encoder.bos.grad.abs().sum()) > 0


def test_the_catalogue_loss_is_minus_the_log_softmax_of_what_serving_scores() -> None:
    """Training and scoring paths give equal logits (literature.md 5, rule 11)."""
    network = untrained()
    losses = semantic_losses(network, batch(), PART.model_copy(update={"residual_drop": 0.0}))
    recommender = recommender_of(network, toy.fitted().cold, toy.fitted().prepared, Decoding())
    histories, targets = [[], [1], [1, 2], [1, 2, 3], [], [7], [], [13], [13, 14]], [1, 2, 3, 4, 7, 8, 13, 14, 15]
    tastes = recommender.generate(
        recommender.encode([np.array(h, dtype=np.int64) for h in histories]), [Dials()] * len(histories)
    )
    scores = torch.from_numpy(np.stack([recommender.score(taste) for taste in tastes]))
    assert float(losses.joint.detach()) == pytest.approx(
        float(F.cross_entropy(scores, torch.tensor(targets))), abs=1e-4
    )


def test_sampled_cross_entropy_is_the_full_one_when_everything_is_drawn_and_close_when_half_is() -> None:
    torch.manual_seed(0)
    queries, items, bias = torch.randn(40, 6), 0.3 * torch.randn(300, 6), 0.3 * torch.randn(300)
    targets = torch.randint(300, (40,))
    full = float(F.cross_entropy(queries @ items.T + bias, targets))
    assert float(sampled_cross_entropy(queries, items, bias, targets, 300)) == pytest.approx(full, abs=1e-5)
    half = np.mean([float(sampled_cross_entropy(queries, items, bias, targets, 150)) for _ in range(60)])
    assert half == pytest.approx(full, abs=0.02)


def test_the_expected_partition_of_a_sample_is_the_full_one() -> None:
    """Ten items of one score, four of them drawn: over all targets the mean partition is ten."""
    queries, items, partitions = torch.zeros(1, 2), torch.randn(10, 2), []
    for target in range(10):
        torch.manual_seed(7)
        partitions.append(
            math.exp(float(sampled_cross_entropy(queries, items, torch.zeros(10), torch.tensor([target]), 4)))
        )
    assert np.mean(partitions) == pytest.approx(10, rel=1e-5)


def test_smoothing_is_torch_s() -> None:
    logits, truth = torch.randn(5, 3, 7), torch.randint(7, (5, 3))
    expected = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(smoothed(logits.log_softmax(2), truth, 0.2).flatten(), expected)


def test_a_seed_is_a_network_and_another_another() -> None:
    """Fault 2.8.10: no promise of determinism."""
    fitted, part = toy.fitted(), PART.model_copy(update={"epochs": 1})
    runs = [fit_semantic(fitted.prepared, fitted.cold, fitted.digits, part, seed=seed) for seed in (3, 3, 4)]
    one, same, other = (run.network.state_dict() for run in runs)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["residual"], other["residual"])


def test_validation_asks_once_an_epoch_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 2.8.9: every validation also ran a second, random-order beam."""
    asked: list[float] = []
    wanted = [0.1, 0.3, 0.2]

    def count(scorer: Any, *rest: Any, **more: Any) -> Any:
        metrics = evaluate(scorer, *rest, **more)
        asked.append(metrics.ndcg(10))
        return replace(metrics, ranks=np.where(np.arange(len(metrics.ranks)) % 10 < 10 * wanted[len(asked) - 1], 1, 99))

    evaluate = stage.evaluate
    monkeypatch.setattr(stage, "evaluate", count)
    fitted = toy.fitted()
    run = fit_semantic(fitted.prepared, fitted.cold, fitted.digits, PART.model_copy(update={"epochs": 3}), seed=0)
    assert len(asked) == len(run.epochs) == 3
    assert run.best_epoch == 2
    metrics = evaluate(
        stage.recommender_scorer(recommender_of(run.network, fitted.cold, fitted.prepared, Decoding())),
        fitted.prepared,
        "validation",
    )
    assert metrics.ndcg(10) == pytest.approx(asked[1], abs=1e-6), "the weights of the best epoch came back"


def test_a_loss_that_is_not_finite_is_told() -> None:
    fitted = toy.fitted()
    part = PART.model_copy(update={"learning_rate": 1e12, "warmup_steps": 0, "epochs": 2})
    with pytest.raises(ValueError, match=r"lower network\.learning_rate"):
        fit_semantic(fitted.prepared, fitted.cold, fitted.digits, part, seed=0)


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, part = toy.fitted(), PART.model_copy(update={"epochs": 2})
    whole = fit_semantic(fitted.prepared, fitted.cold, fitted.digits, part, seed=1)
    kept = tmp_path / "network.safetensors"
    steps = 0
    losses = stage.semantic_losses

    def until_the_fifteenth(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 15:
            raise KeyboardInterrupt
        return losses(*given)

    monkeypatch.setattr(stage, "semantic_losses", until_the_fifteenth)
    with pytest.raises(KeyboardInterrupt):
        fit_semantic(fitted.prepared, fitted.cold, fitted.digits, part, seed=1, checkpoint=kept, keep_every=0)
    resumed = fit_semantic(fitted.prepared, fitted.cold, fitted.digits, part, seed=1, checkpoint=kept, keep_every=0)
    one, other = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.epochs == whole.epochs
