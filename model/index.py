"""The item index: which rows of a bundle's item matrix lie nearest to a query, among those that may be shown.

An `ItemIndex` is an immutable snapshot: it is built from the matrix when a bundle is loaded, and searched by any
number of readers. It is exact (FAISS `IndexFlatIP`, inner product). It knows no item ids, no bundle and no taste;
callers bring normalised vectors where they want cosines. Withdrawn items are the affair of `eligible`; new ones make
a new snapshot, which shares the memory of the old one.

    index = ItemIndex(matrix)                              # (N, D) float32
    rows, scores = index.search(queries, eligible, k=10)   # (Q, k'), best first
    grown = index.extended(added)                          # (n, D) behind the others; `index` stays as it is

FAISS is kept on one thread: its OpenMP pool belongs to each calling thread, and at the size of a catalogue that
fits here a second thread costs more than it brings.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from model.catalogue import Mask, Rows
from model.growing import Growing
from model.recommender import Floats, best

_FEW = 32  # of so many items one is eligible, or fewer: then FAISS is given a list, and reads only those


class ItemIndex:
    """An exact inner-product index over matrix (N, D), float32, whose row numbers are the catalogue's.

    Raises ValueError when the matrix is not two-dimensional, not float32, or holds a value that is not finite
    (FAISS would carry the NaN of one item into the order of all).
    """

    def __init__(self, matrix: Floats) -> None:
        if matrix.ndim != 2 or matrix.shape[1] == 0:
            raise ValueError(f"the item matrix has shape {matrix.shape}; it must be (items, dimensions)")
        _check_rows(matrix)
        self._hold(Growing(matrix))  # a copy: nobody else can change it

    def _hold(self, rows: Growing[np.float32]) -> None:
        self._rows = rows
        self.memory: Floats = rows.view
        """(N, D) the rows, writeable because torch shares no other memory. Nobody writes to them."""
        self.matrix: Floats = self.memory.view()
        self.matrix.flags.writeable = False

    def extended(self, added: Floats, rows: Rows | None = None, replaced: Floats | None = None) -> ItemIndex:
        """A new snapshot with the rows of `added` (n, D) behind the others and, where given, `rows` (m,) replaced.

        Adding costs what the added rows cost, and every few thousand of them one copy of the matrix; replacing
        costs that copy. Raises ValueError for what could not have been in the matrix from the start.
        """
        rows = np.zeros(0, dtype=np.int64) if rows is None else rows
        replaced = np.zeros((0, self.dimensions), dtype=np.float32) if replaced is None else replaced
        for part in (added, replaced):
            if part.ndim != 2 or part.shape[1] != self.dimensions:
                raise ValueError(f"added rows have shape {part.shape}; this index needs (rows, {self.dimensions})")
            _check_rows(part)
        if len(rows) != len(replaced):
            raise ValueError(f"{len(replaced)} vectors replace {len(rows)} rows")
        grown = ItemIndex.__new__(ItemIndex)
        grown._hold(self._rows.extended(added, rows, replaced))
        return grown

    def __len__(self) -> int:
        return len(self.memory)

    @property
    def dimensions(self) -> int:
        """D, the length of an item's vector and of a query."""
        return int(self.memory.shape[1])

    def search(self, queries: Floats, eligible: Mask | None, k: int) -> tuple[Rows, Floats]:
        """The k' = min(k, eligible items) rows with the greatest inner product, for each of queries (Q, D).

        eligible: (N,) True where a row may be returned; None: everywhere. One filter serves all queries.
        Returns rows (Q, k') int64 and scores (Q, k') float32, best first. Equal scores inside the list go to the
        lower row; which of several rows with exactly the k-th score is the last one in is FAISS's choice.
        Raises ValueError on another shape of queries or eligible, a query that is not finite, or a negative k.
        """
        queries, eligible, k = self._checked(queries, eligible, k)
        if k == 0 or len(queries) == 0:
            return np.zeros((len(queries), k), dtype=np.int64), np.zeros((len(queries), k), dtype=np.float32)
        faiss.omp_set_num_threads(1)
        selector: faiss.IDSelector | None = None
        if eligible is not None and np.count_nonzero(eligible) * _FEW < len(self):
            allowed = np.flatnonzero(eligible)  # FAISS reads it where it lies, until the search ends
            selector = faiss.IDSelectorArray(len(allowed), faiss.swig_ptr(allowed))
        elif eligible is not None:
            bitmap = np.packbits(eligible, bitorder="little")  # the same
            selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
        rows, scores = self._nearest(queries, selector, k)
        # A filtered FAISS search has been seen to come short or to forget its selector (faiss #3186, #5504):
        # its word is taken only for rows that exist and are eligible.
        sound = ((rows >= 0) & (rows < len(self))).all() and (eligible is None or bool(eligible[rows].all()))
        if not sound:
            return self._plain(queries, eligible, k)
        order = np.lexsort((rows, -scores), axis=-1)
        return np.take_along_axis(rows, order, axis=-1), np.take_along_axis(scores, order, axis=-1)

    def _nearest(self, queries: Floats, selector: Any, k: int) -> tuple[Rows, Floats]:
        """What `IndexFlatIP.search` calls, over memory of ours: an index of FAISS's would be a copy, and could not grow
        while it is searched."""
        rows = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        pointer = faiss.swig_ptr
        faiss.knn_inner_product(
            pointer(queries),
            pointer(self.memory),
            self.dimensions,
            len(queries),
            len(self),
            k,
            pointer(scores),
            pointer(rows),
            selector,
        )
        return rows, scores

    def search_plain(self, queries: Floats, eligible: Mask | None, k: int) -> tuple[Rows, Floats]:
        """The plain twin of `search`: the whole product, then `best`. Ties always go to the lower row."""
        return self._plain(*self._checked(queries, eligible, k))

    def _plain(self, queries: Floats, eligible: Mask | None, k: int) -> tuple[Rows, Floats]:
        mask = np.ones(len(self), dtype=np.bool_) if eligible is None else eligible
        found = [best(query @ self.matrix.T, mask, k) for query in queries]
        rows = np.array([rows for rows, _ in found], dtype=np.int64).reshape(len(queries), k)
        scores = np.array([scores for _, scores in found], dtype=np.float32).reshape(len(queries), k)
        return rows, scores

    def _checked(self, queries: Floats, eligible: Mask | None, k: int) -> tuple[Floats, Mask | None, int]:
        if queries.ndim != 2 or queries.shape[1] != self.dimensions:
            raise ValueError(f"queries have shape {queries.shape}; this index needs (queries, {self.dimensions})")
        if k < 0:
            raise ValueError(f"k is {k}; it cannot be negative")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if not np.isfinite(queries).all():
            raise ValueError("a query holds a value that is not finite")
        if eligible is None:
            return queries, None, min(k, len(self))
        if eligible.shape != (len(self),) or eligible.dtype != np.bool_:
            raise ValueError(f"eligible is {eligible.dtype}{eligible.shape}; it must be bool({len(self)},)")
        allowed = int(np.count_nonzero(eligible))
        return queries, (None if allowed == len(self) else eligible), min(k, allowed)


def _check_rows(matrix: Floats) -> None:
    if matrix.dtype != np.float32:
        raise ValueError(f"the item matrix is {matrix.dtype}; it must be float32")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {int(np.flatnonzero(~finite)[0])} of the item matrix is not finite")
