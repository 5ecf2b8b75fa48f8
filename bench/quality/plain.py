"""The row `plain-diffusion`: denoising as published, on the same frozen trunk and item space as ContRec.

What DreamRec (arXiv 2310.20453) and its heirs do, and ContRec's code in kind: the item vector of the next item at unit
variance per element (length sqrt(width)), uniform times, squared error of the predicted clean vector, no anchor, no
catalogue softmax, a tenth of the rows without a condition; a list is the items nearest (inner product) to one sample
that was denoised in `STEPS` steps from noise, each drawn from the posterior q(x_s | x_t, x0_hat), guided as far as
validation wants (their w). Nothing else differs from the head of ContRec: width, blocks, conditions, optimiser, steps
of training and the users of validation are the same, so the row says what anchoring, scale and the softmax are worth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
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
from training.stages.head import descend, head_optimiser
from training.stages.trunk import read_states
from training.stages.windows import Windows

STEPS = 200
GUIDANCE = (0.0, 2.0)  # theirs is 2
UNCONDITIONAL = 0.1
TIMES = tuple(1 - step / STEPS for step in range(STEPS + 1))  # 1, .995, ... .005, 0


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
    optimiser = head_optimiser(head, part)
    windows = Windows(*ask.prepared.train_histories(), trunk_part.max_history, trunk_part.max_profile)
    batches = windows.forever(trunk_part.tokens_per_step, ask.seed)
    best: tuple[float, float, dict[str, torch.Tensor]] = (-1.0, 0.0, {})
    for epoch in range(1, part.epochs + 1):
        trunk.train()  # dropout on, as for ContRec's head
        total = 0.0
        for step in range((epoch - 1) * part.steps_per_epoch, epoch * part.steps_per_epoch):
            with torch.no_grad():
                conditions, _, targets = read_states(trunk, vectors, next(batches))
            some = torch.randperm(len(targets), generator=generator)[: part.positions_per_step]
            x0 = head.clean(vectors[targets[some]])
            t = torch.rand(len(some), generator=generator)
            noise = torch.randn(x0.shape, generator=generator)
            unknown = torch.rand(len(some), generator=generator) < UNCONDITIONAL
            condition, _ = head.anonymous(conditions[some].float(), torch.zeros_like(x0), unknown)
            # The network itself: no anchor beneath it, and not faded out towards pure noise.
            x0_hat, _ = head.residual(head.noised(x0, t, noise), t, condition)
            loss = F.mse_loss(x0_hat, x0)
            descend(head, optimiser, loss, part, step)
            total += float(loss.detach())
        trunk.eval()
        head.eval()
        for guidance in GUIDANCE:
            asked = _Scorer(mine, head, guidance)
            users = trunk_part.validation_users
            found = evaluate(asked, ask.prepared, "validation", users=users, seed=ask.seed).ndcg(10)
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


def posterior(t: float, s: float) -> tuple[float, float, float]:
    """Weights of x_t, of x0 and of fresh noise in a draw from q(x_s | x_t, x0), s < t.

    The forward process is x_t = r x_s + n, r = alpha_t / alpha_s, Var n = sigma_t^2 - r^2 sigma_s^2 =: v (so that
    Var(x_t | x0) = r^2 sigma_s^2 + v = sigma_t^2), and x_s given x0 is N(alpha_s x0, sigma_s^2). Bayes of the two:
    precision 1 / sigma_s^2 + r^2 / v = sigma_t^2 / (sigma_s^2 v), hence

        mean = (r sigma_s^2 x_t + v alpha_s x0) / sigma_t^2,    variance = sigma_s^2 v / sigma_t^2

    (Kingma et al. 2021, arXiv 2107.00630, appendix A; DDPM's posterior, arXiv 2006.11239, eq. 7, for any two times).
    From pure noise, alpha_t = 0, it is q(x_s | x0); at s = 0 it is x0.
    """
    (alpha_t, alpha_s), (sigma_t, sigma_s) = (pair.tolist() for pair in schedule(torch.tensor([t, s]).double()))
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - (ratio * sigma_s) ** 2
    return ratio * sigma_s**2 / sigma_t**2, added * alpha_s / sigma_t**2, sigma_s * math.sqrt(added) / sigma_t


def ancestral(
    predict: Callable[[torch.Tensor, float], torch.Tensor], noise: torch.Tensor, times: tuple[float, ...]
) -> torch.Tensor:
    """A sample (B, W) by ancestral sampling through falling times from 1 to 0.

    predict: (x_t (B, W), t) -> x0_hat (B, W). noise: (len(times) - 1, B, W), x_1 and a draw for each step but the last,
    which needs none.
    """
    x = noise[0]
    # At s = 0 the weight of fresh noise is zero; any finite noise will do.
    for (t, s), fresh in zip(pairwise(times), [*noise[1:], noise[0]], strict=True):
        of_x, of_x0, of_noise = posterior(t, s)
        x = of_x * x + of_x0 * predict(x, t) + of_noise * fresh
    return x


class _Scorer:
    """One sample from the same noise for everybody. guidance: w of (1 + w) x(h) - w x(nothing)."""

    def __init__(self, recommender: ContinuousRecommender, head: Head, guidance: float) -> None:
        self._recommender, self._head, self._guidance = recommender, head, guidance
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randn(STEPS, 1, head.shape.width, generator=generator)

    @torch.inference_mode()
    def __call__(self, users: np.ndarray[Any, np.dtype[np.int64]], histories: list[Rows]) -> Floats:
        head, vectors = self._head, self._recommender.vectors
        condition = torch.from_numpy(np.stack([token.condition for token in self._recommender.encode(histories)]))
        everybody = torch.ones(len(condition), dtype=torch.bool)
        unknown, _ = head.anonymous(condition, torch.zeros_like(condition), everybody)

        def predict(x_t: torch.Tensor, time_: float) -> torch.Tensor:
            t = torch.full((len(condition),), time_)
            x0, _ = head.residual(x_t, t, condition)
            if self._guidance:
                x0 = x0 + self._guidance * (x0 - head.residual(x_t, t, unknown)[0])
            return x0

        sample = ancestral(predict, self._noise.expand(-1, *condition.shape), TIMES)
        scores: Floats = (sample @ F.normalize(vectors, dim=1).T).numpy()
        return scores
