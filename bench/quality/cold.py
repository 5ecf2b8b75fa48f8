"""New items with words and no interactions: how many of those that were wanted stand among the first hundred.

    python -m bench.quality.cold beauty [--share 0.05] [--seed 0] [--set head.epochs=0]

Takes a share of the items away, with every event of theirs; trains ContRec on the rest; adds them as a running service
adds an item, by words alone; then asks for every user whose last event was with one of them, and counts how often it
comes back among 100 of the whole catalogue (items of the history masked). Beside it what words alone would give (the
items whose text is nearest to the mean text of the history), a draw by lot, and a history of one item.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.quality.neural import told
from bench.quality.sets import RUNS, SETS, load
from model import load_recommender
from model.catalogue import Catalogue
from model.recommender import Recommender, best
from model.text import HashedText, item_text
from training.data.prepared import Prepared
from training.train import train

AMONG = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set_name", choices=SETS)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, help="a JSON file")
    given = parser.parse_args()
    whole = load(given.set_name)
    new = np.random.default_rng(given.seed).random(len(whole.catalogue)) < given.share
    folder = RUNS / given.set_name / f"cold-{given.seed}"
    known = without(whole, new)
    if not (folder / "prepared").exists():
        folder.mkdir(parents=True, exist_ok=True)
        known.write(folder / "prepared")
    path = train(
        folder / "prepared",
        bundles=folder,
        name="cold",
        seed=given.seed,
        overrides=[*SETS[given.set_name].overrides, *given.overrides],
        runs=folder / "runs",
        progress=told,
    )
    text = HashedText.load(path / "text")
    found = measure(load_recommender(path), text, whole, new) | {
        "set": given.set_name,
        "seed": given.seed,
        "command": "python -m bench.quality.cold " + " ".join(sys.argv[1:]),
    }
    report = json.dumps(found, indent=2)
    if given.out:
        given.out.write_text(report + "\n", encoding="utf-8")
    print(report)  # noqa: T201 - its purpose


def without(whole: Prepared, new: NDArray[np.bool_]) -> Prepared:
    """The same users without the new items (N,) and their events."""
    kept = ~new[whole.items]
    owner = np.repeat(np.arange(len(whole.users)), np.diff(whole.offsets))[kept]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(whole.users)))]).astype(np.int64)
    place = (np.cumsum(~new) - 1).astype(np.int32)
    return Prepared(
        Catalogue(item for item, gone in zip(whole.catalogue, new, strict=True) if not gone),
        whole.users,
        offsets,
        place[whole.items[kept]],
        whole.times[kept],
        whole.values[kept],
        whole.split[kept],
        {**whole.facts, "without": int(new.sum())},
    )


def measure(
    recommender: Recommender, text: HashedText, whole: Prepared, new: NDArray[np.bool_]
) -> dict[str, int | float]:
    """Shares of the users whose test target is new. recommender: knows the others only."""
    asked = whole.evaluation("test")
    mine = np.flatnonzero(new[asked.targets])
    added = [item for item, is_new in zip(whole.catalogue, new, strict=True) if is_new]
    grown = recommender.with_items(added)
    row_of = grown.catalogue.rows(item.item_id for item in whole.catalogue)  # of each row of `whole`
    words = text.encode([item_text(item) for item in grown.catalogue])
    hits = {"contrec": 0, "nearest words": 0, "one item read": 0}
    users = 0
    for n in mine:
        history = asked.histories[n][~new[asked.histories[n]]]
        if len(history) == 0:
            continue
        users += 1
        rows, target = row_of[history], row_of[asked.targets[n]]
        eligible = np.ones(len(grown.catalogue), dtype=np.bool_)
        eligible[rows] = False
        hits["contrec"] += target in grown.recommend(rows, AMONG)[0]
        # Whoever has met one item has no others that could be masked (bench/quality/short.py does the same).
        hits["one item read"] += target in grown.recommend(rows[-1:], AMONG)[0]
        hits["nearest words"] += target in best(words @ words[rows].mean(axis=0), eligible, AMONG)[0]
    items = len(grown.catalogue)
    shares: dict[str, int | float] = {f"{name}, among {AMONG}": hit / max(1, users) for name, hit in hits.items()}
    return {"users": users, "new items": len(added), "items": items, "by lot": AMONG / items, **shares}


if __name__ == "__main__":
    main()
