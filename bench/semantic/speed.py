"""What a list costs: DiffGRM by exact scoring, by conditional passes and by beams, beside the autoregressive twin.

    python -m bench.semantic.speed quality --set beauty --seed 0     # NDCG@10 of every way, on validation and test
    python -m bench.semantic.speed time --set beauty --seed 0        # milliseconds, a burst of each way in turn
    python -m bench.semantic.speed time --set beauty --untrained     # the same work with weights as they were drawn

The first two read the models that bench/quality trained (and train them where they are missing). What is found goes to
bench/semantic/results/<set>.json. A request is the whole path: the history is read, digits are decoded, ten items that
were not seen come back. `decoding` times the path from cached user tokens, which is what a known user costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.quality.models import Ask
from bench.quality.semantic import bundle, twin
from bench.quality.sets import SETS, load
from bench.semantic.autoregressive import Autoregressive, Twin
from model.catalogue import Rows
from model.recommender import Dials
from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding
from model.semantic.network import SemanticNetwork
from model.semantic.recommender import SemanticRecommender
from model.text import HASHED, KeptEncoder, item_text
from training.evaluate import Scorer, evaluate, recommender_scorer
from training.recipe import load_recipe
from training.recipes.semantic import SemanticRecipe
from training.stages.semantic import recommender_of, shape_of
from training.stages.semantic_codes import fit_codes
from training.text import fit_hashed_text

RESULTS = Path(__file__).parent / "results"
BEAMS = (32, 128)
TWIN_BEAMS = (10, 20, 50, 100)
VALIDATION_USERS = 3000
K = 10
BURST = {1: 10, 32: 3}
"""Requests of one way after another, by batch: a server decodes in one way, so its weights lie in the cache."""


def ways_of(recommender: SemanticRecommender) -> dict[str, SemanticRecommender]:
    """The ways of decoding, by name; `served` is the bundle's own."""
    digits = recommender.decoding.digits
    return {
        "exact": recommender.with_decoding(Decoding(digits=digits)),
        "exact, 30 looked at again": recommender.with_decoding(Decoding(digits=digits, candidates=30, weight=1.0)),
    } | {f"beam {b}": recommender.with_decoding(Decoding(digits=digits, beam=b, weight=1.0)) for b in BEAMS}


def answer(recommender: SemanticRecommender, histories: list[Rows], whole: bool) -> Callable[[], None]:
    """A call that gives every history its list; from cached user tokens unless `whole`."""
    everything = np.ones(len(recommender.catalogue), dtype=np.bool_)
    cached = recommender.encode(histories)
    dials = [Dials()] * len(histories)

    def ask() -> None:
        tokens = recommender.encode(histories) if whole else cached
        for taste, history in zip(recommender.generate(tokens, dials), histories, strict=True):
            eligible = everything.copy()
            eligible[history] = False
            recommender.retrieve(taste, eligible, K)

    return ask


def answer_twin(model: Twin, width: int, histories: list[Rows], whole: bool) -> Callable[[], None]:
    """The same of the twin."""
    cached = model.encode(histories)

    def ask() -> None:
        nodes, _ = model.beam(*(model.encode(histories) if whole else cached), width)
        for leaves, history in zip(nodes, histories, strict=True):
            rows, _ = model.items(leaves)
            _ = rows[~np.isin(rows, history)][:K]

    return ask


def measure_quality(ask: Ask) -> dict[str, Any]:
    """NDCG@10 and HR@10 (masked): every way on validation, and once on test."""
    recommender, _ = bundle(ask)
    model, _ = twin(ask)
    scorers: dict[str, Scorer] = {name: recommender_scorer(way) for name, way in ways_of(recommender).items()}
    scorers |= {f"twin, beam {b}": model.scorer(b) for b in TWIN_BEAMS}
    found: dict[str, Any] = {}
    for name, scorer in scorers.items():
        validation = evaluate(scorer, ask.prepared, "validation", users=VALIDATION_USERS)
        test = evaluate(scorer, ask.prepared, "test", users=VALIDATION_USERS)
        found[name] = {"validation ndcg@10": validation.ndcg(10), "ndcg@10": test.ndcg(10), "hr@10": test.hr(10)}
        print(name, found[name], flush=True)  # noqa: T201
    return found


def untrained(ask: Ask) -> tuple[SemanticRecommender, Twin]:
    """Both models over the real ids of the set, of size small, with random weights: their speed without their sense."""
    from training.collaborative import spectral

    recipe = load_recipe("diffgrm")
    assert isinstance(recipe, SemanticRecipe)
    texts = [item_text(item) for item in ask.prepared.catalogue]
    encoder = fit_hashed_text(texts, recipe.signals.text_buckets, recipe.signals.text_dim)
    collaborative, known = spectral(*ask.prepared.train_histories(), len(texts), recipe.signals.spectral_dim)
    text = encoder.encode(texts)
    encoding = fit_codes(text, collaborative, known, **recipe.codes.model_dump())
    digits = torch.from_numpy(encoding.digits(text, collaborative, known))
    torch.manual_seed(ask.seed)
    shape = shape_of(recipe.network, encoding.count, encoding.codes)
    cold = ColdIds(encoding, KeptEncoder(encoder, HASHED))
    recommender = recommender_of(SemanticNetwork(shape, digits), cold, ask.prepared, Decoding())
    return recommender, Twin(Autoregressive(shape, digits, 0.0), recommender.counts)


def measure_time(recommender: SemanticRecommender, model: Twin, ask: Ask, seconds: float) -> dict[str, Any]:
    """Milliseconds a request, p50 and p95, at batch 1 and 32; a burst of each way in turn, over and over."""
    histories = ask.prepared.evaluation("test").histories
    ways = ways_of(recommender)
    for way in ways.values():
        _ = way.lattice  # made once, when a bundle is loaded
    found: dict[str, Any] = {}
    for batch in (1, 32):
        for whole in (True, False):
            times: dict[str, list[float]] = {}
            draw = np.random.default_rng(0)
            until = time.perf_counter() + seconds / 4
            turns = 0
            while time.perf_counter() < until or turns < 3:
                turns += 1
                some = [[histories[n] for n in draw.integers(len(histories), size=batch)] for _ in range(BURST[batch])]
                calls = {name: [answer(way, one, whole) for one in some] for name, way in ways.items()}
                calls |= {f"twin, beam {b}": [answer_twin(model, b, one, whole) for one in some] for b in TWIN_BEAMS}
                for name, burst in calls.items():
                    for call in burst:
                        started = time.perf_counter()
                        call()
                        times.setdefault(name, []).append(1e3 * (time.perf_counter() - started) / batch)
            for name, values in times.items():
                p50, p95 = np.quantile(values, [0.5, 0.95])
                record = {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "calls": len(values)}
                key = "request" if whole else "decoding"
                found.setdefault(name, {}).setdefault(f"batch {batch}", {})[key] = record
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the part that was asked for into the set's file, leaving the other part."""
    parser = argparse.ArgumentParser(prog="python -m bench.semantic.speed", description=__doc__)
    parser.add_argument("what", choices=("quality", "time"))
    parser.add_argument("--set", default="beauty", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--untrained", action="store_true", help="random weights over the real ids; for `time` alone")
    parser.add_argument("--seconds", type=float, default=120, help="of timing, all together")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ask = Ask(load(given.set), SETS[given.set], given.set, given.seed)
    path = RESULTS / f"{given.set}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if given.what == "quality":
        found = measure_quality(ask)
    else:
        models = untrained(ask) if given.untrained else (bundle(ask)[0], twin(ask)[0])
        found = measure_time(*models, ask, given.seconds)
    record[given.what] = {
        "command": " ".join(["python -m bench.semantic.speed", *(arguments or sys.argv[1:])]),
        "weights": "untrained" if given.untrained else f"seed {given.seed}",
        "threads": 1,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ways": found,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
