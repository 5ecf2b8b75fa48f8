"""The row `plain-diffusion`: denoising as published, on the same frozen trunk and item space as ContRec.

What DreamRec (arXiv 2310.20453) and its heirs do, and ContRec's code in kind: the item vector of the next item at unit
variance per element (length sqrt(width)), uniform times, squared error of the predicted clean vector, no anchor, no
catalogue softmax; a list is the items nearest (inner product) to one sample that was denoised in `STEPS` steps from
noise. Nothing else differs from the head of ContRec: width, blocks, steps of training and conditions are the same, so
the row says what anchoring, scale and the softmax are worth.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.quality.models import Ask, Fitted, row
from bench.quality.neural import contrec_bundle, halves, told
from bench.quality.tuning import trunk_recipe, tuned
from model import load_recommender
from model.catalogue import Rows
from model.continuous.head import Head, HeadShape
from model.continuous.recommender import ContinuousRecommender
from model.recommender import Floats
from training.evaluate import evaluate
from training.stages.trunk import read_states
from training.stages.windows import Windows

STEPS = 20
TIMES = tuple(1 - step / STEPS for step in range(1, STEPS))  # .95, .90, ... .05, after pure noise


@row("plain-diffusion", "ablations")
def plain_diffusion(ask: Ask) -> Fitted:
    """Plain conditional diffusion as published, one sample a list."""
    path, report = contrec_bundle(ask)
    started = time.perf_counter()
    mine, _ = halves(load_recommender(path))
    recipe = trunk_recipe([*ask.set.overrides, *tuned(ask.set_name, "contrec")])
    part, trunk_part = recipe.head, recipe.trunk
    trunk, vectors = mine.trunk, mine.vectors
    trunk.backbone.dropout = trunk_part.dropout  # a bundle keeps none
    torch.manual_seed(ask.seed)
    generator = torch.Generator().manual_seed(ask.seed)
    head = Head(HeadShape(trunk_part.width, part.hidden, part.blocks, trunk_part.width**0.5))
    optimiser = torch.optim.AdamW(head.parameters(), lr=part.learning_rate, betas=(0.9, 0.98))
    windows = Windows(*ask.prepared.train_histories(), trunk_part.max_history, trunk_part.max_profile)
    batches = windows.forever(trunk_part.tokens_per_step, ask.seed)
    best: tuple[float, dict[str, torch.Tensor]] = (-1.0, {})
    for epoch in range(1, part.epochs + 1):
        trunk.train()  # dropout on, as for ContRec's head
        total = 0.0
        for _ in range(part.steps_per_epoch):
            with torch.no_grad():
                conditions, targets = read_states(trunk, vectors, next(batches))
            some = torch.randperm(len(targets), generator=generator)[: part.positions_per_step]
            x0 = head.clean(vectors[targets[some]])
            t = torch.rand(len(some), generator=generator)
            noise = torch.randn(x0.shape, generator=generator)
            x0_hat, _ = head(head.noised(x0, t, noise), t, conditions[some], torch.zeros_like(x0))
            loss = F.mse_loss(x0_hat, x0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
        trunk.eval()
        found = evaluate(_Scorer(mine, head.eval()), ask.prepared, "validation", users=6000, seed=ask.seed).ndcg(10)
        told("plain diffusion", epoch, part.epochs, {"loss": total / part.steps_per_epoch, "ndcg@10": found})
        if found > best[0]:
            best = found, {name: value.clone() for name, value in head.state_dict().items()}
        head.train()
    head.load_state_dict(best[1])
    configuration: dict[str, Any] = {"steps": STEPS, "norm": head.shape.norm, "loss": "squared error", "anchor": False}
    count = sum(p.numel() for p in [*trunk.parameters(), *head.parameters()]) + mine.index.matrix.size
    before = sum(report["seconds"].get(stage, 0.0) for stage in ("signals", "tokenizer", "trunk"))
    return Fitted(_Scorer(mine, head.eval()), count, configuration, before + time.perf_counter() - started)


class _Scorer:
    """One sample from the same noise for everybody."""

    def __init__(self, recommender: ContinuousRecommender, head: Head) -> None:
        self._recommender, self._head = recommender, head
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randn(1, len(TIMES) + 1, head.shape.width, generator=generator)

    @torch.inference_mode()
    def __call__(self, users: np.ndarray[Any, np.dtype[np.int64]], histories: list[Rows]) -> Floats:
        head, vectors = self._head, self._recommender.vectors
        condition = torch.from_numpy(np.stack([token.condition for token in self._recommender.encode(histories)]))
        nothing = torch.zeros_like(condition)
        x_t = self._noise[:, 0].expand_as(condition)
        sample = nothing
        for step, time_ in enumerate((1.0, *TIMES)):
            t = torch.full((len(condition),), time_)
            if step:
                x_t = head.noised(head.clean(sample), t, self._noise[:, step].expand_as(condition))
            sample, _ = head(x_t, t, condition, nothing)
        scores: Floats = (sample @ F.normalize(vectors, dim=1).T).numpy()
        return scores
