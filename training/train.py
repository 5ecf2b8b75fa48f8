"""From prepared data to a published bundle: a recipe's system builds, this module measures and publishes.

    path = train(Path("prepared"), "contrec", "tiny", bundles=Path("bundles"), name="movies", seed=0)
    activate(Path("bundles"), "movies", path.name)

Prepared arrays are all it reads. The same data, recipe and seed give the same bundle, to the byte, on the same
machine and library versions. What a kind of recipe does lies in training/systems, one module a kind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from model.bundle import read_manifest, write_bundle
from model.golden import write_golden
from training.baselines import fit_baselines
from training.data.prepared import PARTS, TRAIN, DataError, Prepared
from training.evaluate import Metrics, evaluate, measure, recommender_scorer
from training.progress import Progress, silent
from training.recipe import Recipe, load_recipe
from training.recipes.continuous import ContinuousRecipe
from training.recipes.semantic import SemanticRecipe
from training.report import told_of_baselines, told_of_bundle, told_of_data, told_of_test, write_report
from training.run import Built, Run, identity, run_folder
from training.stages.loop import EVERY


def train(
    prepared_dir: Path,
    recipe: str = "contrec",
    size: str | None = None,
    *,
    bundles: Path,
    name: str,
    seed: int = 0,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress = silent,
    runs: Path | None = None,
    fresh: bool = False,
    keep_every: float = EVERY,
    baselines: bool = False,
) -> Path:
    """Trains a recipe and publishes the bundle; the caller decides whether to activate it.

    Beside the bundle lie <version>.report.json and the page drawn from it (training/report.py); `baselines` fits them
    for its table, which takes a while on large catalogues. Raises DataError, RecipeError or
    ValueError with one sentence where the data or the recipe do not fit.

    runs: where the run keeps what it needs to go on after an interruption, until the bundle is published: the same
    call again goes on, unless it is to start `fresh`. None keeps nothing. keep_every: seconds (stages/loop.py).
    """
    chosen = load_recipe(recipe, size, overrides)
    prepared = Prepared.read(prepared_dir)
    _refuse_too_little(prepared)
    reproducibly()
    if runs is None:
        return _train(chosen, Run(prepared, seed, device, progress), bundles, name, baselines)
    with run_folder(runs, identity(prepared, chosen, seed, device), fresh=fresh) as folder:
        path = _train(chosen, Run(prepared, seed, device, progress, folder, keep_every), bundles, name, baselines)
        shutil.rmtree(folder)  # what is published needs no checkpoint
        return path


def _train(recipe: Recipe, run: Run, bundles: Path, name: str, baselines: bool) -> Path:
    built = _build(recipe, run)
    with run.stage("evaluation"):
        measured = _measure(built, run)
        run.report.update(told_of_test(built.recommender, measured["test"], run.prepared))
    if baselines:
        with run.stage("baselines"):
            rivals = measure(fit_baselines(run.prepared), run.prepared, "test")
            run.report.update(told_of_baselines(measured["test"], rivals))
    metrics = {part: found.as_dict() for part, found in measured.items()}
    path = write_bundle(
        bundles,
        name,
        kind=built.recommender.kind,
        recipe=f"{recipe.name}/{recipe.size}",
        config={"seed": run.seed, **recipe.model_dump(mode="json")},
        data_fingerprint=run.prepared.fingerprint,
        metrics=metrics,
        fill=lambda folder: _fill(built, folder),
    )
    told = told_of_bundle(read_manifest(path)) | told_of_data(run.prepared)
    write_report({**told, **run.report, "beside": list(built.beside), "metrics": metrics}, path)
    return path


def _fill(built: Built, folder: Path) -> None:
    built.fill(folder)
    write_golden(built.recommender, folder)


def _build(recipe: Recipe, run: Run) -> Built:
    """The one place that knows which system belongs to which kind."""
    if isinstance(recipe, ContinuousRecipe):
        from training.systems import continuous

        return continuous.build(recipe, run)
    if isinstance(recipe, SemanticRecipe):
        from training.systems import semantic

        return semantic.build(recipe, run)
    raise AssertionError(f"no system trains recipes of kind {recipe.kind!r}")


def _measure(built: Built, run: Run) -> dict[str, Metrics]:
    """Validation and test metrics; what stands beside the recommender is asked the test questions too."""
    scorer = recommender_scorer(built.recommender)
    metrics: dict[str, Metrics] = {part: evaluate(scorer, run.prepared, part) for part in PARTS}
    for name, other in built.beside.items():
        same = other is built.recommender
        found = metrics["test"] if same else evaluate(recommender_scorer(other), run.prepared, "test")
        run.report[name] = found.as_dict()
    return metrics


def _refuse_too_little(prepared: Prepared) -> None:
    """Before the first epoch, not after the last."""
    if len(prepared.catalogue) < 2:
        raise DataError(f"a catalogue of {len(prepared.catalogue)} items leaves nothing to choose: training needs two")
    if not bool((prepared.split == TRAIN).any()):
        raise DataError("the prepared data holds no training interaction")
    for part in PARTS:
        if len(prepared.evaluation(part)) == 0:
            raise DataError(f"no user has a {part} target: the data is too small for this split")


def reproducibly() -> None:
    """The same seed, the same weights, on the same machine and library versions: torch's settings for that."""
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written; filling it first cost a seventh of an epoch.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Every batch has a shape of its own, and oneDNN would keep a kernel with its memory for each of the last 1,024.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses to be deterministic
