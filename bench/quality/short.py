"""How good the list is for who is hardly known: the same users and targets, with all but the last few events forgotten.

    python -m bench.quality.short beauty [--seed 0]

Nobody in these sets has a history of fewer than three events, so the last 0, 1, 2, 5 and 20 events before the target
are all that a scorer is told; what was forgotten is no longer masked. ContRec as it is served, SASRec with the same
softmax, and popularity; the models are those of the table, trained on first use. Kept as
bench/quality/results/<set>/short.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.quality import cells
from bench.quality.models import MODELS, Ask
from bench.quality.sets import SETS, load
from training.data.prepared import Prepared
from training.evaluate import Scorer, rank

KEPT: tuple[int | None, ...] = (0, 1, 2, 5, 20, None)
ROWS = ("contrec", "sasrec-ce-unseen", "popularity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set_name", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    prepared = load(given.set_name)
    ask = Ask(prepared, SETS[given.set_name], given.set_name, given.seed)
    rows = measure({name: MODELS[name].fit(ask).scorer for name in ROWS}, prepared)
    command = "python -m bench.quality.short " + " ".join(sys.argv[1:])
    cells.keep(f"{given.set_name}/short", {"rows": rows, "seed": given.seed}, command)


def measure(scorers: Mapping[str, Scorer], prepared: Prepared) -> list[dict[str, Any]]:
    """One row for each of `KEPT`: events told, users who have more, and test NDCG@10 of each scorer."""
    asked = prepared.evaluation("test")
    rows = []
    for kept in KEPT:
        told = [history if kept is None else history[max(0, len(history) - kept) :] for history in asked.histories]
        known = replace(asked, histories=told)
        ndcg = {name: rank(s, known, len(prepared.catalogue), "test").ndcg(10) for name, s in scorers.items()}
        rows.append({"events": "all" if kept is None else kept, "users": len(asked), "ndcg@10": ndcg})
    return rows


if __name__ == "__main__":
    main()
