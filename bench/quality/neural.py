"""The rows that are trained: a plain SASRec, a trunk over words alone, ensembles of them, and ContRec with its parts.

What two rows share is fitted once: ContRec's bundle lies under runs/quality/<set>/bundles, and its text half is also
the `text-only` row and the ensemble's expert, so that the ensemble has whatever ours has. SASRec is the same trunk
with a free vector an item, trained by the same code with the same settings.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.quality import cells
from bench.quality.models import Ask, Fitted, added, row
from bench.quality.tuning import fit_sasrec, sasrec_recipe, trunk_recipe, tuned, validation_ndcg, validation_users
from model import load_recommender
from model.catalogue import Rows
from model.continuous.hybrid import Hybrid
from model.continuous.recommender import ContinuousRecommender
from model.continuous.transitions import Transitions, WithTransitions
from model.recommender import Floats, Recommender
from training.evaluate import Scorer, recommender_scorer
from training.recipe import load_recipe
from training.recipes.continuous import TextHalfPart, TransitionsPart
from training.run import Run
from training.signals import item_signals
from training.stages.transitions import choose_weight, fit_transitions
from training.systems.continuous import fit_words
from training.train import train


def contrec_bundle(ask: Ask, recipe: str = "contrec", overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """`bundle_of` with what the set wants of either continuous recipe."""
    own = ["text_half.epochs=0"] if recipe == "deftrec" else []  # it has no text half, whatever the set wants of one
    return bundle_of(ask, recipe, [*ask.set.overrides, *own, *tuned(ask.set_name, "contrec"), *overrides])


def bundle_of(ask: Ask, recipe: str, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """The bundle of a recipe for this set and seed, trained on first use, and its report with its commit."""
    # A recipe that has changed since is another bundle.
    name = f"{recipe}-{hashed(load_recipe(recipe, 'small', overrides))}-{ask.seed}"
    root, note = ask.folder / "bundles", ask.folder / "bundles" / f"{name}.json"
    if not note.exists():
        commit = cells.commit()
        path = train(
            ask.prepared_folder,
            recipe,
            "small",
            bundles=root,
            name=name,
            seed=ask.seed,
            overrides=overrides,
            runs=ask.folder / "runs",
            progress=told,
        )
        note.write_text(json.dumps({"path": str(path), "commit": commit}), encoding="utf-8")
    known = json.loads(note.read_text(encoding="utf-8"))
    path = Path(known["path"])
    report = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    return path, report | {"commit": known["commit"]}


def told(stage: str, epoch: int, of: int, values: Any) -> None:
    """A line an epoch, for the log of a long run."""
    print(f"{stage} {epoch}/{of} " + " ".join(f"{k}={v:.4f}" for k, v in values.items()), flush=True)  # noqa: T201


def parameters(recommender: Recommender) -> int:
    """Numbers in trunks, head (where it is asked), item vectors with their biases, and counts."""
    total = len(recommender.transitions.rows) if isinstance(recommender, WithTransitions) else 0
    for half in halves(recommender):
        if half is not None:
            total += sum(p.numel() for p in half.trunk.parameters()) + half.index.matrix.size
            if half.mixture.weight > 0:
                total += sum(p.numel() for p in half.head.parameters())
    return total


def uncounted(recommender: Recommender) -> Recommender:
    """A bundle without its transitions, where it has some."""
    return recommender.base if isinstance(recommender, WithTransitions) else recommender


def halves(recommender: Recommender) -> tuple[ContinuousRecommender, ContinuousRecommender | None]:
    """Behaviour and text half of a bundle; None where validation left the text half out."""
    recommender = uncounted(recommender)
    if isinstance(recommender, Hybrid):
        return recommender.behaviour, recommender.text
    assert isinstance(recommender, ContinuousRecommender)
    return recommender, None


UNSEEN = ("trunk.exclude_seen=true",)
"""What ContRec's trunks are trained with, and SASRec as it is known is not."""


@row("sasrec-ce", "baselines", seeds=3)
def sasrec_ce(ask: Ask) -> Fitted:
    """A causal transformer over free item vectors, full catalogue softmax, every position (SASRec as it should be)."""
    return _alone(*_sasrec(ask))


@row("sasrec-ce-unseen", "baselines", seeds=3)
def sasrec_ce_unseen(ask: Ask) -> Fitted:
    """The same with ContRec's softmax, which leaves out what the user has met."""
    return _alone(*_sasrec(ask, UNSEEN))


def _alone(recommender: ContinuousRecommender, expert: Expert, configuration: dict[str, Any]) -> Fitted:
    return Fitted.of(recommender, parameters(recommender), configuration, seconds=expert.seconds, commit=expert.commit)


def _sasrec(ask: Ask, more: tuple[str, ...] = ()) -> tuple[ContinuousRecommender, Expert, dict[str, Any]]:
    own = (*tuned(ask.set_name, "sasrec-ce"), *more)
    overrides = (*ask.set.overrides, *own)

    def fit(checkpoint: Path) -> ContinuousRecommender:
        fitted, recipe = fit_sasrec(ask, overrides, progress=told, checkpoint=checkpoint)
        return fitted.recommender(ask.prepared, recipe.trunk.max_profile)

    trunk = sasrec_recipe(overrides).trunk
    recommender, expert = _kept(ask.folder / "sasrec-ce", ask.seed, [trunk], fit)
    return recommender, expert, {"trunk": trunk.model_dump(mode="json")}


@dataclass(frozen=True, slots=True)
class Expert:
    """What a cell says of a model that it shares with others: its seconds, and the commit of the code that fitted it.
    name: of its recipe and seed, where it is kept."""

    name: str
    seconds: float
    commit: str | None

    @property
    def said(self) -> dict[str, str | None]:
        return {"name": self.name, "commit": self.commit}


def _kept(
    folder: Path, seed: int, parts: Sequence[BaseModel], fit: Callable[[Path], ContinuousRecommender]
) -> tuple[ContinuousRecommender, Expert]:
    """What `fit`, given a file for its checkpoint, makes: fitted once, then read from the folder. parts: all of the
    recipe that it is made by, so that another recipe makes another model."""
    name = f"{hashed(*parts)}-{seed}"
    model, note = folder / name / "model", folder / name / "fitted.json"
    if not note.exists():
        started, commit = time.perf_counter(), cells.commit()
        model.mkdir(parents=True, exist_ok=True)
        fit(folder / name / "trunk.safetensors").save(model)
        seconds = time.perf_counter() - started
        note.write_text(json.dumps({"seconds": seconds, "commit": commit}), encoding="utf-8")
    known = json.loads(note.read_text(encoding="utf-8"))
    return ContinuousRecommender.load(model), Expert(name, known["seconds"], known["commit"])


def hashed(*parts: BaseModel) -> str:
    """Ten digits that differ where any setting does."""
    return hashlib.sha256("".join(part.model_dump_json() for part in parts).encode()).hexdigest()[:10]


@row("text-only", "baselines", seeds=1)
def text_only(ask: Ask) -> Fitted:
    """A trunk over what the items say and nothing else: ContRec's text half, where that has no vector an item."""
    words, expert = _words(ask, *(["text_half.residual=false"] if _text_half(ask).residual else []))
    return _alone(words, expert, {"text_encoder": _encoder(ask)})


@row("id-text-ensemble", "baselines", seeds=3)
def id_text_ensemble(ask: Ask) -> Fitted:
    """SASRec-CE and the text-only trunk, log probabilities added; the weight is the best on validation."""
    return _two_experts(ask)


@row("id-text-ensemble-unseen", "baselines", seeds=3)
def id_text_ensemble_unseen(ask: Ask) -> Fitted:
    """The same of a SASRec with ContRec's softmax."""
    return _two_experts(ask, UNSEEN)


def _two_experts(ask: Ask, more: tuple[str, ...] = ()) -> Fitted:
    recommender, expert, _ = _sasrec(ask, more)
    words, other = _words(ask)
    first, second = recommender_scorer(recommender), recommender_scorer(words)
    weight, tried = _chosen(first, second, _text_half(ask).weights, ask)
    return Fitted(
        added(first, second, weight),
        parameters(recommender) + parameters(words),
        {"weight": weight, "tried": tried, "text_encoder": _encoder(ask), "experts": [expert.said, other.said]},
        expert.seconds + other.seconds,
    )


@row("id-text-transition-ensemble", "baselines", seeds=3)
def id_text_transition_ensemble(ask: Ask) -> Fitted:
    """The ensemble, and what followed the last ten items as a third expert: all that ContRec has, but for ContRec."""
    return _three_experts(ask)


@row("id-text-transition-ensemble-unseen", "baselines", seeds=3)
def id_text_transition_ensemble_unseen(ask: Ask) -> Fitted:
    """The same of a SASRec with ContRec's softmax: the strongest rival that we could make."""
    return _three_experts(ask, UNSEEN)


def _three_experts(ask: Ask, more: tuple[str, ...] = ()) -> Fitted:
    fitted, (table, part) = _two_experts(ask, more), _counted(ask)
    expert = followed(table, part.floor)
    weight, tried = _chosen(fitted.scorer, expert, part.weights, ask)
    return Fitted(
        added(fitted.scorer, expert, weight),
        fitted.parameters + len(table.rows),
        {**fitted.configuration, "transitions": {"weight": weight, "floor": part.floor, "tried": tried}},
        fitted.seconds,
        fitted.notes,
    )


def _counted(ask: Ask) -> tuple[Transitions, TransitionsPart]:
    """ContRec's transitions, and what its recipe says of them."""
    part = trunk_recipe(ask.set.overrides).transitions
    return fit_transitions(ask.prepared, part.keep, window=part.window, decay=part.decay), part


def followed(table: Transitions, floor: float) -> Scorer:
    """log((share + floor) / floor) of what followed the last items."""

    def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        scores = np.zeros((len(users), len(table)), dtype=np.float32)
        for line, history in zip(scores, histories, strict=True):
            last = history[::-1][: table.window]
            rows, share = table.after(last, table.weights(len(last)))
            line[rows] = np.log1p(share / np.float32(floor))
        return scores

    return scorer


def _chosen(first: Scorer, second: Scorer, weights: Sequence[float], ask: Ask) -> tuple[float, dict[float, float]]:
    """The best weight of the second by validation NDCG@10, and what each reached."""
    known = remembered(first), remembered(second)
    tried = {weight: validation_ndcg(added(*known, weight), ask) for weight in weights}
    return max(tried, key=lambda weight: tried[weight]), tried


@row("contrec", "ours", seeds=3)
def contrec(ask: Ask) -> Fitted:
    """What `contrec train` publishes and the service serves."""
    path, report = contrec_bundle(ask)
    recommender = load_recommender(path)
    return _ours(recommender, report, "tokenizer", "text_half_fit", "transitions_fit", "head")


@row("contrec-without-transitions", "parts of contrec", seeds=3)
def contrec_without_transitions(ask: Ask) -> Fitted:
    """Both halves, as far as validation wants them, and nothing counted."""
    path, report = contrec_bundle(ask)
    return _ours(uncounted(load_recommender(path)), report)


def _ours(recommender: Recommender, report: dict[str, Any], *notes: str) -> Fitted:
    """notes: what of the report the cell repeats."""
    mine, _ = halves(recommender)
    base = uncounted(recommender)
    configuration = {
        "alpha": base.alpha if isinstance(base, Hybrid) else 0.0,
        "lambda": mine.mixture.weight,
        "samples": mine.mixture.samples,
        "transitions": recommender.weight if isinstance(recommender, WithTransitions) else 0.0,
        "recipe": report["bundle"]["recipe_config"],
        "text_encoder": report["bundle"]["recipe_config"]["signals"]["text_encoder"],
    }
    return part_of(recommender, report, configuration, *notes)


@row("deftrec", "ours", seeds=1)
def deftrec(ask: Ask) -> Fitted:
    """The first version: masked tokens without noise, negative-aware denoising, no text half; transitions as above."""
    path, report = contrec_bundle(ask, "deftrec")
    return _ours(load_recommender(path), report, "tokenizer", "transitions_fit", "head")


@row("deftrec-without-transitions", "ours", seeds=1)
def deftrec_without_transitions(ask: Ask) -> Fitted:
    """The first version, and nothing counted."""
    path, report = contrec_bundle(ask, "deftrec")
    return _ours(uncounted(load_recommender(path)), report)


def part_of(recommender: Recommender, report: dict[str, Any], configuration: dict[str, Any], *notes: str) -> Fitted:
    """A part of a bundle, asked alone. notes: what of the report the cell repeats."""
    return Fitted.of(
        recommender,
        parameters(recommender),
        configuration,
        seconds=seconds_of(report),
        notes={key: report[key] for key in notes if key in report},
        commit=report["commit"],
    )


@row("contrec-without-text", "parts of contrec", seeds=1)
def contrec_without_text(ask: Ask) -> Fitted:
    """The behaviour half with whatever mixture validation chose, and transitions with a weight that suits it."""
    path, report = contrec_bundle(ask)
    mine, _ = halves(load_recommender(path))
    table, part = _counted(ask)
    expert = WithTransitions(mine, table, max(part.weights), part.floor)
    users = validation_users(ask)
    weight, tried, _ = choose_weight(expert, ask.prepared, part.weights, users=users, seed=ask.seed)
    whole = expert.with_weight(weight) if weight else mine
    configuration = {"lambda": mine.mixture.weight, "transitions": weight, "tried": tried}
    return part_of(whole, report, configuration)


def remembered(scorer: Scorer) -> Scorer:
    """The same scores, computed once for each history: N floats each."""
    known: dict[int, Floats] = {}

    def again(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        keys = [hash((user, history.tobytes())) for user, history in zip(users.tolist(), histories, strict=True)]
        new = [n for n, key in enumerate(keys) if key not in known]
        if new:
            known.update(zip((keys[n] for n in new), scorer(users[new], [histories[n] for n in new]), strict=True))
        return np.stack([known[key] for key in keys])

    return again


def _text_half(ask: Ask) -> TextHalfPart:
    return trunk_recipe(ask.set.overrides).text_half


def _words(ask: Ask, *overrides: str) -> tuple[ContinuousRecommender, Expert]:
    """ContRec's text half. It is fitted where it is asked for with overrides, and again where validation left it out of
    the bundle: same code, same seed, same weights."""
    path, report = contrec_bundle(ask)
    _, words = halves(load_recommender(path))
    if words is not None and not overrides:
        return words, Expert(path.parent.name, seconds_of(report, "signals", "text_half"), report["commit"])
    recipe = trunk_recipe([*ask.set.overrides, *tuned(ask.set_name, "contrec"), *overrides])

    def fit(checkpoint: Path) -> ContinuousRecommender:
        run = Run(ask.prepared, ask.seed, "cpu", told)
        signals = item_signals(recipe.signals, run)
        return fit_words(recipe, run, signals.texts, signals.encoder, checkpoint)[0]

    return _kept(ask.folder / "words", ask.seed, [recipe.signals, recipe.text_half, recipe.trunk], fit)


def _encoder(ask: Ask) -> str:
    path, _ = contrec_bundle(ask)
    return str(json.loads((path / "text" / "encoder.json").read_text(encoding="utf-8"))["encoder"])


def seconds_of(report: dict[str, Any], *stages: str) -> float:
    """Of the stages named, or of all."""
    return float(sum(value for stage, value in report["seconds"].items() if stage in stages or not stages))
