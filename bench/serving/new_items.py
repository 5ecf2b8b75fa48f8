"""What a new item costs a running service: `with_items` on a large catalogue, one item after the other.

    .venv/bin/python bench/serving/new_items.py --items 100000 --width 128

Prints the median, the 99th percentile and the worst of adding one item, of giving an added item another text (which
copies the matrix), and the time to build the whole from nothing, for comparison.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from model.catalogue import Catalogue, Item
from model.continuous.backbone import BackboneShape, Trunk
from model.continuous.cold import ColdItems
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from model.continuous.tokenizer import Tokenizer, TokenizerShape
from model.text import HASHED, HashedText, KeptEncoder

WAYS, TOKEN = 4, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--added", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    built, recommender = _timed(lambda: _recommender(given.items, given.width))
    recommender.catalogue.in_categories(["c1"])

    adding = []
    for n in range(given.added):
        item = Item(f"new-{n}", f"A new thing {n}", ("c1", "c2"), f"some words about thing {n} " * 10)
        milliseconds, recommender = _timed(partial(recommender.with_items, [item]))
        adding.append(milliseconds)
    moving = []
    for n in range(20):
        item = Item(f"new-{n}", f"A new thing {n}", ("c1", "c2"), f"other words about thing {n}")
        milliseconds, recommender = _timed(partial(recommender.with_items, [item]))
        moving.append(milliseconds)

    print(f"{given.items} items, width {given.width}, one thread; milliseconds")  # noqa: T201 - its purpose
    for name, found in (("add one item", adding), ("another text", moving)):
        p99 = float(np.percentile(found, 99))
        print(f"{name:16} median {statistics.median(found):7.2f}   p99 {p99:7.2f}   worst {max(found):7.2f}")  # noqa: T201 - its purpose
    print(f"{'from nothing':16} {built:7.0f}")  # noqa: T201 - its purpose


def _recommender(items: int, width: int) -> ContinuousRecommender:
    """Every part as it is in a bundle of that size, untrained: what is measured depends on sizes alone."""
    draw = torch.Generator().manual_seed(0)
    tokenizer = Tokenizer(TokenizerShape(64, 64, WAYS, TOKEN, 256))
    encoder = HashedText(np.ones(16384, np.float32), np.random.default_rng(0).random((16384, 64), np.float32))
    return ContinuousRecommender(
        Catalogue(Item(f"i{n}", f"Item {n}", (f"c{n % 200}", f"d{n % 7}"), "text") for n in range(items)),
        Trunk(BackboneShape(width, 2, 2, 256, 50)),
        Head(HeadShape(width, 256, 3, 1.0)),
        torch.randn(items, width, generator=draw),
        torch.randn(items, generator=draw),
        torch.ones(items, dtype=torch.int64),
        Mixture(4, (0.5,), 0.2),
        max_profile=100,
        cold=ColdItems(tokenizer, torch.randn(width, WAYS * TOKEN, generator=draw), KeptEncoder(encoder, HASHED)),
    )


def _timed(work: Callable[[], ContinuousRecommender]) -> tuple[float, ContinuousRecommender]:
    started = time.perf_counter()
    result = work()
    return (time.perf_counter() - started) * 1000, result


if __name__ == "__main__":
    sys.exit(main())
