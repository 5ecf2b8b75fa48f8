"""Rows that only ever grow: snapshots of different lengths share one memory.

    rows = Growing(array)              # (N, ...), copied
    more = rows.extended(added)        # (N + n, ...); `rows` stays as it is, and usually nothing is copied
    more.view                          # read it; nobody writes to it

Knows nothing of what the rows mean. Thread-safe: of two that extend the same snapshot, one gets a copy.
"""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class _Buffer(Generic[Scalar]):
    """Memory of several snapshots: each reads its first N rows, and only rows beyond all of them are written."""

    def __init__(self, array: NDArray[Scalar], more: int = 0) -> None:
        self.filled = len(array) + more
        spare = max(1024, self.filled // 8)  # untouched, it costs address space and no memory
        self.rows: NDArray[Scalar] = np.empty((self.filled + spare, *array.shape[1:]), dtype=array.dtype)
        self.rows[: len(array)] = array
        self._lock = threading.Lock()

    def claim(self, start: int, count: int) -> bool:
        """Whether the rows from start on were free and are now the caller's; not when it is full, or grown already."""
        with self._lock:
            if self.filled != start or start + count > len(self.rows):
                return False
            self.filled = start + count
            return True


class Growing(Generic[Scalar]):
    """An immutable snapshot of an array (N, ...)."""

    def __init__(self, array: NDArray[Scalar]) -> None:
        self._hold(_Buffer(array), len(array))

    def _hold(self, buffer: _Buffer[Scalar], rows: int) -> None:
        self._buffer = buffer
        self.view: NDArray[Scalar] = buffer.rows[:rows]
        """(N, ...), writeable because torch shares no other memory."""

    def __len__(self) -> int:
        return len(self.view)

    def extended(
        self, added: NDArray[Scalar], rows: NDArray[Any] | None = None, replaced: NDArray[Scalar] | None = None
    ) -> Growing[Scalar]:
        """A snapshot with `added` (n, ...) behind the others and, where given, `rows` (m,) replaced.

        Adding costs what the added rows cost, and every few thousand of them one copy; replacing costs that copy.
        """
        total, buffer = len(self) + len(added), self._buffer
        if (rows is not None and len(rows)) or not buffer.claim(len(self), len(added)):
            buffer = _Buffer(self.view, len(added))
            if rows is not None and replaced is not None:
                buffer.rows[rows] = replaced
        buffer.rows[len(self) : total] = added
        grown: Growing[Scalar] = Growing.__new__(Growing)
        grown._hold(buffer, total)
        return grown
