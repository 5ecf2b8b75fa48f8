"""What the embedded text encoder costs against a sentence encoder: both as scorers that know an item's text alone.

    contrec data prepare table path/to/interactions.csv.gz --items path/to/items.csv.gz --out prepared/beauty
    python -m bench.text prepared/beauty --sentence path/to/all-MiniLM-L6-v2 --out bench/text/results/beauty.json

Validation NDCG@10, items of the history masked. `mean`: cosine to the mean of the history's vectors; `last`: to the
last item; `nearest`: to the nearest of the last ten (kNN). Seconds: fitting and encoding the catalogue, one thread.
The same sentence encoder trains a bundle with --set signals.text_encoder=path/or/id.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Rows
from model.recommender import Floats
from model.text import SentenceEncoder, item_text
from training.data.prepared import Prepared
from training.evaluate import Scorer, evaluate
from training.text import fit_hashed_text

DIMS = (64, 128, 256)
BUCKETS = 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--sentence", help="a sentence encoder by id or folder")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepared = Prepared.read(given.prepared)
    texts = [item_text(item) for item in prepared.catalogue]
    rows = [
        _row(f"hashed, {dim}", lambda dim=dim: fit_hashed_text(texts, BUCKETS, dim).encode(texts), prepared)
        for dim in DIMS
    ]
    if given.sentence:
        rows.append(_row(Path(given.sentence).name, lambda: SentenceEncoder(given.sentence).encode(texts), prepared))
    command = "python -m bench.text " + " ".join(["PREPARED", "--sentence", "FOLDER", "--out", given.out.name])
    facts = {"items": len(texts), "fingerprint": prepared.fingerprint, "command": command, "rows": rows}
    given.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(rows))  # noqa: T201


def _row(name: str, make: Callable[[], Floats], prepared: Prepared) -> dict[str, Any]:
    started = time.perf_counter()
    vectors = make()
    seconds = time.perf_counter() - started
    found = {"encoder": name, "width": vectors.shape[1], "seconds": seconds}
    for way, scorer in scorers(vectors).items():
        found[way] = evaluate(scorer, prepared, "validation", batch=128).ndcg(10)
    return found


def scorers(vectors: Floats) -> dict[str, Scorer]:
    """vectors (N, D), rows of unit length."""

    def mean(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        return np.stack([vectors[history].mean(axis=0) for history in histories]) @ vectors.T

    def last(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        return np.stack([vectors[history[-1]] for history in histories]) @ vectors.T

    def nearest(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        return np.stack([(vectors[history[-10:]] @ vectors.T).max(axis=0) for history in histories])

    return {"mean": mean, "last": last, "nearest": nearest}


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| encoder | width | seconds | mean | last | nearest |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(f"{row[way]:.4f}" for way in ("mean", "last", "nearest"))
        lines.append(f"| {row['encoder']} | {row['width']} | {row['seconds']:.0f} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
