"""A pretrained language model as the trunk, tuned in three ways, beside its shape untrained and a trunk of our own.

    contrec data prepare ml-100k path/to/ml-100k --out prepared/ml-100k
    python -m bench.llm prepared/ml-100k path/to/stories260K --out bench/llm/results/ml-100k

One row a file (<row>.json), so that an interrupted run goes on with the rows that are missing; --table prints what
there is. The rows share everything but what their name says: item positions without titles, twenty
items read, no head, no text half, one seed. `with titles` puts the first four tokens of an item's title before its
position. Request times are of one history at a time through the loaded bundle, on one
thread: `encode` is what the service caches as user tokens, `cached` is the rest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import load_recommender
from model.recommender import Dials
from training.data.prepared import Prepared
from training.train import train

SHARED = (
    "trunk.width=64",
    "trunk.max_history=20",
    "trunk.tokens_per_step=1000",
    "trunk.accumulate=1",
    "trunk.epochs=6",
    "trunk.patience=3",
    "trunk.pretrained_rate=1e-3",
    "trunk.bf16=false",
    "language.title_tokens=0",
    "head.epochs=0",
    "text_half.epochs=0",
    "transitions.weights=[0.0]",
)
TITLES = "language.title_tokens=4"
ROWS = {
    "lora": ("language.tuning=lora",),
    "full": ("language.tuning=full",),
    "frozen": ("language.tuning=frozen",),
    "lora, with titles": ("language.tuning=lora", TITLES),
    "full, with titles": ("language.tuning=full", TITLES),
    "frozen, with titles": ("language.tuning=frozen", TITLES),
    "untrained, full": ("language.tuning=full",),
    "own": ("language.base=",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("base", type=Path, help="a causal language model as a Hugging Face folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--table", action="store_true", help="print what there is and train nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for row in [] if given.table else given.only:
        path = given.out / f"{row.replace(', ', '-').replace(' ', '-')}.json"
        if path.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = _row(row, given.prepared, given.base, Path(folder), given.out)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(_table(given.out))  # noqa: T201


def _row(row: str, prepared: Path, base: Path, folder: Path, out: Path) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if row.startswith("untrained"):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)).save_pretrained(folder / "untrained")
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / "untrained")
        base = folder / "untrained"
    overrides = [*SHARED, f"language.base={base}", *ROWS[row]]
    path = train(prepared, "contrec", "llm", bundles=folder / "bundles", name="x", overrides=overrides)
    report = json.loads((path.parent / f"{path.name}.report.json").read_text(encoding="utf-8"))
    recommender = load_recommender(path)
    histories = Prepared.read(prepared).evaluation("test").histories[:200]
    spent = []
    for history in histories:
        started = time.perf_counter()
        recommender.encode([history])
        spent.append(1000 * (time.perf_counter() - started))
    (tokens,) = recommender.encode([histories[0]])
    started = time.perf_counter()
    for _ in range(200):
        recommender.retrieve(
            recommender.generate([tokens], [Dials()])[0], np.ones(len(recommender.catalogue), bool), 10
        )
    cached = 1000 * (time.perf_counter() - started) / 200
    trunk = recommender.trunk  # type: ignore[attr-defined]
    return {
        "row": row,
        "settings": overrides[len(SHARED) + 1 :],
        "parameters": sum(weight.numel() for weight in trunk.parameters()),
        "bundle_mib": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20,
        "epochs": len(report["trunk"]["epochs"]),
        "best_epoch": report["trunk"]["best_epoch"],
        "trunk_seconds": report["seconds"]["trunk"],
        "peak_rss_mib": report["peak_rss_mib"]["trunk"],
        "validation": {name: report["metrics"]["validation"][name] for name in ("hr@10", "ndcg@10")},
        "test": {name: report["metrics"]["test"][name] for name in ("hr@10", "ndcg@10")},
        "encode_ms_p50": float(np.median(spent)),
        "cached_ms": cached,
        "command": f"python -m bench.llm prepared/ml-100k path/to/stories260K --out {out} --only '{row}'",
    }


def _table(out: Path) -> str:
    lines = [
        "| trunk | validation NDCG@10 | test NDCG@10 | test HR@10 | seconds | MiB at most | encode ms | cached ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = {row["row"]: row for row in (json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json"))}
    for name in ROWS:
        if name in found:
            row = found[name]
            lines.append(
                f"| {name} | {row['validation']['ndcg@10']:.4f} | {row['test']['ndcg@10']:.4f} "
                f"| {row['test']['hr@10']:.4f} | {row['trunk_seconds']:.0f} | {row['peak_rss_mib']} "
                f"| {row['encode_ms_p50']:.1f} | {row['cached_ms']:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
