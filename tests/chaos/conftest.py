"""Servers for the chaos tests: started once a module where a test leaves them as it found them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.serving.subject import make_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ContRec bundle with random weights and 500 items, published and active. Read only: copy what you damage."""
    from tests.chaos.harness import ITEMS

    return make_bundle(tmp_path_factory.mktemp("bundles"), items=ITEMS, weight=0.25)
