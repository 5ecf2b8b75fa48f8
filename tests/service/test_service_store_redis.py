"""The shared store on a real redis-server: the contract, and what is its own: TTLs, timeouts, cancellation, loss."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
import uvloop

from service.stores.contract import Appended, Event, Store, StoreUnavailable, UserRecord, append_all
from service.stores.redis import RedisStore
from tests.contracts.store_contract import BUNDLE, StoreContract, event
from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis


class TestRedis(StoreContract):
    @pytest.fixture
    async def store(self, redis_server: RedisServer) -> AsyncIterator[Store]:
        with redis.Redis(port=redis_server.port) as plain:
            plain.flushall()
        store = RedisStore.connect(redis_server.url, timeout=2.0)
        yield store
        await store.close()

    async def test_only_tokens_may_be_evicted_or_expire(self, store: Store, redis_server: RedisServer) -> None:
        await store.append([event("ann", "a")])
        await store.write_tokens("ann", BUNDLE, 1, b"tokens", ttl=60.0)
        with redis.Redis(port=redis_server.port) as plain:
            volatile = {key for key in plain.scan_iter() if plain.ttl(key) >= 0}
            assert all(key.startswith(b"contrec:") for key in plain.scan_iter())
        assert volatile == {b"contrec:tokens:movies/1:ann"}

    async def test_a_user_does_not_grow_with_every_bundle_that_they_have_met(
        self, store: Store, redis_server: RedisServer
    ) -> None:
        await store.append([event("ann", "a")])
        await store.write_tokens("ann", "movies/kept", 1, b"tokens", ttl=60.0)
        for night in range(5):
            await store.write_tokens("ann", f"movies/{night}", 1, b"tokens", ttl=0.001)
            await asyncio.sleep(0.01)
        await store.write_tokens("ann", "movies/last", 1, b"tokens", ttl=60.0)
        with redis.Redis(port=redis_server.port) as plain:
            assert plain.smembers("contrec:bundles:ann") == {b"movies/kept", b"movies/last"}
            await store.erase("ann")
            assert set(plain.keys()) <= {b"contrec:position", b"contrec:log"}

    async def test_erase_leaves_no_key_of_the_user(self, store: Store, redis_server: RedisServer) -> None:
        await store.append([event("ann", "a")])
        await store.write_tokens("ann", BUNDLE, 1, b"tokens", ttl=60.0)
        await store.write_tokens("ann", "movies/2", 1, b"tokens", ttl=60.0)
        await store.erase("ann")
        with redis.Redis(port=redis_server.port) as plain:
            assert set(plain.keys()) <= {b"contrec:position", b"contrec:log"}

    async def test_an_erasure_that_is_interrupted_is_whole_for_readers_and_finished_by_the_next(
        self, store: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert isinstance(store, RedisStore)
        await append_all(store, [event("ann", f"old{n % 700}", float(n)) for n in range(2000)])
        await store.append([event("bob", "old0")])
        forget, reached = store._forget, iter([True, False, False])

        async def once(*given: Any, **named: Any) -> Any:
            if next(reached):
                return await forget(*given, **named)
            raise redis.ConnectionError("gone")

        with redis.Redis(port=redis_server.port) as plain, monkeypatch.context() as patch:
            patch.setattr(store, "_forget", once)
            with pytest.raises(StoreUnavailable, match="gone"):
                await store.erase("ann")
            assert 2001 - 500 <= plain.xlen("contrec:log") < 2001, "one script removes a few hundred"
            assert await store.read_user("ann", BUNDLE) == UserRecord()
            assert await store.user_events("ann") == []
            await store.append([event("ann", "new")])
            assert (await store.read_user("ann", BUNDLE)).seen == {"new"}
            with pytest.raises(StoreUnavailable, match="gone"):
                await store.erase("ann")
            left = plain.xlen("contrec:log")
        assert await store.erase("ann") == left - 1, "the rest of the first history and the second one, and not bob's"
        assert await store.read_user("ann", BUNDLE) == UserRecord()
        assert await store.popular(5) == [("old0", 1)]
        with redis.Redis(port=redis_server.port) as plain:
            keys = {"position", "log", "event_ids", "popular", "seen:bob", "history:bob", "positions:bob"}
            assert {key.decode() for key in plain.scan_iter()} == {f"contrec:{key}" for key in keys}

    async def test_a_page_of_a_users_events_costs_what_is_on_it(self, store: Store, redis_server: RedisServer) -> None:
        await append_all(store, [event("ann", "a") for _ in range(5000)])
        await store.user_events("ann", n=1)
        with redis.Redis(port=redis_server.port) as plain:
            before = plain.info("stats")["total_net_output_bytes"]
            assert len(await store.user_events("ann", n=1)) == 1
            assert plain.info("stats")["total_net_output_bytes"] - before < 15_000  # of which INFO is a half

    async def test_a_read_is_one_round_trip(self, store: Store, redis_server: RedisServer) -> None:
        await store.append([event("ann", "a")])
        await store.read_user("ann", BUNDLE)
        with redis.Redis(port=redis_server.port) as plain:
            before = plain.info("stats")["total_reads_processed"]
            await store.read_user("ann", BUNDLE)
            # One for the read, one for the second INFO.
            assert plain.info("stats")["total_reads_processed"] - before == 2

    async def test_a_cancelled_read_leaves_nobody_elses_reply(self, redis_server: RedisServer, store: Store) -> None:
        """redis-py #2633: a cancelled task left its reply on the connection, for the next one to read."""
        await store.append([event("ann", "of-ann"), event("bob", "of-bob")])
        one = RedisStore.connect(redis_server.url, timeout=2.0, connections=1)
        await one.read_user("ann", BUNDLE)
        for steps in range(12):
            reading = asyncio.create_task(one.read_user("ann", BUNDLE))
            for _ in range(steps):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert (await one.read_user("bob", BUNDLE)).history == ("of-bob",)
        await one.close()


async def test_a_stopped_server_is_unavailable_and_back_without_a_restart(own_redis: RedisServer) -> None:
    store = RedisStore.connect(own_redis.url, timeout=0.5)
    await store.append([Event("e1", "ann", "a")])
    own_redis.stop()
    for work in (store.ping(), store.read_user("ann", BUNDLE), store.append([event("ann", "b")]), store.popular(3)):
        with pytest.raises(StoreUnavailable, match="Redis"):
            await work
    own_redis.start()
    assert (await store.read_user("ann", BUNDLE)).history == ("a",)
    assert await store.append([Event("e1", "ann", "a"), Event("e2", "ann", "b")]) == Appended(1, 1)
    await store.close()


async def test_a_paused_server_costs_one_timeout(own_redis: RedisServer) -> None:
    store = RedisStore.connect(own_redis.url, timeout=0.1)
    await store.append([event("ann", "a")])
    assert own_redis.process is not None
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer within 100 ms"):
            await store.read_user("ann", BUNDLE)
        assert time.monotonic() - start < 0.6
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)
    assert (await store.read_user("ann", BUNDLE)).history == ("a",)
    await store.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_was_held_up_hears_the_answer_that_came_meanwhile(
    own_redis: RedisServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Redis answers after 50 of the 100 ms; nobody looks for 300."""

    async def read() -> UserRecord:
        store = RedisStore.connect(own_redis.url, timeout=0.1)
        await store.append([event("ann", "a")])
        with redis.Redis(port=own_redis.port) as plain:
            plain.client_pause(50)
        reading = asyncio.create_task(store.read_user("ann", BUNDLE))
        await asyncio.sleep(0.01)
        time.sleep(0.3)
        found = await reading
        await store.close()
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(read()).history == ("a",)


async def test_a_server_without_memory_refuses_the_whole_append(own_redis: RedisServer) -> None:
    store = RedisStore.connect(own_redis.url, timeout=2.0)
    await store.append([event("ann", "a")])
    with redis.Redis(port=own_redis.port) as plain:
        plain.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="memory"):
            await store.append([event("ann", "b"), event("ann", "c")])
        assert (await store.read_user("ann", BUNDLE)).seen == {"a"}
        plain.config_set("maxmemory", "0")
    assert await store.append([event("ann", "b")]) == Appended(1, 0)
    await store.close()


async def test_events_survive_a_restart_of_the_server(own_redis: RedisServer) -> None:
    store = RedisStore.connect(own_redis.url, timeout=2.0)
    await store.append([event("ann", "a", 1.0), event("ann", "b", 2.0)])
    own_redis.stop()
    own_redis.start()
    assert (await store.read_user("ann", BUNDLE)).history == ("a", "b")
    await store.close()


async def test_fifteen_thousand_events_are_imported_in_two_seconds(own_redis: RedisServer) -> None:
    store = RedisStore.connect(own_redis.url, timeout=2.0)
    events = [event(f"u{n % 500}", f"i{n % 300}", float(n)) for n in range(15_000)]
    start = time.process_time()
    assert await append_all(store, events) == Appended(15_000, 0)
    assert time.process_time() - start < 2.0
    await store.close()
