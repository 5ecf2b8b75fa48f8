"""Stage two: the diffusion head on the frozen trunk, and what of it validation wants in the mixture.

    fitted = fit_head(prepared, anchor, recipe.head, recipe.trunk, seed=0)

Conditions are made with dropout on: at training positions the trunk already knows its targets, and a head fed with
those conditions lowers the ranking. The best of a dozen (epoch, lambda) pairs is a little better than the trunk by
chance alone, on the users who chose it. So one half of the validation users chooses, and the head is mixed in only
where its lead is surer than chance on the other half; the report tells that lead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from model.continuous.backbone import Trunk
from model.continuous.head import Head, HeadShape, direction_loss, dispersive_loss, draw_times
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from training.data.prepared import Prepared
from training.progress import Progress, silent
from training.stages.loop import EVERY, Loop, own_randomness
from training.stages.negatives import Disliked, centroids, margin_loss, pairwise_loss, preferdiff_loss
from training.stages.precision import products
from training.stages.softmax import catalogue_cross_entropy
from training.stages.trunk import read_states, seen_by
from training.stages.validation import Validation, lead_over, two_halves
from training.stages.windows import Batch, Windows

if TYPE_CHECKING:
    from training.recipes.continuous import HeadPart, TrunkPart

LOSSES = ("loss", "direction", "dispersive", "negative")
# Of cosines. The published flag is `margin = 2` (literature.md 1.2), read as a hinge on squared distances; of unit
# vectors d^2 = 2 - 2 cos, so max(0, 2 + d_pos^2 - d_neg^2) = 2 max(0, 1 - cos_pos + cos_neg).
MARGIN = 1.0
GAMMA = 5.0  # PreferDiff's, for all of its data sets


@dataclass(frozen=True, slots=True)
class FittedHead:
    """The best head, the mixture to serve, what each epoch and weight gave, and the lead of the best over the trunk.

    guidance: validation NDCG@10 of the best weight by how far its samples were guided; as in `epochs`, of the half of
    the users that chooses.
    lead: difference of validation NDCG@10 on the other half, with its 95 % bootstrap interval over users (mean, low,
    high); None where that half is too small to tell. Where low is not above zero the mixture has weight 0: the
    trunk alone answers, and the head only serves `explore`.
    users: how many chose, and how many the lead is of.
    """

    head: Head
    mixture: Mixture
    epochs: list[dict[str, float]]
    lead: tuple[float, float, float] | None = None
    guidance: dict[float, float] = field(default_factory=dict)
    users: tuple[int, int] = (0, 0)


def fit_head(
    prepared: Prepared,
    anchor: ContinuousRecommender,
    part: HeadPart,
    trunk_part: TrunkPart,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
) -> FittedHead:
    """Trains f with the catalogue softmax, the direction and the dispersive loss. The trunk is not changed.

    anchor: the trunk alone, as `FittedTrunk.recommender` makes it; it may come from a bundle, then its mixture is left
    aside. checkpoint: a file to go on from (training/stages/loop.py).
    """
    trunk, vectors, bias = anchor.trunk, anchor.vectors, anchor.bias
    trunk.backbone.dropout = trunk_part.dropout  # a bundle keeps none
    generator = torch.Generator(device).manual_seed(seed)
    with own_randomness(seed, device):
        head = Head(HeadShape(trunk_part.width, part.hidden, part.blocks, part.norm)).to(device)
        optimiser = head_optimiser(head, part)
        validate = Validation(anchor, prepared, trunk_part.validation_users, seed)
        standing = Mixture(part.samples, part.times, 0.0)
        _, alone = two_halves(validate(anchor.with_head(head, standing)))
        loop = Loop(checkpoint, {"head": head}, optimiser, generator=generator, device=device, every=keep_every)
        place = loop.place
        windows = Windows(*prepared.train_histories(), trunk_part.max_history, trunk_part.max_profile)
        batches = windows.forever(trunk_part.tokens_per_step, seed, skip=place.step)
        disliked = Disliked(*prepared.train_negatives())
        while place.epoch < part.epochs:
            trunk.train()  # dropout on: see the module's opening
            sums = np.array(place.sums or np.zeros(len(LOSSES)))
            while place.batch < part.steps_per_epoch:
                losses = _losses(head, trunk, vectors, bias, next(batches), part, trunk_part, generator, disliked)
                weights = (1.0, part.direction, part.dispersive, part.negative)
                loss = sum((weight * one for weight, one in zip(weights, losses, strict=True)), start=losses[0] * 0)
                descend(head, optimiser, loss, part, place.step)
                sums += [float(value.detach()) for value in losses]
                place.sums = sums.tolist()
                loop.step()
            trunk.eval()
            loop.check("the head", "head.learning_rate", *sums)
            values = dict(zip(LOSSES, (sums / part.steps_per_epoch).tolist(), strict=True))
            for weight in sorted({w for w in part.weights if w > 0}):
                mixture = replace(standing, weight=weight)
                chose, _ = two_halves(validate(anchor.with_head(head, mixture)))
                values[f"ndcg@10 lambda={weight:g}"] = chose.ndcg(10)
                loop.keep_if_best(chose.ndcg(10), weight)
            loop.next_epoch(values)
            progress("head", place.epoch, part.epochs, values)
        loop.finish()
        head.eval()
        if place.best is None:
            return FittedHead(head, standing, place.epochs)
        mixtures = [replace(standing, weight=place.best_weight, guidance=guidance) for guidance in part.guidance]
        found = [two_halves(validate(anchor.with_head(head, mixture))) for mixture in mixtures]
    guidance = {mixture.guidance: chose.ndcg(10) for mixture, (chose, _) in zip(mixtures, found, strict=True)}
    best = int(np.argmax(list(guidance.values())))
    lead = lead_over(found[best][1], alone)
    served = mixtures[best] if lead is not None and lead[1] > 0 else standing
    users = (len(found[best][0].users), len(alone.users))
    return FittedHead(head, served, place.epochs, lead, guidance, users)


def head_optimiser(head: Head, part: HeadPart) -> torch.optim.Optimizer:
    """For `descend`."""
    return torch.optim.AdamW(head.parameters(), lr=part.learning_rate, betas=(0.9, 0.98))


def descend(head: Head, optimiser: torch.optim.Optimizer, loss: Tensor, part: HeadPart, step: int) -> None:
    """Step number `step`, from 0: the rate falls linearly to zero over training, gradients are clipped at norm 1."""
    for group in optimiser.param_groups:
        group["lr"] = part.learning_rate * (1 - step / (part.epochs * part.steps_per_epoch))
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(head.parameters(), 1.0)
    optimiser.step()


def _losses(
    head: Head,
    trunk: Trunk,
    vectors: Tensor,
    bias: Tensor,
    batch: Batch,
    part: HeadPart,
    trunk_part: TrunkPart,
    generator: torch.Generator,
    disliked: Disliked,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those named in LOSSES at drawn times; fresh noise on every call."""
    device = vectors.device
    with torch.no_grad(), products(device, trunk_part.bf16):
        conditions, anchor, targets = read_states(trunk, vectors, batch)
    some = torch.randperm(len(targets), generator=generator, device=device)[: part.positions_per_step]
    condition, anchor, target = conditions[some].float(), anchor[some].float(), targets[some]
    unknown = torch.rand(len(target), generator=generator, device=device) < part.unconditional
    condition, anchor = head.anonymous(condition, anchor, unknown)
    x0 = head.clean(vectors[target])
    t = draw_times(len(target), part.time_shift, generator, device)
    noise = torch.randn(x0.shape, generator=generator, device=device)
    x0_hat, activation = head(head.noised(x0, t, noise), t, condition, anchor)
    without = seen_by(batch, trunk_part, device, some)
    softmax = catalogue_cross_entropy(x0_hat, vectors, bias, target, bf16=trunk_part.bf16, without=without)
    negative = x0_hat.new_zeros(())
    if part.negative > 0 and part.negatives == "preferdiff":
        centroid = head.clean(centroids(vectors, target))
        its_noise = torch.randn(x0.shape, generator=generator, device=device)
        its_hat, _ = head(head.noised(centroid, t, its_noise), t, condition, anchor)
        negative = preferdiff_loss(x0_hat, x0, its_hat, centroid, GAMMA)
    elif part.negative > 0:
        users = batch.users[:, None].expand(batch.rows.shape)[batch.real].to(device)[some]
        rows, has = disliked.draw(users, generator)
        if part.negatives == "softmax":
            items = torch.cat([vectors, bias[:, None]], dim=1)
            negative = pairwise_loss(x0_hat, items[target], items[rows], has)
        else:  # where nobody said what they dislike, what the others of the batch took stands in for it
            chosen = torch.where(has[:, None], vectors[rows], centroids(vectors, target))
            negative = margin_loss(x0_hat, x0, chosen, MARGIN)
    return softmax, direction_loss(x0_hat, x0, t), dispersive_loss(activation), negative
