"""The two collaborative signals, by the recommender that is trained on each: spectral (default) and LightGCN.

    contrec data prepare synthetic --out prepared/synthetic
    python -m bench.training.collaborative prepared/synthetic --out bench/training/collaborative.json

Size tiny, no head and no text half, so that nothing else changes. NDCG@10 of the bundle, CPU seconds of
the signal and of all, one thread. A row that is there is not computed again. The difference is of users, averaged over
seeds, with a bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.quality.cells import Cell, compare, marks
from model import load_recommender
from training.data.prepared import Prepared
from training.evaluate import evaluate, recommender_scorer
from training.train import train

SIGNALS = ("spectral", "lightgcn")
SHARED = ("head.epochs=0", "text_half.epochs=0", "transitions.weights=[0.0]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"rows": []}
    for seed, signal in product(range(given.seeds), SIGNALS):
        if any((row["signal"], row["seed"]) == (signal, seed) for row in found["rows"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found["rows"].append(_row(signal, seed, given.prepared, Path(folder)))
        found["lightgcn less spectral: mean, low, high"] = _difference(found["rows"])
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in found["rows"]:
        print({name: value for name, value in row.items() if name != "ranks"})  # noqa: T201
    print(found["lightgcn less spectral: mean, low, high"])  # noqa: T201


def _row(signal: str, seed: int, prepared: Path, folder: Path) -> dict[str, Any]:
    spent: dict[str, float] = {}
    began = time.process_time()

    def noted(stage: str, *_: Any) -> None:
        spent.setdefault(stage, time.process_time() - began)

    overrides = [*SHARED, f"signals.collaborative={signal}"]
    path = train(prepared, "contrec", "tiny", bundles=folder, name="x", seed=seed, overrides=overrides, progress=noted)
    spent["all"] = time.process_time() - began
    report = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    test = evaluate(recommender_scorer(load_recommender(path)), Prepared.read(prepared), "test")
    return {
        "signal": signal,
        "seed": seed,
        "validation ndcg@10": report["metrics"]["validation"]["ndcg@10"],
        "test ndcg@10": test.ndcg(10),
        "cpu seconds until the tokenizer": spent["tokenizer"],
        "cpu seconds": spent["all"],
        "ranks": marks(test),
    }


def _difference(rows: list[dict[str, Any]]) -> tuple[float, float, float] | None:
    lightgcn, spectral = (
        [Cell("", signal, 0, {}, 0.0, {}, 0, 0.0, "", row["ranks"]) for row in rows if row["signal"] == signal]
        for signal in reversed(SIGNALS)
    )
    return compare(lightgcn, spectral) if lightgcn and spectral else None


if __name__ == "__main__":
    main()
