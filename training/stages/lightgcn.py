"""Fits LightGCN: embeddings of users and items from the graph of who took what, by nothing but propagation.

    embedding, known = fit_lightgcn(offsets, items, catalogue_size, dim=64, layers=3, epochs=40, rate=5e-3, seed=0)
    users, items = fit_graph(offsets, items, catalogue_size, ...)      # users @ items.T: a recommender of its own

He et al. 2020 (arXiv 2002.02126): the embedding of a node is the mean over layers of its neighbours' embeddings, each
divided by the square roots of both degrees (equations 3, 7 and 8), trained by BPR with weight decay on layer 0
(equation 15). Propagation is linear and symmetric, so its gradient is propagation again, and autograd never walks the
graph. torch.sparse does it: bench/training/lightgcn.py has it beside torch_geometric's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.recommender import Floats
from training.progress import Progress, silent
from training.stages.loop import EVERY, Loop

Watch = Callable[[int, Callable[[], tuple[Floats, Floats]]], bool]
"""Called after every epoch, from 1, with what gives the embeddings so far; True ends the fit."""

STEPS_PER_EPOCH = 8  # each reads the whole graph twice, so few and large steps
DECAY = 1e-4


class _Embeddings(nn.Module):
    """Layer 0 of users and items, (U + N, dim), drawn as the paper does."""

    def __init__(self, nodes: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nodes, dim, generator=generator) * 0.1)


def fit_lightgcn(
    offsets: NDArray[np.int64], items: NDArray[np.int32], catalogue_size: int, *, dim: int, **how: Any
) -> tuple[Floats, NDArray[np.bool_]]:
    """The items of `fit_graph`, with its options -> (N, dim), and (N,) whether training knows the item."""
    known = np.bincount(items, minlength=catalogue_size) > 0
    if not known.any():
        return np.zeros((catalogue_size, dim), dtype=np.float32), known
    return fit_graph(offsets, items, catalogue_size, dim=dim, **how)[1], known


def fit_graph(
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    catalogue_size: int,
    *,
    dim: int,
    layers: int,
    epochs: int,
    rate: float,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    keep_every: float = EVERY,
    watch: Watch | None = None,
) -> tuple[Floats, Floats]:
    """Training events as `Prepared.train_histories` gives them, at least one -> (U, dim) users, (N, dim) items.

    Whoever has no interaction gets zeros. Raises ValueError where the loss is not finite.
    """
    users = len(offsets) - 1
    pairs = _pairs(offsets, items, catalogue_size).to(device)  # (E, 2)
    graph = bipartite(pairs, users, catalogue_size)
    generator = torch.Generator().manual_seed(seed)
    embeddings = _Embeddings(users + catalogue_size, dim, generator).to(device)
    optimiser = torch.optim.Adam(embeddings.parameters(), lr=rate)
    loop = Loop(checkpoint, {"lightgcn": embeddings}, optimiser, generator=generator, device=device, every=keep_every)

    def found() -> tuple[Floats, Floats]:
        with torch.no_grad():
            final = propagate(graph, embeddings.weight, layers)
            final[graph.crow_indices().diff() == 0] = 0  # nobody's neighbour
        both = final.cpu().numpy()
        return both[:users].copy(), both[users:].copy()

    place = loop.place
    while place.epoch < epochs and not place.finished:
        order = torch.randperm(len(pairs), generator=generator).to(device)
        total = 0.0
        for batch in order.tensor_split(min(STEPS_PER_EPOCH, len(pairs))):
            others = torch.randint(catalogue_size, (len(batch),), generator=generator).to(device)
            user, taken = pairs[batch].unbind(dim=1)
            total += _step(embeddings, graph, optimiser, user, users + taken, users + others, layers) * len(batch)
        loop.check("LightGCN", "signals.lightgcn_rate", total)
        values = {"loss": total / len(pairs)}
        loop.next_epoch(values)
        progress("lightgcn", place.epoch, epochs, values)
        if watch is not None and watch(place.epoch, found):
            break
    loop.finish()
    return found()


def bipartite(pairs: Tensor, users: int, items: int) -> Tensor:
    """Distinct (user, item) pairs (E, 2) -> D^-1/2 A D^-1/2 over users and items, (U + N, U + N) sparse CSR."""
    user, item = pairs[:, 0], pairs[:, 1] + users
    rows, columns = torch.cat([user, item]), torch.cat([item, user])
    degree = torch.bincount(rows, minlength=users + items).clamp(min=1).float()
    values = (degree[rows] * degree[columns]).rsqrt()
    order = torch.argsort(rows * (users + items) + columns)
    starts = torch.zeros(users + items + 1, dtype=torch.long, device=pairs.device)
    starts[1:] = torch.bincount(rows, minlength=users + items).cumsum(dim=0)
    size = (users + items, users + items)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns[order], values[order], size, check_invariants=False)


def propagate(graph: Tensor, layer: Tensor, layers: int) -> Tensor:
    """The mean of layers 0 to `layers`, (U + N, dim). Its own transpose: see the module."""
    total = layer.clone()
    for _ in range(layers):
        layer = graph @ layer
        total += layer
    return total / (layers + 1)


def _step(
    embeddings: _Embeddings,
    graph: Tensor,
    optimiser: torch.optim.Optimizer,
    user: Tensor,
    taken: Tensor,
    other: Tensor,
    layers: int,
) -> float:
    """One step of BPR: the taken item above the other one, for each user of the batch. Returns the loss."""
    with torch.no_grad():
        final = propagate(graph, embeddings.weight, layers)
    final.requires_grad_()
    u, i, j = (F.embedding(nodes, final) for nodes in (user, taken, other))
    loss = F.softplus((u * (j - i)).sum(dim=1)).mean()
    loss.backward()
    assert final.grad is not None
    with torch.no_grad():
        embeddings.weight.grad = propagate(graph, final.grad, layers)
        nodes = torch.cat([user, taken, other])
        pull = torch.bincount(nodes, minlength=len(embeddings.weight)).to(embeddings.weight.dtype)
        embeddings.weight.grad += (2 * DECAY / len(user)) * pull[:, None] * embeddings.weight
    optimiser.step()
    return float(loss.detach())


def _pairs(offsets: NDArray[np.int64], items: NDArray[np.int32], size: int) -> Tensor:
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    distinct = np.unique(user * size + items.astype(np.int64))  # a repeated interaction counts once
    return torch.from_numpy(np.stack([distinct // size, distinct % size], axis=1))
