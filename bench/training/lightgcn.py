"""LightGCN's propagation on a CPU: torch.sparse as training uses it, beside other ways to the same numbers.

    python bench/training/lightgcn.py prepared/ml-1m           # torch_geometric joins where it is installed

Seconds for one step's forward and backward pass over the graph (64 wide, three layers), the best of five. All ways
are checked to agree first. The backward pass of ours is propagation once more (training/stages/lightgcn.py).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import scipy.sparse
import torch
from torch import Tensor

from training.data.prepared import Prepared
from training.stages.lightgcn import _pairs, bipartite, propagate

LAYERS, DIM, TIMES = 3, 64, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    prepared = Prepared.read(given.prepared)
    offsets, items = prepared.train_histories()
    pairs, users, size = _pairs(offsets, items, len(prepared.catalogue)), len(offsets) - 1, len(prepared.catalogue)
    graph = bipartite(pairs, users, size)
    x = torch.randn(users + size, DIM, generator=torch.Generator().manual_seed(0))
    print(f"{users} users, {size} items, {len(pairs)} distinct interactions, {given.threads} threads")  # noqa: T201
    expected = propagate(graph, x, LAYERS)
    for name, way in _ways(graph, pairs, users).items():
        torch.testing.assert_close(way(x), expected, rtol=1e-4, atol=1e-5)
        best = min(_seconds(way, x) for _ in range(TIMES))
        print(f"{name:<36} {best:.3f} s")  # noqa: T201


def _seconds(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Forward and backward; ways that autograd does not see through are called twice, as training does."""
    x = x.clone().requires_grad_()
    started = time.perf_counter()
    out = way(x)
    if out.requires_grad:
        out.backward(torch.ones_like(out))
    else:
        way(torch.ones_like(out))
    return time.perf_counter() - started


def _ways(graph: Tensor, pairs: Tensor, users: int) -> dict[str, Callable[[Tensor], Tensor]]:
    coo = graph.to_sparse_coo().coalesce()
    size = graph.shape[0]
    csr = scipy.sparse.csr_array((graph.values().numpy(), graph.col_indices().numpy(), graph.crow_indices().numpy()))

    def quiet(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        def way(x: Tensor) -> Tensor:
            with torch.no_grad():
                return propagate(matrix, x.detach(), LAYERS)

        return way

    def of_scipy(x: Tensor) -> Tensor:
        layer = x.detach().numpy()
        total = layer.copy()
        for _ in range(LAYERS):
            layer = csr @ layer
            total += layer
        return torch.from_numpy(total / (LAYERS + 1))

    ways = {"ours: torch.sparse CSR": quiet(graph), "torch.sparse COO": quiet(coo), "scipy CSR": of_scipy}
    try:
        from torch_geometric.nn.models import LightGCN
    except ImportError:
        return ways
    edges = torch.cat(
        [torch.stack([pairs[:, 0], pairs[:, 1] + users]), torch.stack([pairs[:, 1] + users, pairs[:, 0]])], 1
    )
    model = LightGCN(size, DIM, LAYERS)

    def geometric(x: Tensor) -> Tensor:
        layer = x
        total = x / (LAYERS + 1)
        for conv in model.convs:
            layer = conv(layer, edges)
            total = total + layer / (LAYERS + 1)
        return total

    return ways | {"torch_geometric LGConv": geometric}


if __name__ == "__main__":
    main()
