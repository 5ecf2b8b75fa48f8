"""What the tests of the model share: the toy ContRec, fitted once a session."""

from __future__ import annotations

import pytest

from tests.model import fitted as toy
from tests.one_thread import one_thread

__all__ = ["one_thread"]  # a fixture


@pytest.fixture(scope="session")
def fitted() -> toy.Fitted:
    """The toy model of tests/model/fitted.py."""
    return toy.fitted()
