"""Stage one: trunk and item space by cross-entropy over the whole catalogue, every position supervised.

    fitted = fit_trunk(prepared, tokens, recipe.trunk, seed=0)     # the best checkpoint by validation NDCG@10

Gate 0 of the methods: with nothing else added, this must be a strong sequential recommender (docs/quality.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cold import starting_bias
from model.continuous.backbone import BackboneShape, Trunk
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from model.continuous.space import ItemSpace, Space
from training.data.prepared import Prepared
from training.evaluate import evaluate, recommender_scorer
from training.progress import Progress, silent
from training.stages.loop import EVERY, Loop, own_randomness
from training.stages.precision import products
from training.stages.schedule import learning_rate
from training.stages.softmax import Without, catalogue_cross_entropy
from training.stages.windows import Batch, Windows

if TYPE_CHECKING:
    from training.recipes.continuous import TrunkPart

ANCHOR_ONLY = Mixture(samples=1, times=(0.5,), weight=0.0)


@dataclass(frozen=True, slots=True)
class FittedTrunk:
    """The trunk, the item space it was trained with, and what each epoch gave."""

    trunk: Trunk
    space: Space
    epochs: list[dict[str, float]]
    best_epoch: int  # from 1

    def recommender(self, prepared: Prepared, max_profile: int) -> ContinuousRecommender:
        """The trunk alone as a recommender, through the code that serves."""
        return anchor_recommender(self.trunk, self.space, prepared, max_profile)


def fit_trunk(
    prepared: Prepared,
    tokens: Tensor,
    part: TrunkPart,
    *,
    seed: int,
    trunk: Trunk | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
    make_space: Callable[[Tensor, int], Space] = ItemSpace,
    section: str = "trunk",
) -> FittedTrunk:
    """tokens (N, K, D) from the tokenizer, or whatever `make_space` makes the item space of.

    Stops after `patience` epochs without a better validation NDCG@10.

    trunk: one to tune (training/language.py), else a new one. checkpoint: a file to go on from
    (training/stages/loop.py). section: of the recipe, for messages.
    Raises ValueError where there is no training interaction, or nobody to validate on.
    """
    windows = Windows(*prepared.train_histories(), part.max_history, part.max_profile)
    if len(windows) == 0:
        raise ValueError("the prepared data holds no training interaction")
    size = max(1, windows.step(part.tokens_per_step) // part.accumulate)  # positions at once
    with own_randomness(seed, device):
        given = trunk is not None
        if trunk is None:
            trunk = new_trunk(part)
        trunk = trunk.to(device)
        space = make_space(tokens, part.width).to(device)
        optimiser = _optimiser(trunk, space, part, given)
        batches = len(windows.batches(size, np.random.default_rng((seed, 0))))
        total = part.epochs * math.ceil(batches / part.accumulate)
        modules = {"trunk": trunk, "space": space}
        loop = Loop(checkpoint, modules, optimiser, device=device, every=keep_every)
        place = loop.place
        while place.epoch < part.epochs and place.epoch - place.best_epoch < part.patience:
            if place.batch == 0:
                torch.manual_seed(seed * 100_003 + place.epoch)  # dropout depends on seed and epoch alone
            trunk.train()
            loss_sum, positions = place.sums or (0.0, 0.0)
            epoch = windows.epoch(size, seed, place.epoch, skip=place.batch * part.accumulate)
            while together := list(itertools.islice(epoch, part.accumulate)):
                for group in optimiser.param_groups:
                    group["lr"] = group["top"] * learning_rate(place.step, total, part.warmup_steps)
                optimiser.zero_grad()
                count = sum(int(batch.lengths.sum()) for batch in together)
                losses = 0.0
                for batch in together:
                    loss, own = _loss(trunk, space, batch, part)
                    (loss * (own / count)).backward()
                    losses += float(loss.detach()) * own
                nn.utils.clip_grad_norm_([*trunk.parameters(), *space.parameters()], 1.0)
                optimiser.step()
                loss_sum, positions = loss_sum + losses, positions + count
                place.sums = [loss_sum, positions]
                loop.step()
            # The last step of an epoch may have broken what no loss has seen since.
            with torch.no_grad():
                weights = [float(tensor.abs().max()) for tensor in (space().norm(dim=1), *trunk.parameters())]
            loop.check(f"the {section.replace('_', ' ')}", f"{section}.learning_rate", loss_sum, *weights)
            recommender = anchor_recommender(trunk, space, prepared, part.max_profile)
            metrics = evaluate(
                recommender_scorer(recommender), prepared, "validation", users=part.validation_users, seed=seed
            )
            values = {"loss": loss_sum / positions, "hr@10": metrics.hr(10), "ndcg@10": metrics.ndcg(10)}
            loop.keep_if_best(values["ndcg@10"])
            loop.next_epoch(values)
            progress("trunk", place.epoch, part.epochs, values)
        loop.finish()
    return FittedTrunk(trunk.eval(), space, place.epochs, place.best_epoch)


def new_trunk(part: TrunkPart) -> Trunk:
    """One of our own, untrained."""
    sizes = (part.width, part.layers, part.heads, part.feed_forward, part.max_history, part.kernel)
    return Trunk(BackboneShape(*sizes), part.dropout)


def anchor_recommender(trunk: Trunk, space: Space, prepared: Prepared, max_profile: int) -> ContinuousRecommender:
    """g(h) alone, in the recommender that serves; the head in it is untrained and unused."""
    width = trunk.backbone.shape.width
    counts = torch.from_numpy(prepared.train_counts())
    vectors, bias = served(space, counts)
    with own_randomness(0):  # drawn for nothing, but a text half takes them along into its bundle
        head = Head(HeadShape(width, hidden=8, blocks=1, norm=1.0))
    return ContinuousRecommender(
        prepared.catalogue,
        trunk,
        head,
        vectors,
        bias,
        counts,
        ANCHOR_ONLY,
        max_profile=max_profile,
        device=str(vectors.device),
    )


@torch.no_grad()
def served(space: Space, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (N, W) and biases (N,) as they are served. counts: (N,) interactions in training.

    An item that nobody has met was never the answer, so the softmax has pushed it away for as long as it trained: it
    lies where a new one would, and starts from what a new one starts from.
    """
    vectors, bias, placed = space().float().clone(), space.bias.float().clone(), space.placed()
    if placed is not None:
        unmet = (counts == 0).to(vectors.device)
        vectors[unmet], bias[unmet] = placed.float()[unmet], starting_bias(bias.cpu(), counts)
    return vectors, bias


def read_states(trunk: Trunk, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Item vectors (N, W) and a batch -> of its P real positions: conditions (P, W), the trunk's own vectors (P, W) and
    the rows (P,) that come next."""
    rows, real = batch.rows.to(vectors.device), batch.real.to(vectors.device)
    profile, has_profile = _mean_before(vectors, batch.before)
    windows, longest = rows.shape
    # Windows of nothing, and positions of nothing at the end of each.
    more, longer = few_sizes(windows), min(few_sizes(longest), trunk.backbone.shape.max_history + 1)
    own = (0, more - windows)
    both = (0, max(0, longer - longest), *own)
    read, wanted = F.pad(rows, both)[:, :-1], F.pad(real, both)
    profile, has_profile = F.pad(profile, (0, 0, *own)), F.pad(has_profile, own)
    states = trunk.backbone(F.embedding(read, vectors), profile, has_profile, read)  # (B, L, W), padded
    return states[wanted], trunk.g(states)[wanted], rows[real]


def few_sizes(size: int) -> int:
    """The next of a few sizes, at most a sixteenth above.

    For each shape of a product in bfloat16 oneDNN makes code, and keeps that of a thousand. Where no two batches are
    alike that is up to a third of the time of training (bench/training/shapes.py).
    """
    step = 1 << max(0, size.bit_length() - 5)
    return step * math.ceil(size / step)


def seen_by(batch: Batch, part: TrunkPart, device: torch.device, some: Tensor | None = None) -> Without | None:
    """What the softmax at `some` of the positions does without (`Batch.seen`); None where the recipe has it all in."""
    if not part.exclude_seen:
        return None
    return batch.seen(None if some is None else some.cpu()).to(device)


def _mean_before(vectors: Tensor, before: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean vector (B, W) of the rows of each profile, zero for an empty one; (B,) whether there is one."""
    lengths = torch.tensor([len(rows) for rows in before])
    starts = lengths.cumsum(0) - lengths
    flat = torch.cat(before)
    has_profile = (lengths > 0).to(vectors.device)
    if not len(flat):
        return vectors.new_zeros(len(before), vectors.shape[1]), has_profile
    return F.embedding_bag(flat.to(vectors.device), vectors, starts.to(vectors.device), mode="mean"), has_profile


def _loss(trunk: Trunk, space: Space, batch: Batch, part: TrunkPart) -> tuple[Tensor, int]:
    vectors = space()
    with products(vectors.device, part.bf16):
        _, preference, targets = read_states(trunk, vectors, batch)
    without = seen_by(batch, part, vectors.device)
    loss = catalogue_cross_entropy(preference.float(), vectors, space.bias, targets, bf16=part.bf16, without=without)
    return loss, len(targets)


def _optimiser(trunk: Trunk, space: Space, part: TrunkPart, given: bool) -> torch.optim.Optimizer:
    """given: the language model inside the trunk was trained before, and has a rate of its own."""
    known = {id(p) for p in trunk.backbone.lm.parameters()} if given else set()
    groups = []
    for pretrained, top in ((False, part.learning_rate), (True, part.pretrained_rate)):
        both = [*trunk.parameters(), *space.parameters()]
        weights = [p for p in both if p.requires_grad and pretrained == (id(p) in known)]
        for decay, matrices in ((part.weight_decay, True), (0.0, False)):
            some = [p for p in weights if (p.ndim >= 2) == matrices]
            if some:
                groups.append({"params": some, "weight_decay": decay, "lr": top, "top": top})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))
