"""How many positions of histories are best read at once on a CPU, and what reading a whole batch at once would cost.

    .venv/bin/python -m bench.serving.reading

Medians, in milliseconds, of reading a batch with the `small` recipe's trunk alone (a random one), on one thread; the
tries take turns in one run. `mixed` histories are of 1 to 200 items. The column `all` is the plain twin: one padded
batch. What comes out is the same up to rounding, which is checked.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np
import torch

from bench.serving.subject import make_recommender
from model.catalogue import Rows
from model.continuous.hybrid import Hybrid
from model.recommender import UserTokens

ITEMS = 10_000
AT_ONCE = (256, 512, 1024, 2048, 4096, math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=11)
    given = parser.parse_args()
    torch.set_num_threads(1)
    hybrid = make_recommender(ITEMS, 0.0).base
    assert isinstance(hybrid, Hybrid)
    subject = hybrid.behaviour
    draw = np.random.default_rng(0)

    def histories(batch: int, shortest: int, longest: int) -> list[Rows]:
        return [draw.integers(0, ITEMS, draw.integers(shortest, longest + 1)) for _ in range(batch)]

    print(f"{'batch':>12}" + "".join(f"{'all' if most == math.inf else most:>9}" for most in AT_ONCE))  # noqa: T201
    for name, batch in {
        "8 of 50": histories(8, 50, 50),
        "32 of 50": histories(32, 50, 50),
        "8 of 200": histories(8, 200, 200),
        "32 of 200": histories(32, 200, 200),
        "32 mixed": histories(32, 1, 200),
    }.items():
        spent: dict[float, list[float]] = {most: [] for most in AT_ONCE}
        read: dict[float, list[UserTokens]] = {}
        for _ in range(given.times):
            for most in AT_ONCE:
                subject.at_once = most
                started = time.perf_counter()
                read[most] = subject.encode(batch)
                spent[most].append((time.perf_counter() - started) * 1000)
        for tokens in read.values():
            for mine, plain in zip(tokens, read[math.inf], strict=True):
                np.testing.assert_allclose(mine.condition, plain.condition, atol=1e-4)
        print(f"{name:>12}" + "".join(f"{statistics.median(spent[most]):>9.1f}" for most in AT_ONCE))  # noqa: T201


if __name__ == "__main__":
    main()
