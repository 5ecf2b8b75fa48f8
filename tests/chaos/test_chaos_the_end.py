"""How the service ends: killed in mid-load, and asked to stop. Last, since every test here costs another start."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from bench.serving.load import LOST, closed_loop, post, run
from bench.serving.subject import Server
from tests.chaos.harness import USERS, Living, kept, under_load, until_well


@pytest.mark.parametrize("kind", ["on_sqlite", pytest.param("on_redis", marks=pytest.mark.redis)])
def test_the_service_is_killed_in_mid_load(kind: str, request: pytest.FixtureRequest) -> None:
    living: Living = request.getfixturevalue(kind)
    first = living.server
    with under_load(first, f"kill-9-{kind}", rate=60, seconds=2) as load:
        time.sleep(1.2)
        os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    assert load.acknowledged
    kept(living.server, load.acknowledged)
    until_well(living.server)


@pytest.mark.redis
def test_sigterm_under_load_drops_no_request(on_redis: Living) -> None:
    """Clients that keep their connections alive hear that they should go; others are still sending when nobody is let
    in any more. Every request is answered 200."""
    server = on_redis.server

    def ask(draw: random.Random) -> tuple[str, bytes]:
        return "recommend", post("/recommend", {"user_id": f"u{draw.randrange(USERS)}"})

    run(closed_loop(server.host, server.port, ask, clients=4, seconds=0.5))
    slow = [Slow(server, ask(random.Random(n))[1]) for n in range(20)]
    stop = threading.Timer(0.7, server.process.terminate)
    stop.start()
    result = run(closed_loop(server.host, server.port, ask, clients=8, seconds=1.3))
    stop.join()
    until_closed(server)
    time.sleep(0.5)
    assert server.process.poll() is None, "it waits for those who are sending"
    assert [one.finish() for one in slow] == [200] * len(slow)
    server.process.wait(timeout=20)
    assert len(result.answers) > 50
    assert LOST not in result.statuses
    assert result.errors == 0
    assert server.process.returncode == 0


class Slow:
    """A client that has sent all of its request but the last byte."""

    def __init__(self, server: Server, request: bytes) -> None:
        self._connection = socket.create_connection((server.host, server.port), timeout=10)
        self._connection.sendall(request[:-1])
        self._last = request[-1:]

    def finish(self) -> int:
        """Sends it; the status of the answer, or LOST."""
        with self._connection:
            try:
                self._connection.sendall(self._last)
                return int(self._connection.recv(65536)[9:12] or LOST)
            except OSError:
                return LOST


def until_closed(server: Server) -> None:
    """Returns once nobody is let in any more."""
    deadline = time.monotonic() + 10
    with suppress(ConnectionRefusedError):
        while True:
            assert time.monotonic() < deadline
            socket.create_connection((server.host, server.port), timeout=10).close()
            time.sleep(0.05)
