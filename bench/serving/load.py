"""The load: requests at a fixed mean rate whatever the answers take (open loop), or as fast as some clients can (closed
loop).

In the open loop arrivals are Poisson, drawn from a seed, and a latency counts from the moment at which the request
was meant to start: a server that stalls is charged for everyone who came meanwhile (no coordinated omission). The
client is one asyncio protocol over keep-alive connections that knows just enough HTTP/1.1 for our own server; it costs
about a tenth of a millisecond a request, since it shares the machine with what it measures.

    result = run(open_loop("127.0.0.1", 8000, request_of, rate=200, seconds=8))
    result.latency_ms(50), result.errors, result.rate
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

LOST = 0
"""The status of a request whose connection ended without an answer."""


def post(path: str, body: dict[str, Any]) -> bytes:
    """A whole HTTP/1.1 request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


@dataclass(slots=True)
class Answer:
    """started, ended: seconds of time.perf_counter(); started is when it was meant to start."""

    kind: str
    started: float
    ended: float
    status: int
    body: bytes


@dataclass
class Result:
    """Every answer of a run, and how long it lasted. late_ms: how late the generator itself was, worst case."""

    seconds: float
    answers: list[Answer] = field(default_factory=list)
    late_ms: float = 0.0

    @property
    def errors(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def statuses(self) -> dict[int, int]:
        return dict(Counter(answer.status for answer in self.answers))

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return (len(self.answers) - self.errors) / self.seconds

    def latency_ms(self, percent: float, kind: str | None = None) -> float:
        """A percentile of the latency of what was answered 200."""
        found = sorted(
            answer.ended - answer.started
            for answer in self.answers
            if answer.status == 200 and kind in (None, answer.kind)
        )
        return 1000 * found[min(len(found) - 1, int(len(found) * percent / 100))] if found else float("nan")


_IDLE_S = 3.0
"""A connection that was idle for longer is not used again: the server ends it after 5 s, maybe just now."""


class _Connection(asyncio.Protocol):
    """One request at a time. `done(status, body)` is called once for each."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: Callable[[int, bytes], None] | None = None
        self._buffer = b""
        self._wanted = -1
        self._body_at = 0
        self._last = False  # the server has asked us to leave
        self.used = time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes, done: Callable[[int, bytes], None]) -> None:
        assert self.transport is not None
        self.done = done
        self._buffer, self._wanted = b"", -1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._wanted < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            self._last = b"\r\nconnection: close" in head
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._body_at = end + 4
            self._wanted = self._body_at + length
        if len(self._buffer) >= self._wanted and self.done is not None:
            if self._last and self.transport is not None:
                self.transport.close()
            self.used = time.perf_counter()
            done, self.done = self.done, None
            done(int(self._buffer[9:12]), self._buffer[self._body_at : self._wanted])

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.done is not None:
            done, self.done = self.done, None
            done(LOST, b"")


@dataclass
class _Pool:
    """Keep-alive connections; a new one is opened when none is free."""

    host: str
    port: int
    free: list[_Connection] = field(default_factory=list)
    all: list[_Connection] = field(default_factory=list)

    async def take(self) -> _Connection:
        while self.free:
            connection = self.free.pop()
            if connection.transport is None or connection.transport.is_closing():
                continue
            if time.perf_counter() - connection.used < _IDLE_S:
                return connection
            connection.transport.close()
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self.host, self.port)
        self.all.append(connection)
        return connection

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body; LOST where there is no answer."""
        try:
            connection = await self.take()
        except OSError:
            return LOST, b""
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        connection.ask(request, lambda status, body: future.done() or future.set_result((status, body)))
        status, body = await future
        if status != LOST:
            self.free.append(connection)
        return status, body

    def close(self) -> None:
        for connection in self.all:
            if connection.transport is not None:
                connection.transport.close()


RequestOf = Callable[[random.Random], tuple[str, bytes]]
"""What is asked next: a kind, for the table, and the request."""


async def open_loop(
    host: str, port: int, request_of: RequestOf, *, rate: float, seconds: float, seed: int = 0, patience: float = 30.0
) -> Result:
    """`rate` requests a second on average for `seconds`. Waits `patience` seconds for the last answers."""
    draw, pool, result = random.Random(seed), _Pool(host, port), Result(seconds)
    at, plan = 0.0, []
    while (at := at + draw.expovariate(rate)) < seconds:
        plan.append((at, *request_of(draw)))
    pool.free = [await pool.take() for _ in range(8)]

    async def one(started: float, kind: str, request: bytes) -> None:
        status, body = await pool.ask(request)
        result.answers.append(Answer(kind, started, time.perf_counter(), status, body))

    begun = time.perf_counter() + 0.05
    tasks = []
    for offset, kind, request in plan:
        if (wait := begun + offset - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        result.late_ms = max(result.late_ms, 1000 * (time.perf_counter() - begun - offset))
        tasks.append(asyncio.create_task(one(begun + offset, kind, request)))
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=patience)
        for task in pending:
            task.cancel()
        result.answers += [Answer("unanswered", begun, time.perf_counter(), LOST, b"") for _ in pending]
    pool.close()
    return result


async def closed_loop(
    host: str, port: int, request_of: RequestOf, *, clients: int, seconds: float, seed: int = 0
) -> Result:
    """As fast as `clients` can, each asking again as soon as it is answered: what the server can do at most."""
    draw, pool, result = random.Random(seed), _Pool(host, port), Result(seconds)
    begun = time.perf_counter()

    async def client() -> None:
        while (started := time.perf_counter()) < begun + seconds:
            kind, request = request_of(draw)
            status, body = await pool.ask(request)
            result.answers.append(Answer(kind, started, time.perf_counter(), status, body))

    await asyncio.gather(*(client() for _ in range(clients)))
    result.seconds = time.perf_counter() - begun
    pool.close()
    return result


def run(load: Coroutine[Any, Any, T]) -> T:
    """Runs a load on an event loop whose timers are exact: epoll and uvloop round waits to whole milliseconds."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(load)
    finally:
        loop.close()
