"""The store fails in mid-load: Redis killed, paused, out of memory; a full disk; and who is not to blame."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from tests.chaos.harness import Living, held, kept, scaled, under_load, until_well
from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis


def test_redis_is_killed_and_comes_back(on_redis: Living, redis: RedisServer) -> None:
    server = on_redis.server
    until_well(server)
    with under_load(server, "killed", seconds=scaled(3, 30)) as load:
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


def test_redis_is_paused(on_redis: Living, redis: RedisServer) -> None:
    server = on_redis.server
    until_well(server)
    assert redis.process is not None
    with under_load(server, "paused", seconds=scaled(3, 30)) as load:
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


def test_redis_refuses_writes(on_redis: Living, redis: RedisServer) -> None:
    import redis as client_library

    server = on_redis.server
    until_well(server)
    admin = client_library.Redis(port=redis.port)
    with under_load(server, "full", seconds=scaled(3, 30)) as load:
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


def test_the_service_is_held_up_and_does_not_blame_redis(on_redis: Living) -> None:
    """Paused again and again, as on a machine with too many processes."""
    server = on_redis.server
    until_well(server)
    with under_load(server, "held-up", seconds=scaled(3, 30)) as load:
        for _ in range(int(scaled(3, 30))):
            time.sleep(0.4)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGCONT)
    held(load)
    assert {answer.status for answer in load.events} == {200}
    assert sum("degraded" in answer for answer in load.said()) <= 0.02 * len(load.said())
    kept(server, load.acknowledged)


def test_the_disk_is_full_on_an_event(on_sqlite: Living) -> None:
    """The limit on a file's size stands for the disk: SQLite hears of it where it would hear of ENOSPC."""
    server = on_sqlite.server
    size = max(path.stat().st_size for path in on_sqlite.folder.glob("events.db*"))
    no_limit = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    with under_load(server, "disk", seconds=scaled(3, 30)) as load:
        time.sleep(1)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (min(8192, size // 2), no_limit[1]))
        time.sleep(1.5)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, no_limit)
    held(load)
    assert any(answer.status == 503 for answer in load.events)
    until_well(server)
    kept(server, load.acknowledged)
