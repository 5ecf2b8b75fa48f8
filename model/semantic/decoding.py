"""From digit distributions to items: exact catalogue scoring, conditional rescoring, and the any-order beam.

    log_probs, preference = masked_pass(network, context)              # one pass: scores every item by n look-ups
    corrections = conditional(network, context, log_probs, codes)      # what n - 1 more passes say of given ids
    nodes, scores = beam(network, context, log_probs, lattice, width=32, steps=4)

Confidence-guided parallel denoising (DiffGRM, arXiv 2510.21805, section 3.4): every (hidden digit, code) pair of every
beam competes with every other by log-probability, to the last digit. Unlike the published code the search walks the
lattice of the catalogue, so no beam is ever spent on an id that no item has, or on one partial id reached twice.
Beams lie in the query axis; the history's keys and values are computed once. It knows ids, no items and no requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.recommender import Floats
from model.semantic.codes import MASKED
from model.semantic.lattice import Ints, Lattice, spans
from model.semantic.network import Context, SemanticNetwork


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tastes are made. Chosen on validation, stored in the bundle; every value can be turned by hand.

    beam: 0 scores the whole catalogue exactly; more looks for candidates by a beam of that width.
    digits: weight of the digits' log-probabilities beside the item-level score. candidates: of the exact scoring, how
    many the conditional passes look at again. weight: of what those passes add; at 0 they are left out. steps: network
    passes from nothing shown to everything, 1 to n.
    """

    beam: int = 0
    digits: float = 1.0
    candidates: int = 50
    weight: float = 0.0
    steps: int = 4

    def __post_init__(self) -> None:
        if self.beam < 0 or self.candidates < 0 or self.digits < 0 or not 0 <= self.weight <= 1 or self.steps < 1:
            raise ValueError(f"{self} is no way of decoding: sizes cannot be negative, weight lies in [0, 1]")


def masked_pass(network: SemanticNetwork, context: Context) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, n, C) of every digit when nothing is shown, and preference vectors (B, W).

    Serving asks `packed.FirstPass`, of which this is the plain twin.
    """
    log_probs = network.denoise(network.fully_masked(len(context.newest)), context)[:, 0]
    return log_probs, network.g(context.newest).float()


def groups(digits: int, steps: int) -> list[int]:
    """How many digits each pass shows: as even as can be, the fewest first, where the least is known."""
    steps = min(steps, digits)
    return [digits // steps + (step >= steps - digits % steps) for step in range(steps)]


def conditional(network: SemanticNetwork, context: Context, log_probs: Tensor, codes: Tensor, steps: int) -> Tensor:
    """codes (B, R, n) of whole ids -> (B, R): log p(id | h) by the conditional passes less the sum of marginals.

    The order of a history's digits is that of the noising it was trained with: the surest digit is shown first.
    """
    n = codes.shape[2]
    order = log_probs.amax(dim=2).argsort(dim=1, descending=True, stable=True)  # (B, n)
    rank = order.argsort(dim=1)  # the place of each digit in it
    marginal = log_probs[:, None].expand(-1, codes.shape[1], -1, -1).gather(3, codes[..., None])[..., 0]
    total = torch.zeros(codes.shape[:2], device=codes.device)
    shown = 0
    for size in groups(n, steps):
        if shown:
            partial = codes.masked_fill((rank >= shown)[:, None], MASKED)
            given = network.denoise(partial, context).gather(3, codes[..., None])[..., 0]  # (B, R, n)
            now = ((rank >= shown) & (rank < shown + size))[:, None]
            total += ((given - marginal) * now).sum(dim=2)
        shown += size
    return total


def beam(
    network: SemanticNetwork, context: Context, log_probs: Tensor, lattice: Lattice, width: int, steps: int
) -> tuple[Ints, Floats]:
    """The `width` best whole ids of each history, best first: lattice nodes (B, K) and log-probabilities (B, K).

    Nodes are -1, with -inf, where the catalogue has fewer ids. With `width` at the number of partial ids of a level
    the search is exhaustive.
    """
    batch, n = log_probs.shape[:2]
    nodes = np.zeros((batch, 1), dtype=np.int64)  # the root: nothing shown
    scores = np.zeros((batch, 1), dtype=np.float32)
    known: NDArray[np.float32] = log_probs[:, None].cpu().numpy()  # (B, K, n, C) of the beams as they stand
    of_beam = np.zeros((batch, 1), dtype=np.int64)  # which of `known` a beam reads
    shown = 0
    for size in groups(n, steps):
        if shown:
            codes = torch.from_numpy(lattice.codes[np.maximum(nodes, 0)]).to(log_probs.device)
            known = network.denoise(codes, context).cpu().numpy()
            of_beam = np.broadcast_to(np.arange(nodes.shape[1]), nodes.shape)
        for _ in range(size):
            shown += 1
            nodes, scores, parent = _grow(lattice, nodes, scores, known, of_beam, width, shown)
            of_beam = np.take_along_axis(of_beam, parent, axis=1)
    return nodes, scores


def _grow(
    lattice: Lattice,
    nodes: Ints,
    scores: Floats,
    known: NDArray[np.float32],
    of_beam: Ints,
    width: int,
    orders: int,
) -> tuple[Ints, Floats, Ints]:
    """One more digit: the `width` best children over all beams of a history, each once, and which beam each is of.

    orders: in how many ways a child can have been reached, at most.
    """
    batch = len(nodes)
    alive = np.flatnonzero(nodes.ravel() >= 0)
    flat = nodes.ravel()[alive]
    edge, source = spans(lattice.edges[flat], lattice.edges[flat + 1])
    line, place = np.divmod(alive[source], nodes.shape[1])
    found = scores[line, place] + known[line, of_beam[line, place], lattice.digit[edge], lattice.code[edge]]
    # Ragged lists of edges -> one padded line a history, so that the rest is a few whole-array operations.
    lengths = np.bincount(line, minlength=batch)
    column = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    longest = int(lengths.max(initial=0))
    table = np.full((batch, longest), -np.inf, dtype=np.float32)
    child, parent = np.full((batch, longest), -1, dtype=np.int64), np.zeros((batch, longest), dtype=np.int64)
    table[line, column], child[line, column], parent[line, column] = found, lattice.child[edge], place
    keep = min(longest, width * orders)  # enough that `width` different ones are among them
    if keep < longest:
        top = np.argpartition(-table, keep - 1, axis=1)[:, :keep]
        table, child, parent = _take(top, table, child, parent)
    order = np.lexsort((-table, child), axis=-1)  # equal children side by side, the likeliest way first
    table, child, parent = _take(order, table, child, parent)
    again = np.zeros(child.shape, dtype=np.bool_)
    again[:, 1:] = child[:, 1:] == child[:, :-1]
    table[again] = -np.inf
    order = np.argsort(-table, axis=1, kind="stable")[:, :width]
    table, child, parent = _take(order, table, child, parent)
    child[np.isneginf(table)] = -1
    return child, table, parent


def _take(places: Ints, table: Floats, child: Ints, parent: Ints) -> tuple[Floats, Ints, Ints]:
    """The same places of each line of all three."""
    return (
        np.take_along_axis(table, places, axis=1),
        np.take_along_axis(child, places, axis=1),
        np.take_along_axis(parent, places, axis=1),
    )
