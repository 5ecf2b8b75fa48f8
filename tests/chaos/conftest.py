"""Servers for the chaos tests. A start costs seconds of CPU, so one service over each store is there for all of them.

A test that has ended it finds the next one started when it asks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving.subject import fill_store, make_bundle
from tests.chaos.harness import ITEMS, USERS, Living
from tests.redis_server import RedisServer, free_port, running


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ContRec bundle with random weights and 500 items, published and active. Read only: copy what you damage."""
    return make_bundle(tmp_path_factory.mktemp("bundles"), items=ITEMS, weight=0.25)


@pytest.fixture(scope="session")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Living]:
    """A service over SQLite with bundles of its own and a model that can be broken."""
    folder = tmp_path_factory.mktemp("sqlite")
    shutil.copytree(bundles, folder / "bundles")
    store = f"sqlite:///{folder / 'events.db'}"
    fill_store(store, users=USERS, items=ITEMS)
    living = Living(folder, "tests.chaos.breakable", bundles=folder / "bundles", store=store, metrics_port=free_port())
    yield living
    living.end()


@pytest.fixture(scope="session")
def redis(redis_command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of `on_redis`."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def on_redis(redis: RedisServer, bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    """A service over Redis."""
    fill_store(redis.url, users=USERS, items=ITEMS)
    living = Living(tmp_path_factory.mktemp("on-redis"), "service", bundles=bundles, store=redis.url, drain_wait_s=1)
    yield living
    living.end()
