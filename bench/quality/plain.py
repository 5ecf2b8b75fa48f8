"""The row `plain-diffusion`: denoising as published, on the same frozen trunk and item space as ContRec.

What DreamRec (arXiv 2310.20453) and its heirs do, and ContRec's code in kind: the item vector of the next item at unit
variance per element (length sqrt(width)), uniform times, squared error of the predicted clean vector, no anchor, no
catalogue softmax, a tenth of the rows without a condition; a list is the items nearest (inner product) to one sample
that was denoised in `STEPS` steps from noise, guided as far as validation wants (their w). Nothing else differs from
the head of ContRec: width, blocks, steps of training and conditions are the same, so the row says what anchoring, scale
and the softmax are worth.
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
from model.continuous.head import Head, HeadShape, schedule
from model.continuous.recommender import ContinuousRecommender
from model.recommender import Floats
from training.evaluate import evaluate
from training.stages.trunk import read_states
from training.stages.windows import Windows

STEPS = 200
GUIDANCE = (0.0, 2.0)  # theirs is 2
UNCONDITIONAL = 0.1
TIMES = tuple(1 - step / STEPS for step in range(1, STEPS))  # .995, .99, ... .005, after pure noise


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
    best: tuple[float, float, dict[str, torch.Tensor]] = (-1.0, 0.0, {})
    for epoch in range(1, part.epochs + 1):
        trunk.train()  # dropout on, as for ContRec's head
        total = 0.0
        for _ in range(part.steps_per_epoch):
            with torch.no_grad():
                conditions, _, targets = read_states(trunk, vectors, next(batches))
            some = torch.randperm(len(targets), generator=generator)[: part.positions_per_step]
            x0 = head.clean(vectors[targets[some]])
            t = torch.rand(len(some), generator=generator)
            noise = torch.randn(x0.shape, generator=generator)
            unknown = torch.rand(len(some), generator=generator) < UNCONDITIONAL
            condition, _ = head.anonymous(conditions[some].float(), torch.zeros_like(x0), unknown)
            x0_hat = _predicted(head, head.noised(x0, t, noise), t, condition)
            loss = F.mse_loss(x0_hat, x0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
        trunk.eval()
        head.eval()
        for guidance in GUIDANCE:
            asked = _Scorer(mine, head, guidance)
            found = evaluate(asked, ask.prepared, "validation", users=2000, seed=ask.seed).ndcg(10)
            values = {"loss": total / part.steps_per_epoch, "ndcg@10": found}
            told(f"plain diffusion w={guidance:g}", epoch, part.epochs, values)
            if found > best[0]:
                best = found, guidance, {name: value.clone() for name, value in head.state_dict().items()}
        head.train()
    head.load_state_dict(best[2])
    configuration: dict[str, Any] = {
        **{"steps": STEPS, "norm": head.shape.norm, "loss": "squared error", "anchor": False},
        **{"guidance": best[1], "unconditional": UNCONDITIONAL},
    }
    count = sum(p.numel() for p in [*trunk.parameters(), *head.parameters()]) + mine.index.matrix.size
    before = sum(report["seconds"].get(stage, 0.0) for stage in ("signals", "tokenizer", "trunk"))
    return Fitted(_Scorer(mine, head.eval(), best[1]), count, configuration, before + time.perf_counter() - started)


def _predicted(head: Head, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """What the network itself gives: no anchor beneath it, and not faded out towards pure noise."""
    faded, _ = head(x_t, t, condition, torch.zeros_like(x_t))
    return faded / schedule(t)[0].clamp(min=1e-3)[:, None]


class _Scorer:
    """One sample from the same noise for everybody. guidance: w of (1 + w) x(h) - w x(nothing)."""

    def __init__(self, recommender: ContinuousRecommender, head: Head, guidance: float) -> None:
        self._recommender, self._head, self._guidance = recommender, head, guidance
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randn(1, len(TIMES) + 1, head.shape.width, generator=generator)

    @torch.inference_mode()
    def __call__(self, users: np.ndarray[Any, np.dtype[np.int64]], histories: list[Rows]) -> Floats:
        head, vectors = self._head, self._recommender.vectors
        condition = torch.from_numpy(np.stack([token.condition for token in self._recommender.encode(histories)]))
        nothing = torch.zeros_like(condition)
        unknown, _ = head.anonymous(condition, nothing, torch.ones(len(condition), dtype=torch.bool))
        x_t = self._noise[:, 0].expand_as(condition)
        sample = nothing
        for step, time_ in enumerate((1.0, *TIMES)):
            t = torch.full((len(condition),), time_)
            if step:
                x_t = head.noised(head.clean(sample), t, self._noise[:, step].expand_as(condition))
            sample = _predicted(head, x_t, t, condition)
            if self._guidance:
                sample = sample + self._guidance * (sample - _predicted(head, x_t, t, unknown))
        scores: Floats = (sample @ F.normalize(vectors, dim=1).T).numpy()
        return scores
