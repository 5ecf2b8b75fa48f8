"""Which partial ids a catalogue allows: every subset of digits of every id, as one sorted table of packed keys.

A node is a partial id (some digits shown, in any combination); its children show one digit more. A search that only
walks from node to child can never leave the catalogue, and two orders of showing the same digits meet in one node.
It knows ids; no network and no scores.

    lattice = Lattice(digits)                      # (N, n)
    lattice.nodes(codes)                           # (...,) node numbers of partial ids, -1 where none is legal
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.semantic.codes import BASE, MASKED, MOST_DIGITS, Digits, Keys, pack

Ints = NDArray[np.int64]


class Lattice:
    """keys: (nodes,) sorted, the root (nothing shown) first. codes: (nodes, n), MASKED where hidden.

    Edges of node x are edges[x]:edges[x + 1] of child, digit and code. Items of a whole id are rows of
    `items[first[x]:first[x + 1]]`, ascending; a partial id has none.
    """

    def __init__(self, digits: Digits) -> None:
        count = digits.shape[1]
        if count > MOST_DIGITS:
            raise ValueError(f"{count} digits have too many partial ids; there may be {MOST_DIGITS}")
        signed = digits.astype(np.int64)
        shown = [np.array([subset >> d & 1 for d in range(count)], dtype=np.bool_) for subset in range(1 << count)]
        self.keys: Keys = np.unique(np.concatenate([pack(np.where(s, signed, MASKED)) for s in shown]))
        self.codes: Ints = (self.keys[:, None] // BASE ** np.arange(count, dtype=np.int64)) % BASE - 1
        powers = BASE ** np.arange(count, dtype=np.int64)
        children, parents, places = [], [], []
        for digit in range(count):
            nodes = np.flatnonzero(self.codes[:, digit] != MASKED)
            keys = self.keys[nodes] - (self.codes[nodes, digit] + 1) * powers[digit]
            children.append(nodes)
            parents.append(np.searchsorted(self.keys, keys))
            places.append(np.full(len(nodes), digit, dtype=np.int64))
        parent, child, place = (np.concatenate(part) for part in (parents, children, places))
        order = np.lexsort((child, parent))
        self.child: Ints = child[order]
        self.digit: Ints = place[order]
        self.code: Ints = self.codes[self.child, self.digit]
        self.edges: Ints = np.searchsorted(parent[order], np.arange(len(self.keys) + 1))
        leaf = np.searchsorted(self.keys, pack(signed))
        self.items: Ints = np.argsort(leaf, kind="stable")
        self.first: Ints = np.searchsorted(leaf[self.items], np.arange(len(self.keys) + 1))

    def nodes(self, codes: NDArray[Any]) -> Ints:
        """(..., n) partial ids -> (...,) node numbers, -1 where no item has it."""
        keys = pack(codes)
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[found] == keys, found, -1)


def spans(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Ranges starts[i]:stops[i], joined: the indices, and for each the i that it comes from."""
    lengths = stops - starts
    source = np.repeat(np.arange(len(starts)), lengths)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return starts[source] + offset, source
