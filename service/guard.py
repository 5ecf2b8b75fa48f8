"""The store behind a circuit breaker: while it does not answer, nobody waits for it.

Reads and writes have a breaker each, because a full disk or a Redis without memory refuses writes and still reads.
A breaker opens after some failures in a row, refuses everything for a while, then lets one call through as a probe:
its success closes the breaker, its failure opens it for another while. A round trip that failed for all who shared it
is one failure: a single slow answer under load must not shut the store out for a second. Knows no HTTP and no metric's
name.

    guard = Guard(store, on_failure=count)
    record = await guard.read("read_user", lambda store: store.read_user("42", "movies/1"))
    await guard.write("append", lambda store: store.append(events))       # both raise StoreUnavailable
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar

from service.stores.contract import Store, StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES: Final = 3
"""Failures in a row that open a breaker: how many round trips may time out before nobody waits any more."""

REST_S: Final = 1.0
"""Seconds that an open breaker refuses before it lets a probe through."""


class State(StrEnum):
    """closed: calls go through. open: none does. half_open: one is under way and decides."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """One circuit breaker, for one event loop. clock: seconds, monotonic."""

    def __init__(
        self, failures: int = FAILURES, rest: float = REST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._in_a_row = 0
        self._opened = 0.0
        self.state = State.CLOSED

    @property
    def ok(self) -> bool:
        """Whether the last call that came back came back well."""
        return self._in_a_row == 0

    def admits(self) -> bool:
        """Whether a call may go through now. In the half-open state that is the probe, and only one."""
        if self.state is State.OPEN and self._clock() - self._opened >= self._rest:
            self.state = State.HALF_OPEN
            return True
        return self.state is State.CLOSED

    def succeeded(self) -> None:
        """A call came back well. Only a probe closes a breaker: an answer from before the outage says nothing."""
        if self.state is State.OPEN:
            return
        self._in_a_row = 0
        self.state = State.CLOSED

    def failed(self) -> bool:
        """A call failed. Whether this began an outage: opened a closed breaker."""
        self._in_a_row += 1
        before = self.state
        if before is State.HALF_OPEN or self._in_a_row >= self._failures:
            self.state = State.OPEN
            self._opened = self._clock()
        return before is State.CLOSED and self.state is State.OPEN

    def abandoned(self) -> None:
        """A call was cancelled and says nothing of the store; if it was the probe, the next call is one."""
        if self.state is State.HALF_OPEN:
            self.state = State.OPEN


class Guard:
    """A store and its two breakers. on_failure(operation): told of each call that failed or was refused."""

    def __init__(self, store: Store, on_failure: Callable[[str], None] = lambda operation: None) -> None:
        self.store = store
        self.reads = Breaker()
        self.writes = Breaker()
        self._on_failure = on_failure

    @property
    def ok(self) -> bool:
        """Whether the store answered when it was last asked, for reading and for writing."""
        return self.reads.ok and self.writes.ok

    async def read(self, operation: str, work: Callable[[Store], Awaitable[T]]) -> T:
        """work(store), through the breaker of reads. Raises StoreUnavailable."""
        return await self._through(self.reads, operation, work)

    async def write(self, operation: str, work: Callable[[Store], Awaitable[T]]) -> T:
        """work(store), through the breaker of writes. Raises StoreUnavailable."""
        return await self._through(self.writes, operation, work)

    async def _through(self, breaker: Breaker, operation: str, work: Callable[[Store], Awaitable[T]]) -> T:
        if not breaker.admits():
            self._on_failure(operation)
            raise StoreUnavailable("the store has not answered lately and is given a moment")
        before = breaker.state
        try:
            answer = await work(self.store)
        except StoreUnavailable as error:
            if not error.counted:
                error.counted = True
                if breaker.failed():  # once an outage, not once a request
                    log.warning("the store does not answer (%s): %s", operation, error)
            self._on_failure(operation)
            raise
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        if before is State.HALF_OPEN:
            log.info("the store answers again (%s)", operation)
        return answer
