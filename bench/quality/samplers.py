"""What sampling could give at any cost: ContRec's head asked for more samples, more steps, more guidance.

    python -m bench.quality.samplers beauty [--seed 0]

The bundle of the table, whole (words and transitions with the weights it is served with); every sampler at every
lambda on validation, the best of all and what is served once on test, and what a request costs either. Says whether
the scorer that the service uses is within a percent of the best. Kept as bench/quality/results/<set>/samplers.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from bench.quality import cells
from bench.quality.models import Ask
from bench.quality.neural import contrec_bundle, halves, uncounted
from bench.quality.sets import SETS, load
from bench.quality.speed import milliseconds
from model import load_recommender
from model.continuous.hybrid import Hybrid
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from model.continuous.transitions import WithTransitions
from model.recommender import Recommender
from training.data.prepared import Prepared
from training.evaluate import evaluate, recommender_scorer
from training.stages.validation import Validation

FOUR, TEN = (0.8, 0.6, 0.4, 0.2), tuple(n / 10 for n in range(9, 0, -1))
SAMPLERS: tuple[tuple[int, tuple[float, ...]], ...] = (
    *((1, (0.7,)), (8, (0.7,)), (32, (0.7,)), (8, (0.4,))),
    *((8, FOUR), (8, TEN), (32, TEN)),
)
"""Samples, and the times after the free step at t = 1."""
WEIGHTS = (0.25, 0.5, 1.0)
GUIDANCE = (1.5, 2.0)  # of the best sampler
USERS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set_name", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=USERS, help="of validation")
    given = parser.parse_args()
    prepared = load(given.set_name)
    path, _ = contrec_bundle(Ask(prepared, SETS[given.set_name], given.set_name, given.seed))
    found = measure(load_recommender(path), prepared, users=given.users) | {"seed": given.seed}
    cells.keep(f"{given.set_name}/samplers", found, "python -m bench.quality.samplers " + " ".join(sys.argv[1:]))


def measure(served: Recommender, prepared: Prepared, *, users: int) -> dict[str, Any]:
    """tried: each mixture and its validation NDCG@10, the served one first; test and milliseconds of that and of the
    best. Validation asks at most that many users."""
    mixture = halves(served)[0].mixture
    validate = Validation(served, prepared, users, seed=0)

    def reached(one: Mixture) -> float:
        ndcg = validate(with_mixture(served, one)).ndcg(10)
        tried.append({**_named(one), "ndcg@10": ndcg})
        print(tried[-1], flush=True)  # noqa: T201
        return ndcg

    tried: list[dict[str, Any]] = []
    best, most = mixture, reached(mixture)
    for samples, times in SAMPLERS:
        for weight in WEIGHTS:
            one = replace(mixture, samples=samples, times=times, weight=weight, guidance=1.0)
            if (ndcg := reached(one)) > most:
                best, most = one, ndcg
    for guidance in GUIDANCE if best.weight > 0 else ():
        one = replace(best, guidance=guidance)
        if (ndcg := reached(one)) > most:
            best, most = one, ndcg
    both = {"served": mixture, "best": best}
    return {"tried": tried, **{name: _asked(with_mixture(served, one), one, prepared) for name, one in both.items()}}


def with_mixture(served: Recommender, mixture: Mixture) -> Recommender:
    """The same bundle with another way to sample."""

    def mixed(half: ContinuousRecommender) -> ContinuousRecommender:
        return half.with_head(half.head, mixture)

    base = uncounted(served)
    if isinstance(base, Hybrid):
        base = Hybrid(mixed(base.behaviour), base.text, base.alpha)
    else:
        assert isinstance(base, ContinuousRecommender)
        base = mixed(base)
    if not isinstance(served, WithTransitions):
        return base
    return WithTransitions(base, served.transitions, served.weight, served.floor)


def _asked(recommender: Recommender, mixture: Mixture, prepared: Prepared) -> dict[str, Any]:
    test = evaluate(recommender_scorer(recommender), prepared, "test")
    return {**_named(mixture), "test ndcg@10": test.ndcg(10), "milliseconds": milliseconds(recommender, prepared)}


def _named(mixture: Mixture) -> dict[str, Any]:
    how = {"samples": mixture.samples, "times": list(mixture.times), "guidance": mixture.guidance}
    return {"lambda": mixture.weight, **(how if mixture.weight > 0 else {})}


if __name__ == "__main__":
    main()
