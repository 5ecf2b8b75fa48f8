"""What a list costs on catalogues of several sizes: the sieve in 8 bits beside the plain product, in one run.

The bytes of both halves in one product, or in one for each half.

    .venv/bin/python -m bench.serving.retrieval --items 10000 100000

Medians of generating a taste and retrieving 10 items, one user and a batch of 8, on one thread, after a pause of 5 ms
in which caches go cold as between requests; every expert of the `small` recipe. The lists of all three are the same,
which is checked. With lambda above zero nothing is paired, and the first two do the same.
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
    print(f"{'items':>9} {'batch':>5} {'8 bits, ms':>11} {'by halves, ms':>14} {'plain, ms':>10}")  # noqa: T201
    for items in given.items:
        made = [make_recommender(items, given.weight) for _ in range(3)]
        _, halves, plain = (recommender.base for recommender in made)
        assert isinstance(halves, Hybrid)
        assert isinstance(plain, Hybrid)
        halves.pair = plain.pair = None
        for half in (plain.behaviour, plain.text):
            half.sieve = PlainSieve(half.index.matrix, half.device)
        for batch in (1, 8):
            turns = [_turns(recommender, batch) for recommender in made]
            lists = [[rows.tolist() for rows in turn()] for turn in turns]
            assert lists[0] == lists[1] == lists[2]
            spent: list[list[float]] = [[], [], []]
            for n in range(given.times):  # whoever follows the plain product finds the caches full of it
                for which in ((0, 1, 2), (1, 0, 2))[n % 2]:
                    spent[which].append(_milliseconds(turns[which]))
            pair, two, exact = (statistics.median(each) for each in spent)
            print(f"{items:>9} {batch:>5} {pair:>11.2f} {two:>14.2f} {exact:>10.2f}")  # noqa: T201 - its purpose


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
