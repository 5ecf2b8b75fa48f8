"""How often somebody may ask: the bucket by a clock of our own, and the answer over HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.keys import Scope, key_line, new_key
from service.limiter import RateLimiter, network_of
from tests.service.test_service_refusals import check
from tests.service.toy import Circle, running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 5, clock=clock)
    assert [limiter.take("a") for _ in range(5)] == [0] * 5
    assert limiter.take("a") == pytest.approx(0.5)
    assert limiter.take("b") == 0  # everybody has their own
    clock.now += 0.4
    assert limiter.take("a") == pytest.approx(0.1)
    clock.now += 0.1
    assert limiter.take("a") == 0
    clock.now += 1e6
    assert [limiter.take("a") > 0 for _ in range(6)] == [False] * 5 + [True]  # never more than the burst


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_burst_plus_rate_times_time(rate: float, burst: int, gaps: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock=clock)
    passed = 0
    for gap in gaps:
        clock.now += gap
        passed += limiter.take("a") == 0
        assert passed <= burst + rate * (clock.now - 1000) + 1e-6


@given(rate=st.floats(0.1, 100), gaps=st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_whoever_waits_as_told_passes(rate: float, gaps: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, 1, clock=clock)
    for gap in gaps:
        clock.now += gap
        if wait := limiter.take("a"):
            clock.now += wait + 1e-9
            assert limiter.take("a") == 0


def test_memory_is_bounded_and_whoever_is_forgotten_starts_afresh() -> None:
    limiter = RateLimiter(0.001, 1, clock=Clock(), max_buckets=100)
    assert [limiter.take("first"), limiter.take("first") > 0] == [0, True]
    for n in range(100_000):
        limiter.take(f"somebody {n}")
    assert len(limiter) == 100
    assert limiter.take("first") == 0  # open rather than closed


def test_zero_is_off_and_remembers_nobody() -> None:
    limiter = RateLimiter(0)
    assert [limiter.take("a") for _ in range(1000)] == [0] * 1000
    assert len(limiter) == 0


def test_a_burst_of_zero_is_two_seconds_worth_and_never_none() -> None:
    assert [RateLimiter(rate).burst for rate in (0.1, 0.6, 50)] == [1, 2, 100]


@pytest.mark.parametrize(
    ("address", "whom"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_network_counts_as_one(address: str, whom: str) -> None:
    assert network_of(address) == whom


async def test_over_http_it_is_429_with_retry_after_for_each_key_and_probes_pass() -> None:
    one, two = new_key(), new_key()
    lines = ";".join([key_line("one", [Scope.RECOMMEND], one), key_line("two", [Scope.RECOMMEND], two)])
    async with running(Circle(), keys=lines, rate_limit=0.01, rate_burst=2) as run:

        async def ask(**headers: str) -> int:
            answer = await run.client.post("/recommend", json={}, headers=headers)
            if answer.status_code == 429:
                check(answer, "rate_limited")
                assert 90 <= int(answer.headers["retry-after"]) <= 100
            return answer.status_code

        for headers in ({"x-api-key": one}, {"authorization": f"Bearer {two}"}):
            assert [await ask(**headers) for _ in range(3)] == [200, 200, 429]
        # Wrong keys count against the address, together with no key: guessing is limited too.
        assert [await ask(), await ask(**{"x-api-key": new_key()}), await ask(**{"x-api-key": new_key()})] == [
            401,
            401,
            429,
        ]
        assert (await run.client.get("/nowhere")).status_code == 429
        for path in ("/livez", "/readyz"):
            assert [(await run.client.get(path)).status_code for _ in range(5)] == [200] * 5
