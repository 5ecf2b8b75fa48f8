"""What the tests of the model share: the toy ContRec, fitted once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.model import fitted as toy


@pytest.fixture(scope="session")
def fitted() -> toy.Fitted:
    """The toy model of tests/model/fitted.py."""
    return toy.fitted()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread; on a busy machine they wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
