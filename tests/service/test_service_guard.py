"""The circuit breaker around the store: who waits, who does not, and who finds out that it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.guard import FAILURES, REST_S, Breaker, Guard, State
from service.stores import open_store
from service.stores.contract import Store, StoreUnavailable
from service.stores.gather import Gather


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock=clock)
    for _ in range(FAILURES):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_some_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            breaker.failed()
        assert (breaker.state, breaker.ok) == (State.CLOSED, False)
        breaker.succeeded()
        assert breaker.ok
    assert breaker.admits()


def test_after_a_rest_one_probe_goes_through_and_decides() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admits()
    clock.now += REST_S
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert breaker.state is State.OPEN
    clock.now += REST_S / 2
    assert not breaker.admits()  # the rest began again
    clock.now += REST_S / 2
    assert breaker.admits()
    breaker.succeeded()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_a_late_success_from_before_the_outage_does_not_close_it() -> None:
    breaker = opened(Clock())
    breaker.succeeded()
    assert breaker.state is State.OPEN


def test_a_probe_that_is_cancelled_leaves_the_next_call_to_be_one() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits()


async def test_while_it_is_open_the_store_is_left_alone_and_writes_do_not_stop_reads() -> None:
    store = await open_store("sqlite://:memory:")
    failures: list[str] = []
    guard = Guard(store, on_failure=failures.append)
    asked = 0

    async def refuse(store: Store) -> None:
        nonlocal asked
        asked += 1
        raise StoreUnavailable("no room")

    for _ in range(FAILURES + 5):
        with pytest.raises(StoreUnavailable):
            await guard.write("append", refuse)
    assert asked == FAILURES
    assert failures == ["append"] * (FAILURES + 5)
    assert not guard.ok
    await guard.read("ping", lambda store: store.ping())
    await store.close()


async def test_a_round_trip_that_fails_for_many_is_one_failure() -> None:
    """One slow answer of Redis at 200 requests a second was twenty failures, and a second without histories."""
    guard = Guard(await open_store("sqlite://:memory:"))

    async def silent(users: Sequence[str]) -> list[str]:
        await asyncio.sleep(0.01)
        raise StoreUnavailable("no answer in time")

    reads = Gather(silent)
    for turn in range(FAILURES):
        assert guard.reads.state is State.CLOSED
        asked = [guard.read("read_user", lambda _, n=n: reads.ask(f"u{n}")) for n in range(20)]  # type: ignore[misc]
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in failed} == {StoreUnavailable}, turn
    assert guard.reads.state is State.OPEN
    await guard.store.close()


async def test_a_cancelled_call_is_no_failure() -> None:
    store = await open_store("sqlite://:memory:")
    guard = Guard(store)

    async def never(store: Store) -> None:
        await asyncio.Event().wait()

    calls = [asyncio.create_task(guard.read("read_user", never)) for _ in range(FAILURES)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert guard.ok
    await guard.read("ping", lambda store: store.ping())
    await store.close()
