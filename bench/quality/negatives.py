"""The three negative-aware forms of DeftRec's denoising beside none, where true negatives exist: MovieLens-100K.

    python -m bench.quality.negatives [--seeds 0,1,2]

The sets of the table have no ratings for most events. Here ratings below 3 are set aside as what was met and disliked,
as published (`contrec data prepare --threshold 3`). One trunk a seed; a head for each form on it, asked at half weight.
Beside NDCG@10 of the test: how much likelier the target is than an item that the same user disliked later than all
training, the mean of log p(target) - log p(disliked). Training pushes away what was disliked in its own time; asked is
whether it learnt from that what else is disliked. Kept as bench/quality/results/negatives.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.quality import cells
from bench.quality.ablations import mixed
from bench.quality.neural import halves, told
from bench.quality.sets import RUNS, data_folder
from bench.quality.tuning import trunk_recipe
from model import load_recommender
from model.continuous.recommender import ContinuousRecommender
from model.recommender import Dials, Recommender
from training.data.clean import Cleaning
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.evaluate import evaluate, recommender_scorer
from training.stages.head import fit_head
from training.train import train

FORMS: Mapping[str, tuple[str, ...]] = {
    "none": ("head.negative=0.0",),
    "softmax, and the disliked pairwise": ("head.negatives=softmax",),
    "margin": ("head.negatives=margin",),
    "preferdiff": ("head.negatives=preferdiff",),
}
THRESHOLD = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    given = parser.parse_args()
    folder = RUNS / "negatives"
    if not (folder / "prepared").exists():
        prepare("ml-100k", data_folder() / "ml-100k-raw", folder / "prepared", cleaning=Cleaning(THRESHOLD))
    prepared = Prepared.read(folder / "prepared")
    found: dict[str, list[dict[str, float]]] = {form: [] for form in ("trunk alone", *FORMS)}
    for seed in map(int, given.seeds.split(",")):
        path = train(
            folder / "prepared",
            "deftrec",
            bundles=folder / "bundles",
            name=f"trunk-{seed}",
            seed=seed,
            overrides=["head.epochs=0"],
            runs=folder / "runs",
            progress=told,
        )
        trunk, _ = halves(load_recommender(path))
        for form, one in measure(trunk, prepared, seed).items():
            found[form].append(one)
    report = {
        "forms": found,
        "users": len(prepared.evaluation("test")),
        "disliked": {"in training": len(prepared.train_negatives()[1]), "asked": len(prepared.later_negatives()[1])},
    }
    cells.keep("negatives", report, "python -m bench.quality.negatives " + " ".join(sys.argv[1:]))


def measure(trunk: ContinuousRecommender, prepared: Prepared, seed: int) -> dict[str, dict[str, float]]:
    """What the trunk alone and each form reach."""
    found = {"trunk alone": _asked(trunk, prepared)}
    for form, overrides in FORMS.items():
        recipe = trunk_recipe(overrides, "deftrec")
        head = fit_head(prepared, trunk, recipe.head, recipe.trunk, seed=seed, progress=told).head
        found[form] = _asked(mixed(trunk, head, trunk.mixture.samples, 0.5), prepared)
    return found


def _asked(recommender: ContinuousRecommender, prepared: Prepared) -> dict[str, Any]:
    return {
        "test ndcg@10": evaluate(recommender_scorer(recommender), prepared, "test").ndcg(10),
        "above the disliked": above_the_disliked(recommender, prepared),
    }


def above_the_disliked(recommender: Recommender, prepared: Prepared) -> float:
    """Mean of log p(target) - log p(disliked) over what each user of the test disliked after training, then over users.

    NaN where nobody did.
    """
    offsets, items = prepared.later_negatives()
    asked = prepared.evaluation("test")
    leads = []
    for user, history, target in zip(asked.users, asked.histories, asked.targets, strict=True):
        disliked = items[offsets[user] : offsets[user + 1]]
        if len(disliked):
            (taste,) = recommender.generate(recommender.encode([history]), [Dials()])
            scores = recommender.score(taste)
            leads.append(float((scores[target] - scores[disliked]).mean()))
    return float(np.mean(leads))


if __name__ == "__main__":
    main()
