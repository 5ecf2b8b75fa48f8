"""What one request costs a scorer, so that its time stands beside its quality.

    milliseconds(recommender, prepared)     # {"history": 4.1, "list": 1.3}

history: reading the history of one user, which a cache spares who comes back; list: from user tokens to ten items,
none of them met before. Medians over users of the test, one at a time, without HTTP and store (`bench.serving` has
those), on as many threads as torch has here.
"""

from __future__ import annotations

import time

import numpy as np

from model.recommender import Dials, Recommender
from training.data.prepared import Prepared

USERS, K = 200, 10


def milliseconds(
    recommender: Recommender, prepared: Prepared, *, users: int = USERS, seed: int = 0
) -> dict[str, float]:
    """Two medians; see the module."""
    asked = prepared.evaluation("test")
    drawn = np.random.default_rng(seed).permutation(len(asked))[:users]
    spent: dict[str, list[float]] = {"history": [], "list": []}
    for one in drawn:
        history = asked.histories[one]
        eligible = np.ones(len(prepared.catalogue), dtype=np.bool_)
        eligible[history] = False
        started = time.perf_counter()
        tokens = recommender.encode([history])
        read = time.perf_counter()
        (taste,) = recommender.generate(tokens, [Dials()])
        recommender.retrieve(taste, eligible, K)
        spent["history"].append(read - started)
        spent["list"].append(time.perf_counter() - read)
    return {name: round(1000 * float(np.median(times)), 2) for name, times in spent.items()}
