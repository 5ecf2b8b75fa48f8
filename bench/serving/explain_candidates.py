"""How often the few items that `explain` tries hold the one that matters most, which leaving out every item tells.

    .venv/bin/python -m bench.serving.explain_candidates bundles/movies/3f2a90c11d7e prepared --users 200

Draws users with more items in their test history than `explain` tries, and leaves out each of the last 200 in turn, one
reading each. For the first item of their lists and for all of them: how often the item whose absence lowers the log
probability most is among those tried, how often it is the one named first, and the median by which the one named falls
short where it is not; beside it the median of the greatest fall. Falls within rounding of each other are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model import load_recommender
from model.catalogue import Rows
from model.explain import LEFT_OUT, candidates_of
from model.recommender import Dials, Floats, Recommender, log_sum
from training.data.prepared import Prepared

LAST = 200
TOGETHER = 32
ROUNDING = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the folder of one version")
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--k", type=int, default=10, help="of the list that is explained")
    parser.add_argument("--longer-than", type=int, default=LEFT_OUT, help="different items of a history")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    recommender = load_recommender(given.bundle)
    asked = Prepared.read(given.prepared).evaluation("test").histories
    long = [history for history in asked if len(np.unique(history)) > given.longer_than]
    if not long:
        parser.error(f"no test history has more than {given.longer_than} different items")
    drawn = np.random.default_rng(given.seed).permutation(len(long))[: given.users]
    found = np.stack([measure(recommender, long[n], given.k) for n in drawn])  # (users, k, 3)
    sizes = [len(np.unique(long[n])) for n in drawn]
    sys.stdout.write(
        f"{len(drawn)} of {len(long)} users with more than {given.longer_than} items ({np.median(sizes):.0f} in the "
        f"median, {max(sizes)} at most), lists of {given.k}\n"
        f"{'':10} {'among those tried':>18} {'named first':>12} {'else short by':>14} {'of a fall of':>13}\n"
    )
    for name, part in (("first item", found[:, 0]), ("every item", found.reshape(-1, 3))):
        most, tried, named = part.T
        short = (most - named)[most - named > ROUNDING]
        shares = [float((most - one <= ROUNDING).mean()) for one in (tried, named)]
        missed = float(np.median(short)) if len(short) else 0.0
        sys.stdout.write(f"{name:10} {shares[0]:18.3f} {shares[1]:12.3f} {missed:14.3f} {np.median(most):13.3f}\n")


def measure(recommender: Recommender, history: Rows, k: int) -> Floats:
    """(k, 3) how far each item of the list falls without the item that matters most, the one of those tried that does,
    and the one named first; 0 where none lowers it and where none is named."""
    rows, _ = recommender.recommend(history, k)
    tried = candidates_of(recommender, history, rows)
    every = np.union1d(history[-LAST:], tried)
    logs = log_probabilities(recommender, [history, *(history[history != row] for row in every)], rows)
    falls = logs[0] - logs[1:]  # (every, k)
    because = recommender.explain(history, rows).because
    named = [falls[every == reasons[0][0], n].sum() if reasons else 0.0 for n, reasons in enumerate(because)]
    return np.stack([falls.max(axis=0), falls[np.isin(every, tried)].max(axis=0), named], axis=1).clip(min=0)


def log_probabilities(recommender: Recommender, histories: Sequence[Rows], rows: Rows) -> Floats:
    """(histories, n) of rows (n,) after each history."""
    found = []
    for at in range(0, len(histories), TOGETHER):
        tokens = recommender.encode(histories[at : at + TOGETHER])
        scores = map(recommender.score, recommender.generate(tokens, [Dials()] * len(tokens)))
        found += [score[rows] - log_sum(score) for score in scores]
    return np.stack(found)


if __name__ == "__main__":
    main()
