"""Settings that bound a wait or a number: each does what it says, on a real server. By which of two comes first, not by
the clock, since a machine may be slow."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis

from tests.redis_server import RedisServer
from tests.service.test_service_process import process
from tests.service.toy import Circle, running

LONG = 60
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"k": 3}'
HALF = (
    b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY[:4])
)


def connect(stack: ExitStack, client: httpx.Client) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=LONG))


def test_an_idle_connection_is_kept_for_keep_alive_s(tmp_path: Path) -> None:
    with ExitStack() as stack:
        connections = []
        for seconds in (LONG, 1):  # who is to be kept for longer is asked first
            _, client = stack.enter_context(process(tmp_path, keep_alive_s=seconds, store="sqlite://:memory:"))
            connections.append(connect(stack, client))
        for connection in connections:
            connection.sendall(GET)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        ended, _, _ = select.select(connections, [], [], LONG / 2)
        assert ended == connections[1:]
        assert connections[1].recv(1) == b""


def test_an_open_request_is_waited_for_drain_s_at_the_end(tmp_path: Path) -> None:
    servers: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        connections = []
        for seconds in (LONG, 1):
            server, client = stack.enter_context(
                process(tmp_path, drain_s=seconds, drain_wait_s=0, request_timeout_s=LONG, store="sqlite://:memory:")
            )
            servers.append(server)
            connections.append(connect(stack, client))
            connections[-1].sendall(HALF)
        time.sleep(0.3)  # the halves are read
        for server in servers:
            server.send_signal(signal.SIGTERM)
        patient, hasty = servers
        output, _ = hasty.communicate(timeout=LONG / 2)
        assert hasty.returncode == 0, output
        assert patient.poll() is None
        connections[0].sendall(BODY[4:])
        assert connections[0].recv(65536).startswith(b"HTTP/1.1 200")
        output, _ = patient.communicate(timeout=LONG / 2)
        assert patient.returncode == 0, output


@pytest.mark.redis
@pytest.mark.parametrize("most", [2, 5])
async def test_redis_is_asked_over_store_connections_at_most(redis_server: RedisServer, most: int) -> None:
    async with running(Circle(), store=redis_server.url, store_connections=most, store_timeout_ms=4000) as run:
        with redis.Redis(port=redis_server.port) as admin:

            def connected() -> int:
                return len([one for one in admin.client_list() if int(one["id"]) != own])

            own = admin.client_id()
            admin.client_pause(1000, all=False)  # writes wait, each on a connection of its own
            events = [{"event_id": f"{most}-{n}", "user_id": f"u{n}", "item_id": "i1"} for n in range(12)]
            told = [asyncio.create_task(run.client.post("/events", json=event)) for event in events]
            seen = [connected()]
            while not all(task.done() for task in told):
                await asyncio.sleep(0.01)
                seen.append(await asyncio.to_thread(connected))
    assert {task.result().status_code for task in told} == {200}
    assert max(seen) == most


async def test_a_replica_asks_for_items_every_catalogue_poll_ms(tmp_path: Path) -> None:
    store = {"store": f"sqlite:///{tmp_path / 'shared.db'}"}
    async with (
        running(Circle(), **store) as here,
        running(Circle(), catalogue_poll_ms=20, **store) as often,
        running(Circle(), catalogue_poll_ms=60_000, **store) as seldom,
    ):
        assert (await here.client.delete("/items/i4")).status_code == 200
        async with asyncio.timeout(30):
            while "i4" in await often.ids(history=["i3"], k=2):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # twice the default
        assert await seldom.ids(history=["i3"], k=1) == ["i4"]
