"""Ablations of ContRec and DeftRec: what each part, each guard of the tokenizer and each way to denoise is worth.

Rows like those of `neural`, over its bundles. Parts ask the bundle of the table otherwise; heads are trained anew on
its frozen trunk; guards train a trunk anew without one thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.quality.models import Ask, Fitted, row
from bench.quality.neural import contrec_bundle, halves, parameters, part_of, seconds_of, told
from bench.quality.tuning import trunk_recipe, tuned
from model import load_recommender
from model.continuous.head import Head
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from training.stages.head import fit_head


def mixed(recommender: ContinuousRecommender, head: Head, samples: int, weight: float) -> ContinuousRecommender:
    """Answering by so many samples of a head at that weight, not guided."""
    return recommender.with_head(head, Mixture(samples, recommender.mixture.times, weight))


def _variant(*overrides: str, weight: float = 0.0) -> Callable[[Ask], Fitted]:
    """ContRec's behaviour half trained with one thing left out, answering by its trunk or by the mixture at a weight;
    the notes say what became of the tokens (`model.continuous.tokenizer.health`)."""

    def fit(ask: Ask) -> Fitted:
        head = [] if weight else ["head.epochs=0"]
        path, report = contrec_bundle(ask, "contrec", ["text_half.epochs=0", *head, *overrides])
        mine, _ = halves(load_recommender(path))
        asked = mixed(mine, mine.head, mine.mixture.samples, weight)
        return part_of(asked, report, {"without": list(overrides), "lambda": weight}, "tokenizer")

    return fit


def _other_head(recipe: str, *overrides: str) -> Callable[[Ask], Fitted]:
    """A recipe's own trunk with a head that is trained otherwise, answering by the mixture at half weight."""

    def fit(ask: Ask) -> Fitted:
        path, report = contrec_bundle(ask, recipe)
        mine, _ = halves(load_recommender(path))
        started = time.perf_counter()
        chosen = trunk_recipe([*ask.set.overrides, *tuned(ask.set_name, "contrec"), *overrides], recipe)
        fitted = fit_head(ask.prepared, mine, chosen.head, chosen.trunk, seed=ask.seed, progress=told)
        asked = mixed(mine, fitted.head, mine.mixture.samples, 0.5)
        before = seconds_of(report, "signals", "tokenizer", "trunk")
        notes = {"epochs": fitted.epochs, "lead": fitted.lead}
        seconds = before + time.perf_counter() - started
        return Fitted.of(asked, parameters(asked), {"head": list(overrides)}, seconds=seconds, notes=notes)

    return fit


row("contrec-without-dispersive", "ablations")(_other_head("contrec", "head.dispersive=0.0"))
row("deftrec-mixture-half", "ablations")(_other_head("deftrec"))
row("deftrec-margin", "ablations")(_other_head("deftrec", "head.negatives=margin"))
row("deftrec-preferdiff", "ablations")(_other_head("deftrec", "head.negatives=preferdiff"))
row("contrec-without-sigma-mixture-half", "ablations")(_variant("tokenizer.sigma=0.0", weight=0.5))
row("contrec-without-sigma", "guards")(_variant("tokenizer.sigma=0.0"))
row("contrec-without-feature-mask", "guards")(_variant("tokenizer.feature_mask=0.0"))
row("contrec-without-block-mask", "guards")(_variant("tokenizer.block_mask=0.0"))
row("contrec-without-decorrelation", "guards")(_variant("tokenizer.decorrelation=0.0"))
row("contrec-without-norm", "guards")(_variant("tokenizer.normalise=false"))
row("contrec-one-way", "guards")(_variant("tokenizer.ways=1", "tokenizer.token_dim=128"))
row("contrec-all-seen", "guards")(_variant("trunk.exclude_seen=false"))


def _with_mixture(samples: int, weight: float) -> Callable[[Ask], Fitted]:
    def fit(ask: Ask) -> Fitted:
        path, report = contrec_bundle(ask)
        mine, _ = halves(load_recommender(path))
        asked = mixed(mine, mine.head, samples, weight)
        return part_of(asked, report, {"lambda": weight, "samples": samples})

    return fit


row("contrec-trunk-only", "parts of contrec")(_with_mixture(1, 0.0))
row("contrec-one-sample", "parts of contrec")(_with_mixture(1, 1.0))
row("contrec-mixture-half", "parts of contrec")(_with_mixture(8, 0.5))
row("contrec-mixture-alone", "parts of contrec")(_with_mixture(8, 1.0))
