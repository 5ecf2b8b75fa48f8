"""LightGCN as a recommender of its own: the inner product of a user's and an item's embedding, and no order.

What it learns is what `signals.collaborative=lightgcn` gives ContRec. A user is who they were in training: the event
that was held out for validation is not read at the test, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.quality.models import Ask, Fitted, row
from bench.quality.tuning import validation_ndcg
from model.catalogue import Rows
from model.recommender import Floats
from training.stages.lightgcn import fit_graph
from training.train import reproducibly

DIM, LAYERS = 64, 3  # as He et al. 2020
RATES = (5e-3, 2e-2)
MOST, EVERY, PATIENCE = 600, 10, 50  # epochs: at most, between two looks at validation, without a better one


@dataclass(frozen=True, slots=True)
class InnerProduct:
    """users (U, D), items (N, D)."""

    users: Floats
    items: Floats

    def __call__(self, users: NDArray[np.int64], histories: list[Rows]) -> Floats:
        scores: Floats = self.users[users] @ self.items.T
        return scores


@dataclass(slots=True)
class _Best:
    """The best embeddings on validation so far, over all rates."""

    ask: Ask
    scorer: InnerProduct | None = None
    ndcg: float = -1.0
    rate: float = 0.0
    epoch: int = 0

    def watch(self, rate: float) -> Callable[[int, Callable[[], tuple[Floats, Floats]]], bool]:
        """What `fit_graph` calls after each epoch of the fit with that rate; each rate has its own patience."""
        reached, at = -1.0, 0

        def look(epoch: int, embed: Callable[[], tuple[Floats, Floats]]) -> bool:
            nonlocal reached, at
            if epoch % EVERY:
                return False
            now = InnerProduct(*embed())
            found = validation_ndcg(now, self.ask)
            print(f"lightgcn {rate} {epoch}/{MOST} ndcg@10={found:.4f}", flush=True)  # noqa: T201
            if found > reached:
                reached, at = found, epoch
            if found > self.ndcg:
                self.scorer, self.ndcg, self.rate, self.epoch = now, found, rate, epoch
            return epoch - at >= PATIENCE

        return look


@row("lightgcn", "baselines")
def lightgcn(ask: Ask) -> Fitted:
    """Embeddings by propagation over the graph of who took what (He et al. 2020); rate and epochs from validation."""
    reproducibly()
    best, size = _Best(ask), len(ask.prepared.catalogue)
    offsets, items = ask.prepared.train_histories()
    for rate in RATES:
        how = {"dim": DIM, "layers": LAYERS, "epochs": MOST, "rate": rate, "seed": ask.seed}
        fit_graph(offsets, items, size, **how, watch=best.watch(rate))
    assert best.scorer is not None
    chosen = {"dim": DIM, "layers": LAYERS, "rate": best.rate, "epochs": best.epoch, "rates": list(RATES)}
    return Fitted(best.scorer, best.scorer.users.size + best.scorer.items.size, chosen)
