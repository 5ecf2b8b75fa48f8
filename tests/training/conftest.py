"""Prepared data small enough to check by eye, and the demo world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from model.catalogue import Catalogue, Item
from tests.one_thread import one_thread
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.splits import leave_one_out
from training.data.synthetic import Sizes

__all__ = ["one_thread"]  # a fixture

Histories = Sequence[Sequence[int]]


def _of(histories: Histories, size: int) -> Prepared:
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    items = np.array([row for history in histories for row in history], dtype=np.int32)
    return Prepared(
        catalogue=Catalogue(Item(f"i{row}", f"Title {row}") for row in range(size)),
        users=tuple(f"u{user}" for user in range(len(histories))),
        offsets=offsets,
        items=items,
        times=np.arange(len(items), dtype=np.int64),
        values=np.full(len(items), np.nan, dtype=np.float32),
        split=leave_one_out(offsets),
        facts={"source": "toy"},
    )


@pytest.fixture(scope="session")
def prepared_of() -> Callable[[Histories, int], Prepared]:
    """Leave-one-out data from lists of rows and a catalogue size."""
    return _of


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The synthetic world, smaller than the demo's."""
    folder: Path = tmp_path_factory.mktemp("synthetic") / "prepared"
    return prepare("synthetic", None, folder, sizes=Sizes(users=250, items=200, events=20, seed=3))
