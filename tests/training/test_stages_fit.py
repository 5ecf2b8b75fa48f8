"""The fit functions: the best checkpoint comes back, patience ends a run, the head leaves the trunk alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.continuous.head import Head, HeadShape
from model.continuous.recommender import ContinuousRecommender
from model.continuous.tokenizer import Tokenizer
from model.recommender import Dials
from training.collaborative import spectral
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.synthetic import Sizes
from training.evaluate import Metrics, evaluate, recommender_scorer
from training.recipe import Recipe, load_recipe
from training.stages import validation
from training.stages.head import descend, fit_head, head_optimiser
from training.stages.schedule import learning_rate
from training.stages.tokenizer import fit_tokenizer
from training.stages.trunk import FittedTrunk, fit_trunk
from training.stages.windows import Windows

SMALL = (
    "trunk.width=32",
    "trunk.layers=1",
    "trunk.heads=2",
    "trunk.feed_forward=32",
    "trunk.max_history=20",
    "trunk.warmup_steps=5",
    "trunk.tokens_per_step=512",
    "trunk.validation_users=1000",
    "tokenizer.token_dim=8",
    "tokenizer.hidden=16",
    "tokenizer.epochs=3",
    "head.hidden=16",
    "head.epochs=2",
    "head.steps_per_epoch=10",
)
# Without dropout and at a high rate, so that validation turns well before the last epoch.
OVERFITTING = (*SMALL, "trunk.dropout=0.0", "trunk.learning_rate=1e-2", "trunk.epochs=12", "trunk.patience=12")


def recipe(*overrides: str) -> Recipe:
    return load_recipe("contrec", "tiny", [*SMALL, *overrides])


def random_tokens(prepared: Prepared) -> torch.Tensor:
    return torch.randn(len(prepared.catalogue), 2, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def overfitted(demo: Prepared) -> FittedTrunk:
    return fit_trunk(demo, random_tokens(demo), load_recipe("contrec", "tiny", OVERFITTING).trunk, seed=0)


def ndcg(fitted: FittedTrunk, prepared: Prepared) -> float:
    return evaluate(recommender_scorer(fitted.recommender(prepared, 500)), prepared, "validation").ndcg(10)


# ----------------------------------------------------------------------------------------------------------------
# Tokenizer


def test_the_tokenizer_standardises_by_the_items_known_from_training() -> None:
    """Fit, encoding and a loaded copy use one mean and std; a constant feature is not blown up."""
    draw = np.random.default_rng(0)
    collaborative, text = draw.normal(3, 2, (80, 4)).astype(np.float32), draw.normal(-1, 5, (80, 3)).astype(np.float32)
    collaborative[:, 0] = 7.0
    known = np.arange(80) < 60
    part = recipe().tokenizer
    tokenizer, tokens, health = fit_tokenizer(collaborative, known, text, part, seed=0)
    signals = np.concatenate([collaborative, text], axis=1)
    np.testing.assert_allclose(tokenizer.mean, signals[:60].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(tokenizer.std[1:], signals[:60].std(axis=0)[1:], rtol=1e-4)
    assert float(tokenizer.std[0]) == 1.0
    assert not tokenizer.training
    torch.testing.assert_close(tokens, tokenizer.encode(torch.from_numpy(signals), torch.from_numpy(known)))
    other = signals.copy()
    other[60:] = 1e3
    refitted, _, _ = fit_tokenizer(other[:, :4], known, other[:, 4:], part, seed=0)
    assert all(torch.equal(value, refitted.state_dict()[name]) for name, value in tokenizer.state_dict().items())
    assert health["dimensions"] == part.ways * part.token_dim


def test_fitting_the_tokenizer_explains_more_than_not_fitting_it() -> None:
    draw = np.random.default_rng(0)
    collaborative = (draw.normal(size=(300, 3)) @ draw.normal(size=(3, 8))).astype(np.float32)
    text = (draw.normal(size=(300, 3)) @ draw.normal(size=(3, 8))).astype(np.float32)
    explained = [
        fit_tokenizer(
            collaborative, np.ones(300, dtype=np.bool_), text, recipe(f"tokenizer.epochs={epochs}").tokenizer, seed=0
        )[2]["explained"]
        for epochs in (1, 60)
    ]
    assert explained[1] > max(0.4, explained[0] + 0.2)


# ----------------------------------------------------------------------------------------------------------------
# Trunk


def test_the_best_checkpoint_comes_back(demo: Prepared, overfitted: FittedTrunk) -> None:
    values = [epoch["ndcg@10"] for epoch in overfitted.epochs]
    assert overfitted.best_epoch == 1 + int(np.argmax(values))
    assert overfitted.best_epoch < len(values), "this run must have turned, or the test holds nothing"
    assert values[-1] < max(values)
    assert ndcg(overfitted, demo) == max(values)


def test_the_loss_falls(overfitted: FittedTrunk) -> None:
    losses = [epoch["loss"] for epoch in overfitted.epochs]
    assert losses[0] < np.log(200) + 0.5, "the first epoch begins near the uniform guess"
    assert losses[-1] < 0.8 * losses[0]


def test_patience_ends_a_run(demo: Prepared, overfitted: FittedTrunk) -> None:
    """The same run with a patience of one: it ends at the first epoch that is no better."""
    values = [epoch["ndcg@10"] for epoch in overfitted.epochs]
    worse = next(n for n, (before, after) in enumerate(itertools.pairwise(values)) if after <= before)
    part = load_recipe("contrec", "tiny", [*OVERFITTING, "trunk.patience=1"]).trunk
    found = fit_trunk(demo, random_tokens(demo), part, seed=0)
    assert [epoch["ndcg@10"] for epoch in found.epochs] == values[: worse + 2]
    assert found.best_epoch == worse + 1


def test_a_step_of_two_smaller_batches_is_the_step_of_both_together(
    demo: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of unequal size, so that a mean of means would be another step."""
    plain = ("trunk.epochs=2", "trunk.dropout=0.0", "trunk.bf16=false")
    found = []
    for accumulate in (1, 2):
        part = recipe(*plain, f"trunk.accumulate={accumulate}").trunk
        cut = [40] if accumulate == 2 else []
        monkeypatch.setattr(Windows, "batches", lambda self, size, rng, cut=cut: np.split(np.arange(len(self)), cut))
        found.append(fit_trunk(demo, random_tokens(demo), part, seed=0))
    one, two = found
    assert one.epochs[0]["loss"] == pytest.approx(two.epochs[0]["loss"], rel=1e-5)
    for name, weight in one.trunk.state_dict().items():
        torch.testing.assert_close(two.trunk.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


def test_the_rate_rises_then_falls_to_three_percent() -> None:
    rates = [learning_rate(step, 1000, 100) for step in range(1000)]
    assert np.argmax(rates) in range(95, 105)
    assert (np.diff(rates[:95]) > 0).all()
    assert (np.diff(rates[105:]) < 0).all()
    assert 0.03 < rates[-1] < 0.031
    assert learning_rate(0, 10, 0) == 1.0


# ----------------------------------------------------------------------------------------------------------------
# Head


def test_the_head_leaves_trunk_and_items_alone_and_reads_them_with_dropout_on(demo: Prepared) -> None:
    part = recipe("trunk.epochs=1", "trunk.dropout=0.2", "head.weights=[0.5]")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    modules = {"trunk": fitted.trunk, "space": fitted.space}
    before = {name: copy.deepcopy(module.state_dict()) for name, module in modules.items()}
    training: list[tuple[bool, bool]] = []
    hook = fitted.trunk.backbone.register_forward_hook(
        lambda module, args, out: training.append((module.training, torch.is_inference_mode_enabled()))
    )
    head = fit_head(demo, fitted.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=0)
    hook.remove()
    for name, module in modules.items():
        assert all(torch.equal(value, before[name][key]) for key, value in module.state_dict().items())
    steps = [dropout for dropout, serving in training if not serving]
    assert len(steps) == part.head.epochs * part.head.steps_per_epoch
    assert all(steps), "a condition at a training position already knows its target unless dropout hides it"
    assert len(steps) == len(training), "validation reads through serving's own reader, which knows no dropout"
    assert not fitted.trunk.training
    assert not head.head.training


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Enough users that a real lead is a sure one, of every second of them."""
    folder = tmp_path_factory.mktemp("crowd") / "prepared"
    return prepare("synthetic", None, folder, sizes=Sizes(users=800, items=200, events=20, seed=3))


@pytest.mark.parametrize("rate", ["1e-7", "1e-2"])
def test_the_head_is_served_only_where_its_lead_over_the_trunk_is_sure(crowd: Prepared, rate: str) -> None:
    """At the first rate nothing can be gained, at the second nearly all of what a poor trunk leaves."""
    part = recipe(
        "trunk.epochs=1",
        "trunk.learning_rate=1e-4",
        "head.weights=[0.25, 1.0]",
        "head.unconditional=0",
        f"head.learning_rate={rate}",
        "head.epochs=3",
        "head.steps_per_epoch=80",
    )
    fitted = fit_trunk(crowd, random_tokens(crowd), part.trunk, seed=0)
    head = fit_head(crowd, fitted.recommender(crowd, part.trunk.max_profile), part.head, part.trunk, seed=0)
    alone = recommender_scorer(fitted.recommender(crowd, 500))
    chose, asked = validation.two_halves(evaluate(alone, crowd, "validation"))
    assert head.users == (len(chose.users), len(asked.users))
    unguided = max(epoch[f"ndcg@10 lambda={weight:g}"] for epoch in head.epochs for weight in (0.25, 1.0))
    assert head.guidance[1.0] == pytest.approx(unguided, abs=1e-9)
    assert list(head.guidance) == list(part.head.guidance)
    reached = max(head.guidance.values())
    assert head.lead is not None
    best = max(head.guidance, key=lambda guidance: head.guidance[guidance])
    weight = max((0.25, 1.0), key=lambda weight: max(epoch[f"ndcg@10 lambda={weight:g}"] for epoch in head.epochs))
    base = fitted.recommender(crowd, part.trunk.max_profile)
    mixed = base.with_head(head.head, replace(head.mixture, weight=weight, guidance=best))
    its, lead = validation.two_halves(evaluate(recommender_scorer(mixed), crowd, "validation"))
    assert its.ndcg(10) == pytest.approx(reached, abs=1e-9)
    assert head.lead[0] == pytest.approx(lead.ndcg(10) - asked.ndcg(10), abs=1e-9), "of those who did not choose"
    whole = base.with_head(head.head, head.mixture)
    found, _ = validation.two_halves(evaluate(recommender_scorer(whole), crowd, "validation"))
    if rate == "1e-7":
        assert head.lead[1] <= 0
        assert head.mixture.weight == 0.0
        assert found.ndcg(10) == pytest.approx(chose.ndcg(10), abs=1e-9)
    else:
        assert head.lead[1] > 0
        assert head.mixture.weight > 0
        assert found.ndcg(10) == pytest.approx(reached, abs=1e-9)
    assert (head.mixture.samples, head.mixture.times) == (part.head.samples, part.head.times)


def test_the_best_head_comes_back(demo: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last one, which validation finds worthless here."""
    part = recipe("trunk.epochs=1", "head.weights=[1.0]", "head.guidance=[1.0]", "head.epochs=3")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    anchor = fitted.recommender(demo, part.trunk.max_profile)
    calls = itertools.count()  # the trunk alone, three epochs, one guidance

    def judged(*args: Any, **how: Any) -> Metrics:
        found = evaluate(*args, **how)
        return replace(found, ranks=found.ranks + 10) if next(calls) == 3 else found

    monkeypatch.setattr(validation, "evaluate", judged)
    head = fit_head(demo, anchor, part.head, part.trunk, seed=0)
    reached = [epoch["ndcg@10 lambda=1"] for epoch in head.epochs]
    assert next(calls) == 5
    assert reached[2] == 0 < max(reached)
    whole = anchor.with_head(head.head, replace(head.mixture, weight=1.0))
    found, _ = validation.two_halves(evaluate(recommender_scorer(whole), demo, "validation"))
    assert found.ndcg(10) == pytest.approx(max(reached), abs=1e-9)


def test_a_lead_among_the_users_who_chose_is_no_lead(demo: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of many tries is what these users happened to like; of the others it is asked whether it leads."""
    part = recipe("trunk.epochs=1", "head.weights=[1.0]", "head.guidance=[1.0]", "head.epochs=1")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    alone: list[Metrics] = []

    def judged(*args: Any, **how: Any) -> Metrics:
        alone.append(evaluate(*args, **how))
        ranks = alone[0].ranks.copy()
        if len(alone) > 1:
            ranks[::2] = 1  # for them, whatever the head says
        return replace(alone[0], ranks=ranks)

    monkeypatch.setattr(validation, "evaluate", judged)
    head = fit_head(demo, fitted.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=0)
    assert head.guidance == {1.0: 1.0}
    assert head.lead == (0.0, 0.0, 0.0)
    assert head.mixture.weight == 0.0
    assert sum(head.users) == len(alone[0].users)


def test_one_validation_user_chooses_and_proves_nothing(demo: Prepared) -> None:
    part = recipe("trunk.epochs=1", "head.weights=[1.0]", "trunk.validation_users=1", "head.epochs=1")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    head = fit_head(demo, fitted.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=0)
    assert (head.lead, head.users, head.mixture.weight) == (None, (1, 0), 0.0)


def test_no_epochs_serve_the_trunk_alone(demo: Prepared) -> None:
    part = recipe("trunk.epochs=1", "head.epochs=0")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    head = fit_head(demo, fitted.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=0)
    assert head.mixture.weight == 0.0
    assert head.epochs == []
    anchor = fitted.recommender(demo, 500)
    whole = anchor.with_head(head.head, head.mixture)
    tokens = anchor.encode([np.array([1, 2, 3])])
    one, other = (r.score(r.generate(tokens, [Dials()])[0]) for r in (anchor, whole))
    np.testing.assert_array_equal(one, other)


def test_training_moves_the_head_from_its_zero_start(demo: Prepared) -> None:
    part = recipe("trunk.epochs=1", "head.weights=[0.5]")
    fitted = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0)
    head: Head = fit_head(demo, fitted.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=0).head
    assert head.outputs.weight.any()
    assert all(block.modulation.weight.any() for block in head.blocks)


def test_a_step_of_the_head_has_the_falling_rate_and_clips() -> None:
    part = recipe("head.epochs=2", "head.steps_per_epoch=10").head
    head = Head(HeadShape(8, 16, 1, 2.0))
    optimiser = head_optimiser(head, part)
    rates = []
    for step in range(20):
        loss = 1e4 * (head.nobody - 1).square().sum()
        descend(head, optimiser, loss, part, step)
        rates.append(optimiser.param_groups[0]["lr"])
        assert head.nobody.grad is not None
        assert float(head.nobody.grad.norm()) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(rates, part.learning_rate * np.linspace(1, 0.05, 20))
    assert (head.nobody > 0).all()


# ----------------------------------------------------------------------------------------------------------------
# Randomness


def test_fitting_takes_its_randomness_from_the_seed_and_gives_the_callers_back(demo: Prepared) -> None:
    part = recipe("trunk.epochs=1", "head.epochs=1")
    collaborative, known = spectral(*demo.train_histories(), len(demo.catalogue), 8)
    text = np.zeros((len(demo.catalogue), 4), dtype=np.float32)

    def fit(seed: int) -> list[Mapping[str, torch.Tensor]]:
        tokenizer: Tokenizer
        tokenizer, tokens, _ = fit_tokenizer(collaborative, known, text, part.tokenizer, seed=seed)
        trunk = fit_trunk(demo, tokens, part.trunk, seed=seed)
        head = fit_head(demo, trunk.recommender(demo, part.trunk.max_profile), part.head, part.trunk, seed=seed)
        return [tokenizer.state_dict(), trunk.trunk.state_dict(), trunk.space.state_dict(), head.head.state_dict()]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fit(0)
    assert torch.equal(torch.get_rng_state(), state), "a fit function moved the caller's generator"
    torch.manual_seed(2)
    np.random.default_rng().random(3)
    second, other = fit(0), fit(1)
    for one, again, seed in zip(first, second, other, strict=True):
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert any(not torch.equal(one[name], seed[name]) for name in one)


def test_a_trunk_out_of_a_bundle_gets_the_head_that_it_got_in_training(demo: Prepared, tmp_path: Path) -> None:
    """A bundle keeps no dropout, which the conditions need."""
    part = recipe("trunk.epochs=1", "trunk.dropout=0.3")
    anchor = fit_trunk(demo, random_tokens(demo), part.trunk, seed=0).recommender(demo, part.trunk.max_profile)
    anchor.save(tmp_path)
    again = ContinuousRecommender.load(tmp_path)
    heads = [fit_head(demo, one, part.head, part.trunk, seed=0).head.state_dict() for one in (anchor, again)]
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())
