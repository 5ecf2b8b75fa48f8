"""One running project for all tests of the folder; they run in their order, and each leaves it well."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    assert shutil.which("docker"), "make check-compose needs Docker"
    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.compose("down", "-v", "--remove-orphans", check=False)
    try:
        stack.compose("build", "service", "trainer")
        stack.up()
        yield stack
    finally:
        stack.close()
