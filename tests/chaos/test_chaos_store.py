"""The store fails in mid-load: Redis killed, paused, out of memory; a full disk; and the service itself killed."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.serving.subject import Server, fill_store, serving, start, wait_ready
from tests.chaos.harness import ITEMS, USERS, held, kept, scaled, under_load
from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def served(
    redis_server: RedisServer, bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, RedisServer]]:
    """One service over one Redis for the whole module: each test must find it well, with no restart between."""
    fill_store(redis_server.url, users=USERS, items=ITEMS)
    with serving(tmp_path_factory.mktemp("service"), "service", bundles=bundles, store=redis_server.url) as server:
        yield server, redis_server


def until_well(server: Server, within: float = 5.0) -> None:
    """A user's recommendation comes from the model with the stored history, and an event is taken."""
    deadline = time.monotonic() + within
    with httpx.Client(base_url=server.url, timeout=5, trust_env=False) as client:
        while True:
            event = {"event_id": f"well-{time.monotonic_ns()}", "user_id": "u1", "item_id": "i1"}
            told = client.post("/events", json=event).status_code
            answer = client.post("/recommend", json={"user_id": "u1"}).json()
            if told == 200 and answer["source"] == "model" and "degraded" not in answer:
                return
            assert time.monotonic() < deadline, (told, answer)
            time.sleep(0.1)


def test_redis_is_killed_and_comes_back(served: tuple[Server, RedisServer]) -> None:
    server, redis = served
    until_well(server)
    with under_load(server, "killed", seconds=scaled(4, 30)) as load:
        time.sleep(1)
        assert redis.process is not None
        redis.process.kill()
        redis.process.wait()
        time.sleep(1)
        redis.start()
    held(load)
    assert any(answer.status == 503 for answer in load.events)
    assert any(answer.get("degraded") == "history_unavailable" for answer in load.said())
    until_well(server)
    kept(server, load.acknowledged)


def test_redis_is_paused(served: tuple[Server, RedisServer]) -> None:
    server, redis = served
    until_well(server)
    assert redis.process is not None
    with under_load(server, "paused", seconds=scaled(4, 30)) as load:
        time.sleep(1)
        redis.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        redis.process.send_signal(signal.SIGCONT)
    held(load)
    degraded = [answer for answer in load.said() if "degraded" in answer]
    assert degraded
    # The breaker: while the store is silent all but a few do not wait for it.
    waited = sorted(answer["timings_ms"]["store"] for answer in degraded)
    assert waited[len(waited) // 2] < 50
    until_well(server)
    kept(server, load.acknowledged)


def test_redis_refuses_writes(served: tuple[Server, RedisServer]) -> None:
    import redis as client_library

    server, redis = served
    until_well(server)
    admin = client_library.Redis(port=redis.port)
    with under_load(server, "full", seconds=scaled(4, 30)) as load:
        time.sleep(1)
        admin.config_set("maxmemory", "1")
        time.sleep(1.5)
        admin.config_set("maxmemory", "0")
    admin.close()
    held(load)
    assert any(answer.status == 503 for answer in load.events)
    assert not [answer for answer in load.said() if "degraded" in answer]  # reading went on
    until_well(server)
    kept(server, load.acknowledged)


def test_the_disk_is_full_on_an_event(tmp_path: Path, bundles: Path) -> None:
    """The limit on a file's size stands for the disk: SQLite hears of it where it would hear of ENOSPC."""
    store = f"sqlite:///{tmp_path / 'full.db'}"
    fill_store(store, users=USERS, items=ITEMS)
    with serving(tmp_path, "service", bundles=bundles, store=store) as server:
        size = max(path.stat().st_size for path in tmp_path.glob("full.db*"))
        no_limit = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        with under_load(server, "disk", seconds=scaled(4, 30)) as load:
            time.sleep(1)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (min(8192, size // 2), no_limit[1]))
            time.sleep(1.5)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, no_limit)
        held(load)
        assert any(answer.status == 503 for answer in load.events)
        until_well(server)
        kept(server, load.acknowledged)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_the_service_is_killed_in_mid_load(tmp_path: Path, bundles: Path, redis_server: RedisServer, kind: str) -> None:
    store = redis_server.url if kind == "redis" else f"sqlite:///{tmp_path / 'killed.db'}"
    if kind == "sqlite":
        fill_store(store, users=USERS, items=ITEMS)
    first = start(tmp_path, "service", bundles=bundles, store=store)
    try:
        wait_ready(first)
        with under_load(first, f"kill-9-{kind}", rate=60, seconds=2) as load:
            time.sleep(1.2)
            os.kill(first.pid, signal.SIGKILL)
    finally:
        first.process.kill()
        first.process.wait()
    assert load.acknowledged
    with serving(tmp_path, "service", bundles=bundles, store=store) as second:
        kept(second, load.acknowledged)
        until_well(second)
