"""What a list costs on catalogues of several sizes: the sieve in 8 bits beside the plain product, in one run.

    .venv/bin/python -m bench.serving.retrieval --items 10000 100000

Medians of generating a taste and retrieving 10 items, one user and a batch of 8, on one thread; every expert of the
`small` recipe. The lists of the two are the same, which is checked.
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
    print(f"{'items':>9} {'batch':>5} {'8 bits, ms':>11} {'plain, ms':>10} {'ratio':>6}")  # noqa: T201 - its purpose
    for items in given.items:
        quick = make_recommender(items, given.weight)
        plain = make_recommender(items, given.weight)
        assert isinstance(plain.base, Hybrid)
        for half in (plain.base.behaviour, plain.base.text):
            half.sieve = PlainSieve(half.index.matrix, half.device)
        for batch in (1, 8):
            mine, theirs = _turns(quick, batch), _turns(plain, batch)
            assert [rows.tolist() for rows in mine()] == [rows.tolist() for rows in theirs()]
            found = [(_milliseconds(mine), _milliseconds(theirs)) for _ in range(given.times)]
            fast, slow = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{items:>9} {batch:>5} {fast:>11.2f} {slow:>10.2f} {slow / fast:>6.1f}")  # noqa: T201 - its purpose


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
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
