"""The rows of DiffGRM and of its autoregressive twin; both are kept under runs/quality/<set> for bench/semantic.

Item level like every row; what the papers count, a hit of the *id*, stands labelled in the notes of the cells.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bench.quality import cells
from bench.quality.models import Ask, Fitted, row
from bench.quality.neural import bundle_of, hashed
from bench.semantic.autoregressive import Autoregressive, Twin, fit
from model import load_recommender
from model.catalogue import Rows
from model.recommender import Floats
from model.semantic.codes import digest, pack
from model.semantic.recommender import SemanticRecommender
from training.data.prepared import Prepared
from training.evaluate import Scorer, recommender_scorer
from training.recipe import load_recipe
from training.recipes.semantic import SemanticRecipe
from training.stages.semantic import shape_of

BEAM = 50  # of the twin, where nothing else is said; bench/semantic/speed.py looks for the smallest that suffices


def bundle(ask: Ask) -> tuple[SemanticRecommender, dict[str, Any]]:
    """DiffGRM, size small, and its report; trained on first use."""
    path, report = bundle_of(ask, "diffgrm")
    recommender = load_recommender(path)
    assert isinstance(recommender, SemanticRecommender)
    return recommender, report


def twin(ask: Ask) -> tuple[Twin, dict[str, Any]]:
    """The twin over DiffGRM's own ids and sizes, its seconds and commit; trained on first use."""
    recommender, _ = bundle(ask)
    recipe = load_recipe("diffgrm")
    assert isinstance(recipe, SemanticRecipe)
    # Teacher forcing gives all digits in one pass: every transition costs it what a share of them costs DiffGRM. The
    # digits' likelihood is all that teaches it, so it learns more slowly: after DiffGRM's six epochs it still rises.
    part = recipe.network.model_copy(update={"decode_share": 1.0, "epochs": 24, "patience": 4})
    digits, counts = recommender.digits.numpy().astype(np.uint8), recommender.counts
    # Other ids or settings are another twin: its weights would fit them, and mean nothing.
    path = ask.folder / f"twin-{hashed(part)}-{digest(digits)[:10]}-{ask.seed}.safetensors"
    note = path.with_suffix(".json")
    if not note.exists():
        started, commit = time.perf_counter(), cells.commit()
        made = fit(ask.prepared, digits, recommender.network.shape.codes, part, seed=ask.seed)
        save_file(made.network.state_dict(), path)
        note.write_text(json.dumps({"seconds": time.perf_counter() - started, "commit": commit}), encoding="utf-8")
    network = Autoregressive(shape_of(part, digits.shape[1], recommender.network.shape.codes), recommender.digits, 0.0)
    network.load_state_dict(load_file(path))
    return Twin(network, counts), json.loads(note.read_text(encoding="utf-8"))


def id_level(scorer: Scorer, prepared: Prepared, digits: NDArray[np.uint8], k: int = 10) -> dict[str, float]:
    """HR and NDCG of the test part as the papers count them: a hit when the id matches, nothing masked.

    An id's score is that of its best item.
    """
    keys, of_item = np.unique(pack(digits), return_inverse=True)
    order = np.argsort(of_item, kind="stable")
    starts = np.searchsorted(of_item[order], np.arange(len(keys)))
    asked = prepared.evaluation("test")
    ranks = []
    for start in range(0, len(asked), 256):
        part = slice(start, start + 256)
        scores = np.maximum.reduceat(scorer(asked.users[part], asked.histories[part])[:, order], starts, axis=1)
        target = scores[np.arange(len(scores)), of_item[asked.targets[part]]]
        ranks.append((scores >= target[:, None]).sum(axis=1))
    rank = np.concatenate(ranks)
    return {
        f"hr@{k} unmasked": float((rank <= k).mean()),
        f"ndcg@{k} unmasked": float(np.where(rank <= k, 1 / np.log2(rank + 1.0), 0.0).mean()),
    }


def _diffgrm(ask: Ask, recommender: SemanticRecommender, report: dict[str, Any], name: str) -> Fitted:
    scorer = recommender_scorer(recommender)
    recipe = report["bundle"]["recipe_config"]
    return Fitted(
        scorer,
        sum(p.numel() for p in recommender.network.parameters()),
        {"recipe": recipe, "decoding": str(recommender.decoding), "part": name},
        sum(report["seconds"].values()),
        {
            "text_encoder": "hashed TF-IDF with a learnt projection",
            "codes": report["codes"],
            "decoding": report["decoding"],
            "id_level": id_level(scorer, ask.prepared, recommender.digits.numpy().astype(np.uint8)),
        },
        commit=report["commit"],
    )


@row("diffgrm", "ours", seeds=3)
def diffgrm(ask: Ask) -> Fitted:
    """As served."""
    recommender, report = bundle(ask)
    return _diffgrm(ask, recommender, report, "as served")


@row("diffgrm-digits", "ablation")
def digits_alone(ask: Ask) -> Fitted:
    """The digits' log-probabilities alone, without an item-level score: colliding items tie."""
    recommender, report = bundle(ask)
    return _diffgrm(ask, _without_items(recommender), report, "digits alone")


@row("diffgrm-item", "ablation")
def item_alone(ask: Ask) -> Fitted:
    """The item-level score alone, without the digits."""
    recommender, report = bundle(ask)
    alone = recommender.with_decoding(replace(recommender.decoding, digits=0.0, weight=0.0))
    return _diffgrm(ask, alone, report, "item level alone")


@row("autoregressive-twin", "baselines")
def autoregressive(ask: Ask) -> Fitted:
    """The same encoder and ids, digits one after another: TIGER's way."""
    made, known = twin(ask)
    scorer = made.scorer(BEAM)
    return Fitted(
        scorer,
        sum(p.numel() for p in made.network.parameters()),
        {"beam": BEAM},
        known["seconds"],
        {"id_level": id_level(scorer, ask.prepared, made.network.digits.numpy().astype(np.uint8))},
        commit=known["commit"],
    )


def _without_items(recommender: SemanticRecommender) -> SemanticRecommender:
    """Nothing but digits: preference and bias at zero, popularity far below a rounding to part equals."""

    class DigitsAlone(SemanticRecommender):
        def score(self, taste: Any) -> Floats:
            flat = taste.table.ravel()
            scores: Floats = flat[self._place_arrays].sum(axis=0)
            return scores + np.float32(1e-4) * (self.counts / (1 + self.counts.max())).astype(np.float32)

        def score_rows(self, taste: Any, rows: Rows) -> Floats:
            return self.score(taste)[rows]

    recommender = recommender.with_decoding(replace(recommender.decoding, weight=0.0))
    recommender.__class__ = DigitsAlone
    return recommender
