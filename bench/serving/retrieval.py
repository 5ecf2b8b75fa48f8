"""What a list costs on catalogues of several sizes: the sieve in 8 bits beside the plain product, in one run.

    .venv/bin/python -m bench.serving.retrieval --items 10000 100000

Medians of generating a taste and retrieving 10 items, one user and a batch of 8, on one thread, after a pause of 5 ms
in which caches go cold as between requests; every expert of the `small` recipe. The lists of both are the same,
which is checked.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from bench.serving.subject import make_recommender
from model.continuous.hybrid import Hybrid
from model.recommender import Dials, Recommender
from model.sieve import PlainSieve

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--weight", type=float, default=0.0, help="lambda of the mixture")
    parser.add_argument("--times", type=int, default=41)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'items':>9} {'batch':>5} {'8 bits, ms':>11} {'plain, ms':>10}")  # noqa: T201
    for items in given.items:
        quick, plain = (make_recommender(items, given.weight) for _ in range(2))
        hybrid = plain.base
        assert isinstance(hybrid, Hybrid)
        hybrid.sieve = PlainSieve(hybrid.sieve_matrix(), hybrid.behaviour.device)
        for half in (hybrid.behaviour, hybrid.text):
            half.sieve = PlainSieve(half.index.matrix, half.device)
        for batch in (1, 8):
            turns = [_turns(recommender, batch) for recommender in (quick, plain)]
            lists = [[rows.tolist() for rows in turn()] for turn in turns]
            assert lists[0] == lists[1]
            spent: list[list[float]] = [[], []]
            for _ in range(given.times):
                for turn, times in zip(turns, spent, strict=True):
                    times.append(_milliseconds(turn))
            bytes_of_both, exact = (statistics.median(each) for each in spent)
            print(f"{items:>9} {batch:>5} {bytes_of_both:>11.2f} {exact:>10.2f}")  # noqa: T201 - its purpose


def _turns(recommender: Recommender, batch: int) -> Callable[[], list[np.ndarray]]:
    draw = np.random.default_rng(SEED)
    items = len(recommender.catalogue)
    tokens = recommender.encode([draw.integers(0, items, 50) for _ in range(batch)])
    eligible = np.ones(items, dtype=np.bool_)
    eligible[draw.integers(0, items, 50)] = False

    def turn() -> list[np.ndarray]:
        tastes = recommender.generate(tokens, [Dials()] * batch)
        return [recommender.retrieve(taste, eligible, 10)[0] for taste in tastes]

    return turn


def _milliseconds(work: Callable[[], object]) -> float:
    time.sleep(0.005)
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
