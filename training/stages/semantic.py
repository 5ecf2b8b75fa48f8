"""The semantic network by two losses at every transition: catalogue softmax, and coherent denoising of the digits.

    fitted = fit_semantic(prepared, digits, recipe.network, seed=0)   # the best checkpoint by validation NDCG@10

The fully masked pass gives every item a score, trained by cross-entropy over the whole catalogue. The same pass says
how sure the network is of each digit; from that come the nested views of on-policy coherent noising (DiffGRM, arXiv
2510.21805, section 3.3): view v hides the v digits it is least sure of and shows the true ones. Difficulty is taken
from the very forward pass that is trained, so there is no second network that it could be measured on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cold import starting_bias
from model.semantic.codes import MASKED, Digits
from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding
from model.semantic.network import SemanticNetwork, SemanticShape, newest_first
from model.semantic.recommender import SemanticRecommender
from training.data.prepared import Prepared
from training.evaluate import evaluate, recommender_scorer
from training.progress import Progress, silent
from training.stages.loop import EVERY, Loop, own_randomness
from training.stages.precision import products
from training.stages.schedule import learning_rate
from training.stages.softmax import catalogue_cross_entropy
from training.stages.windows import Batch, Windows

if TYPE_CHECKING:
    from training.recipes.semantic import NetworkPart


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """The network at its best epoch, and what each epoch gave."""

    network: SemanticNetwork
    epochs: list[dict[str, float]]
    best_epoch: int  # from 1


class Losses(NamedTuple):
    """Of one batch, means over the positions that each is taken at.

    item: catalogue cross-entropy of the item-level score alone. joint: of the whole score. masked, views: the digits'
    cross-entropy when all are hidden, and when some are.
    """

    item: Tensor
    joint: Tensor
    masked: Tensor
    views: Tensor
    positions: int

    def total(self, part: NetworkPart, digits: int) -> Tensor:
        """The sum that is descended; the fully masked view is one of `digits` views."""
        of_digits = (self.masked + (digits - 1) * self.views) / digits
        return part.item * self.item + part.joint * self.joint + part.digits * of_digits


def fit_semantic(
    prepared: Prepared,
    cold: ColdIds,
    digits: Digits,
    part: NetworkPart,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
) -> FittedNetwork:
    """digits (N, n): the frozen ids that the encoding gave.

    Stops after `patience` epochs without a better validation NDCG@10. checkpoint: a file to go on from
    (training/stages/loop.py). Raises ValueError where there is no training interaction, or nobody to validate on.
    """
    windows = Windows(*prepared.train_histories(), part.max_history, 0)
    if len(windows) == 0:
        raise ValueError("the prepared data holds no training interaction")
    size = windows.step(part.tokens_per_step)
    with own_randomness(seed, device):
        shape = shape_of(part, cold.encoding.count, cold.encoding.codes)
        network = SemanticNetwork(shape, torch.from_numpy(digits), part.dropout).to(device)
        optimiser = _optimiser(network, part)
        total = part.epochs * len(windows.batches(size, np.random.default_rng((seed, 0))))
        loop = Loop(checkpoint, {"network": network}, optimiser, device=device, every=keep_every)
        place = loop.place
        while place.epoch < part.epochs and place.epoch - place.best_epoch < part.patience:
            if place.batch == 0:
                torch.manual_seed(seed * 100_003 + place.epoch)  # dropout and draws depend on seed and epoch alone
            network.train()
            for batch in windows.epoch(size, seed, place.epoch, skip=place.batch):
                for group in optimiser.param_groups:
                    group["lr"] = part.learning_rate * learning_rate(place.step, total, part.warmup_steps)
                losses = semantic_losses(network, batch, part)
                optimiser.zero_grad()
                losses.total(part, shape.digits).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                told = [float(loss.detach()) for loss in losses[:-1]]
                weighed = [*(loss * losses.positions for loss in told), losses.positions]
                place.sums = [old + new for old, new in zip(place.sums or [0.0] * 5, weighed, strict=True)]
                loop.step()
            *sums, positions = place.sums
            loop.check("the network", "network.learning_rate", *sums)
            network.eval()
            recommender = recommender_of(network, cold, prepared, Decoding())
            metrics = evaluate(
                recommender_scorer(recommender), prepared, "validation", users=part.validation_users, seed=seed
            )
            values = dict(zip(Losses._fields[:-1], (loss / positions for loss in sums), strict=True))
            values |= {"hr@10": metrics.hr(10), "ndcg@10": metrics.ndcg(10)}
            loop.keep_if_best(values["ndcg@10"])
            loop.next_epoch(values)
            progress("network", place.epoch, part.epochs, values)
        loop.finish()
    _settle(network, prepared)
    return FittedNetwork(network.eval(), place.epochs, place.best_epoch)


@torch.no_grad()
def _settle(network: SemanticNetwork, prepared: Prepared) -> None:
    """Makes what nobody has met as good as new: it was never the answer, and training has pushed it away."""
    counts = torch.from_numpy(prepared.train_counts())
    unmet = (counts == 0).to(network.bias.device)
    network.residual[unmet] = 0.0
    network.bias[unmet] = starting_bias(network.bias.detach().cpu(), counts)


def shape_of(part: NetworkPart, digits: int, codes: int) -> SemanticShape:
    """The sizes of a recipe."""
    return SemanticShape(
        digits=digits,
        codes=codes,
        digit_dim=part.digit_dim,
        width=part.width,
        heads=part.heads,
        feed_forward=part.feed_forward,
        decoder_feed_forward=part.decoder_feed_forward,
        encoder_layers=part.encoder_layers,
        decoder_layers=part.decoder_layers,
        max_history=part.max_history,
        memory=part.memory,
    )


def recommender_of(
    network: SemanticNetwork, cold: ColdIds, prepared: Prepared, decoding: Decoding
) -> SemanticRecommender:
    """The network as a recommender, through the code that serves."""
    counts, device = torch.from_numpy(prepared.train_counts()), str(network.bias.device)
    return SemanticRecommender(prepared.catalogue, network, cold, counts, decoding, device=device)


def semantic_losses(network: SemanticNetwork, batch: Batch, part: NetworkPart) -> Losses:
    """The losses of one batch, every real position a target."""
    device = network.bias.device
    rows, real = batch.rows.to(device), batch.real.to(device)
    code_vectors = network.code_vectors()
    residual: Tensor = network.residual
    if part.residual_drop > 0:
        residual = residual * (torch.rand(len(residual), 1, device=device) >= part.residual_drop)
    vectors = network.item_vectors(code_vectors, residual)
    with products(device, part.bf16):
        states = network.encoder(F.embedding(rows[:, :-1], vectors))  # (B, L, W)
        line, position = real.nonzero(as_tuple=True)
        index, is_state = newest_first(rows.shape[1], network.shape.memory, device)
        newest = index[position, 0] + line * rows.shape[1]
        targets = rows[line, position]  # (P,)
        preference = network.g(states.flatten(0, 1)[newest])
    rows_read = len(targets)
    item = preference.new_zeros(())
    if part.item > 0:
        item = _catalogue(preference.float(), vectors, network.bias, targets, part)
    # The decoder is the dear half: it sees a share of the transitions, drawn anew in each step.
    some = torch.rand(len(targets), device=device) < part.decode_share
    if not bool(some.any()):
        return Losses(item, item.new_zeros(()), item.new_zeros(()), item.new_zeros(()), rows_read)
    with products(device, part.bf16):
        line, position, targets = line[some], position[some], targets[some]
        context = network.decoder.context(
            states.flatten(0, 1), line[:, None] * rows.shape[1] + index[position], is_state[position]
        )
        truth = network.digits[targets]  # (P, n)
        outputs = network.decoder(network.fully_masked(len(targets)), network.table, context)[:, 0]  # (P, n, .)
    joint = item.new_zeros(())
    if part.joint > 0:
        queries = torch.cat([outputs.flatten(1), preference[some]], dim=1).float()
        items = torch.cat([code_vectors, vectors], dim=1)
        joint = _catalogue(queries, items, network.bias + network.code_bias(), targets, part)
    log_probs = network.log_probs(outputs)
    masked = smoothed(log_probs, truth, part.label_smoothing).mean()
    chosen = torch.rand(len(targets), device=device) < part.view_share
    if not bool(chosen.any()) or truth.shape[1] == 1:
        return Losses(item, joint, masked, masked.new_zeros(()), rows_read)
    confidence = log_probs.detach()[chosen].amax(dim=2)
    hidden = coherent_view(confidence, torch.randint(1, truth.shape[1], (len(confidence),), device=device))
    shown = truth[chosen].masked_fill(hidden, MASKED)
    with products(device, part.bf16):
        view = network.decoder(shown[:, None], network.table, context[chosen])[:, 0]
    loss = smoothed(network.log_probs(view), truth[chosen], part.label_smoothing)
    views = ((loss * hidden).sum(dim=1) / hidden.sum(dim=1)).mean()  # the mean of a view, then over views
    return Losses(item, joint, masked, views, rows_read)


def _catalogue(queries: Tensor, items: Tensor, bias: Tensor, targets: Tensor, part: NetworkPart) -> Tensor:
    """Cross-entropy over the catalogue, of a sample of it where the recipe wants one."""
    if part.negatives < len(items):
        return sampled_cross_entropy(queries, items, bias, targets, part.negatives)
    return catalogue_cross_entropy(queries, items, bias, targets, bf16=part.bf16)


def sampled_cross_entropy(queries: Tensor, items: Tensor, bias: Tensor, targets: Tensor, negatives: int) -> Tensor:
    """The catalogue's cross-entropy from `negatives` items drawn evenly, without repeats, for the whole batch.

    Each stands for N / negatives items, so the expected partition function is the full one (an item is drawn in
    negatives / N of all steps). queries (P, W), items (N, W), bias (N,), targets (P,); a drawn item is no negative of
    its own position.
    """
    drawn = torch.randperm(len(items), device=items.device)[:negatives]
    logits = torch.addmm(bias[drawn] + math.log(len(items) / negatives), queries, items[drawn].T)
    logits = logits.masked_fill(targets[:, None] == drawn, -torch.inf)
    right = (queries * items[targets]).sum(dim=1) + bias[targets]
    return (torch.logaddexp(right, logits.logsumexp(dim=1)) - right).mean()


def coherent_view(confidence: Tensor, hide: Tensor) -> Tensor:
    """confidence (P, n) of each digit, hide (P,) how many -> (P, n) True where hidden: the least sure digits.

    The views of a target are nested: what view v hides, view v + 1 hides too. Ties go to the lower digit.
    """
    rank = confidence.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < hide[:, None]


def smoothed(log_probs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
    """(P, n, C), (P, n) -> (P, n) cross-entropy with label smoothing."""
    right = log_probs.gather(2, truth[..., None])[..., 0]
    return -((1 - smoothing) * right + smoothing * log_probs.mean(dim=2))


def _optimiser(network: nn.Module, part: NetworkPart) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": part.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=part.learning_rate, betas=(0.9, 0.98))
