"""From prepared data to a published bundle: signals, tokenizer, trunk, head, test metrics, bundle.

    path = train(Path("prepared"), "contrec", "tiny", bundles=Path("bundles"), name="movies", seed=0)
    activate(Path("bundles"), "movies", path.name)

Prepared arrays are all it reads. The same data, recipe and seed give the same bundle, to the byte, on the same
machine and library versions.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from model.bundle import write_bundle
from model.continuous.recommender import ContinuousRecommender
from model.text import HashedText, SentenceEncoder, TextEncoder
from training.collaborative import spectral
from training.data.prepared import PARTS, TRAIN, DataError, Prepared
from training.evaluate import evaluate, recommender_scorer
from training.progress import Progress, silent
from training.recipe import Recipe, load_recipe
from training.stages.head import fit_head
from training.stages.tokenizer import fit_tokenizer
from training.stages.trunk import fit_trunk
from training.text import fit_hashed_text, item_text


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
) -> Path:
    """Trains a recipe and publishes the bundle; the caller decides whether to activate it.

    Beside the bundle lies <version>.report.json: losses by epoch, tokenizer health, metrics of validation and test
    and of the trunk alone, seconds and peak memory by stage. Raises DataError, RecipeError or ValueError with one
    sentence where the data or the recipe do not fit.
    """
    chosen = load_recipe(recipe, size, overrides)
    return _train(Prepared.read(prepared_dir), chosen, bundles, name, seed, device, progress)


def _train(
    prepared: Prepared, recipe: Recipe, bundles: Path, name: str, seed: int, device: str, progress: Progress
) -> Path:
    _refuse_too_little(prepared)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written; filling it first cost a seventh of an epoch.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Every batch has a shape of its own, and oneDNN would keep a kernel with its memory for each of the last 1,024.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    report: dict[str, Any] = {"seconds": {}, "peak_rss_mib": {}}
    with _stage(report, "signals"):
        offsets, items = prepared.train_histories()
        collaborative, known = spectral(offsets, items, len(prepared.catalogue), recipe.signals.spectral_dim)
        texts = [item_text(item) for item in prepared.catalogue]
        encoder = _text_encoder(recipe, texts)
        text = encoder.encode(texts)
    with _stage(report, "tokenizer"):
        tokenizer, tokens, report["tokenizer"] = fit_tokenizer(
            collaborative, known, text, recipe.tokenizer, seed=seed, device=device, progress=progress
        )
    with _stage(report, "trunk"):
        fitted = fit_trunk(prepared, tokens, recipe.trunk, seed=seed, device=device, progress=progress)
        report["trunk"] = {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch}
    with _stage(report, "head"):
        head = fit_head(
            prepared, fitted.trunk, fitted.space, recipe.head, recipe.trunk, seed=seed, device=device, progress=progress
        )
        report["head"] = {"epochs": head.epochs, "weight": head.mixture.weight, "lead": head.lead}
    anchor = fitted.recommender(prepared, recipe.trunk.max_profile)
    recommender = anchor.with_head(head.head, head.mixture)
    with _stage(report, "evaluation"):
        scorer = recommender_scorer(recommender)
        metrics = {"validation": evaluate(scorer, prepared, "validation"), "test": evaluate(scorer, prepared, "test")}
        alone = metrics["test"] if head.mixture.weight == 0 else evaluate(recommender_scorer(anchor), prepared, "test")
        report["trunk_alone"] = alone.as_dict()

    def fill(folder: Path) -> None:
        recommender.save(folder)
        (folder / "tokenizer").mkdir()
        tokenizer.save(folder / "tokenizer")
        (folder / "text").mkdir()
        if isinstance(encoder, HashedText):
            encoder.save(folder / "text")
        (folder / "text" / "encoder.json").write_text(json.dumps({"encoder": recipe.signals.text_encoder}) + "\n")

    path = write_bundle(
        bundles,
        name,
        kind=ContinuousRecommender.kind,
        recipe=f"{recipe.name}/{recipe.size}",
        config={"seed": seed, **recipe.model_dump(mode="json")},
        data_fingerprint=prepared.fingerprint,
        metrics={part: found.as_dict() for part, found in metrics.items()},
        fill=fill,
    )
    report["metrics"] = {part: found.as_dict() for part, found in metrics.items()}
    (bundles / name / f"{path.name}.report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def _refuse_too_little(prepared: Prepared) -> None:
    """Before the first epoch, not after the last."""
    if len(prepared.catalogue) < 2:
        raise DataError(f"a catalogue of {len(prepared.catalogue)} items leaves nothing to choose: training needs two")
    if not bool((prepared.split == TRAIN).any()):
        raise DataError("the prepared data holds no training interaction")
    for part in PARTS:
        if len(prepared.evaluation(part)) == 0:
            raise DataError(f"no user has a {part} target: the data is too small for this split")


def _text_encoder(recipe: Recipe, texts: Sequence[str]) -> TextEncoder:
    signals = recipe.signals
    if signals.text_encoder == "hashed":
        return fit_hashed_text(texts, signals.text_buckets, signals.text_dim)
    return SentenceEncoder(signals.text_encoder)


@contextmanager
def _stage(report: dict[str, Any], name: str) -> Iterator[None]:
    """Records the seconds of a stage and the process's peak memory after it."""
    started = time.perf_counter()
    yield
    report["seconds"][name] = round(time.perf_counter() - started, 2)
    report["peak_rss_mib"][name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
