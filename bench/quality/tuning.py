"""The same few short trials for ours and for SASRec, on validation; Sports inherits what Beauty found.

    python -m bench.quality tune --sets ml-1m,beauty

A trial trains the behaviour trunk alone for `EPOCHS` epochs with one set of overrides; the best validation NDCG@10 of a
model on a set decides what all of its cells there are trained with (`tuned`), unless the recipe as it is comes within
`WITHIN` of it: 6,000 users do not tell less apart. What each trial gave is kept in results/<set>/tuning.json. Text
half, head and everything else stay as the recipe has them: what is not tuned for SASRec is not tuned for ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.quality import cells
from bench.quality.models import Ask
from bench.quality.sets import SETS, load
from model.continuous.space import TableSpace
from training.evaluate import Scorer, evaluate
from training.progress import Progress, silent
from training.recipe import load_recipe
from training.recipes.continuous import ContinuousRecipe
from training.stages.trunk import FittedTrunk, fit_trunk
from training.train import reproducibly, train

EPOCHS = {"ml-1m": 8, "beauty": 14}  # eight on Beauty are too short for item vectors made of tokens
WITHIN = 0.01
SEED = 100  # no cell's seed
MODELS = ("sasrec-ce", "contrec")
TRIALS: tuple[tuple[str, ...], ...] = (
    (),
    ("trunk.dropout=0.3",),
    ("trunk.learning_rate=1e-3",),
    ("trunk.width=192",),
    ("trunk.layers=3",),
)
INHERITS = {"sports": "beauty"}


def tuned(set_name: str, model: str) -> tuple[str, ...]:
    """The overrides that won for a model, those of the whole set left out; none where nothing was tried."""
    found = _read(INHERITS.get(set_name, set_name)).get(model, {})
    if len(found) < len(TRIALS):
        return ()
    best = max(found, key=lambda trial: found[trial])
    return tuple(best.split()) if found[best] > found[""] * (1 + WITHIN) else ()


def trunk_recipe(overrides: Sequence[str], name: str = "contrec") -> ContinuousRecipe:
    """The recipe that a trained row starts from."""
    recipe = load_recipe(name, "small", overrides)
    assert isinstance(recipe, ContinuousRecipe)
    return recipe


def sasrec_recipe(overrides: Sequence[str]) -> ContinuousRecipe:
    """The same for SASRec, which has no convolution and whose softmax is over all items, unless the overrides end with
    something else."""
    return trunk_recipe(["trunk.kernel=1", "trunk.exclude_seen=false", *overrides])


def validation_users(ask: Ask) -> int:
    """On how many ContRec chooses, and so every rival."""
    return trunk_recipe(ask.set.overrides).trunk.validation_users


def validation_ndcg(scorer: Scorer, ask: Ask) -> float:
    """NDCG@10 of what is to be chosen among."""
    return evaluate(scorer, ask.prepared, "validation", users=validation_users(ask), seed=ask.seed).ndcg(10)


def fit_sasrec(
    ask: Ask, overrides: Sequence[str], *, progress: Progress = silent, checkpoint: Path | None = None
) -> tuple[FittedTrunk, ContinuousRecipe]:
    """ContRec's trunk over free item vectors, and the recipe it was trained by."""
    recipe = sasrec_recipe(overrides)
    reproducibly()
    nothing = torch.zeros(len(ask.prepared.catalogue), 1, 1)
    fitted = fit_trunk(
        ask.prepared,
        nothing,
        recipe.trunk,
        seed=ask.seed,
        make_space=TableSpace,
        progress=progress,
        checkpoint=checkpoint,
    )
    return fitted, recipe


def tune(set_name: str, model: str) -> None:
    """Runs the trials that are missing."""
    prepared = load(set_name)
    ask = Ask(prepared, SETS[set_name], set_name, SEED)
    for trial in TRIALS:
        found = _read(set_name)
        name = " ".join(trial)
        if name in found.get(model, {}):
            continue
        overrides = [*SETS[set_name].overrides, f"trunk.epochs={EPOCHS[set_name]}", *trial]
        epochs = fit_sasrec(ask, overrides)[0].epochs if model == "sasrec-ce" else _contrec(ask, overrides)
        reached = max(epoch["ndcg@10"] for epoch in epochs)
        found = _read(set_name)  # the other model's trials may run beside these
        found.setdefault(model, {})[name] = reached
        path = cells.RESULTS / set_name / "tuning.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{set_name} {model} {name or 'as it is'}: {reached:.4f}", flush=True)  # noqa: T201


def _contrec(ask: Ask, overrides: list[str]) -> list[dict[str, float]]:
    path = train(
        ask.prepared_folder,
        "contrec",
        "small",
        bundles=ask.folder / "tuning",
        name="trial",
        seed=SEED,
        overrides=[*overrides, "head.epochs=0", "text_half.epochs=0", "transitions.weights=[0.0]"],
        runs=ask.folder / "tuning-runs",
    )
    report = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    epochs: list[dict[str, float]] = report["trunk"]["epochs"]
    return epochs


def _read(set_name: str) -> dict[str, Any]:
    path = cells.RESULTS / set_name / "tuning.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
