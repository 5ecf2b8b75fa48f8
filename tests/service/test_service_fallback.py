"""The ladder, rung by rung, and user tokens: kept, hit, outgrown; with SQLite and with a real Redis."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Sequence

import numpy as np
import pytest
import redis

from model.catalogue import Mask, Rows
from model.recommender import Dials, Floats, UserTokens
from service.errors import ApiError
from tests.redis_server import RedisServer
from tests.service.toy import Circle, running


async def test_generate_failing_is_answered_by_neighbours() -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"generate"}
        answer = await run.recommend(history=["i10", "i10", "i12"], k=2)
    assert answer["source"] == "neighbours"
    assert [item["item_id"] for item in answer["items"]] == ["i11", "i9"]


async def test_encode_failing_without_tokens_is_answered_by_neighbours() -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"encode"}
        assert (await run.recommend(history=["i10"]))["source"] == "neighbours"


async def test_encode_failing_with_old_tokens_is_answered_as_stale() -> None:
    circle = Circle()
    async with running(circle) as run:
        await run.tell("ann", "i10")
        await run.recommend(user_id="ann")
        await run.settle()
        await run.tell("ann", "i30", start=1)
        circle.broken = {"encode"}
        answer = await run.recommend(user_id="ann", k=2)
        assert answer["source"] == "stale"
        assert [item["item_id"] for item in answer["items"]] == ["i11", "i12"]
        circle.broken = set()
        answer = await run.recommend(user_id="ann", k=1)
        assert (answer["source"], answer["items"][0]["item_id"]) == ("model", "i31")


async def test_everything_failing_is_answered_by_popular() -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"encode", "generate", "retrieve", "neighbours"}
        answer = await run.recommend(history=["i0"], k=2)
        assert answer["source"] == "popular"
        assert [item["item_id"] for item in answer["items"]] == ["i1", "i2"]
        circle.broken = set()
        assert (await run.recommend(history=["i0"]))["source"] == "model"


async def test_one_poisoned_history_harms_only_itself() -> None:
    class Picky(Circle):
        def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
            if any(history[-1:].tolist() == [13] for history in histories):
                raise RuntimeError("thirteen")
            return super().encode(histories)

    async with running(Picky()) as run:
        answers = await asyncio.gather(*(run.recommend(history=[f"i{n}"]) for n in range(10, 18)))
    assert [answer["source"] for answer in answers] == ["neighbours" if n == 13 else "model" for n in range(10, 18)]


async def test_a_recommender_that_breaks_its_word_is_corrected() -> None:
    """Rows that are not eligible, twice the same, and too few: dropped, and the list is filled."""

    class Careless(Circle):
        def retrieve(self, taste: object, eligible: Mask, k: int) -> tuple[Rows, Floats]:
            rows, scores = super().retrieve(taste, eligible, k)
            if not eligible.all() and len(rows) > 2:  # the list itself, not what is asked for to fill it
                rows[0] = rows[1]
                rows[2] = 5  # seen
            return rows, scores

    async with running(Careless()) as run:
        answer = await run.recommend(history=["i5"], k=4)
    found = [item["item_id"] for item in answer["items"]]
    assert "i5" not in found
    assert len(set(found)) == 4


async def test_a_model_that_hangs_costs_its_timeout_and_no_more() -> None:
    class Slow(Circle):
        def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[Floats]:
            if 39 in self.encoded:  # the length of the history that asks for it
                time.sleep(3.0)
            return super().generate(tokens, dials)

    async with running(Slow(), model_timeout_ms=50) as run:
        started = time.perf_counter()
        answer = await run.recommend(history=[f"i{n}" for n in range(39)], k=1)
        assert time.perf_counter() - started < 2.5
        assert answer["source"] == "popular"
        assert [item["item_id"] for item in answer["items"]] == ["i39"]


async def test_the_user_hears_nothing_of_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"generate"}
        with caplog.at_level(logging.ERROR):
            answer = await run.client.post("/recommend", json={"history": ["i1"]})
    assert "broken" not in answer.text
    assert "generate is broken" in caplog.text


# ------------------------------------------------------------------------------------------------------ user tokens


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> str:
    """The address of an empty store."""
    if request.param == "sqlite":
        return "sqlite://:memory:"
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis(port=server.port) as plain:
        plain.flushall()
    return server.url


async def test_a_hit_skips_the_trunk_and_a_longer_history_invalidates(store: str) -> None:
    circle = Circle()
    async with running(circle, store=store, store_timeout_ms=2000) as run:
        circle.encoded.clear()
        await run.tell("ann", "i3", "i7")
        first = await run.recommend(user_id="ann")
        await run.settle()
        assert circle.encoded == [2]
        second = await run.recommend(user_id="ann")
        assert circle.encoded == [2]  # the trunk was not asked again
        assert second["items"] == first["items"]
        assert second["source"] == "model"
        assert second["timings_ms"]["encode"] == 0
        await run.tell("ann", "i20", start=2)
        third = await run.recommend(user_id="ann", k=1)
        assert circle.encoded == [2, 3]
        assert third["items"][0]["item_id"] == "i21"
        await run.settle()
        await run.recommend(user_id="ann")
        assert circle.encoded == [2, 3]


async def test_tokens_of_another_bundle_version_are_not_used(store: str) -> None:
    circle = Circle()
    async with running(circle, store=store, store_timeout_ms=2000) as run:
        await run.tell("ann", "i3")
        await run.recommend(user_id="ann")
        await run.settle()
        await run.service.bundles.adopt(circle, "circle", "2")
        circle.encoded.clear()
        answer = await run.recommend(user_id="ann")
        assert answer["bundle"] == "circle/2"
        assert circle.encoded == [1]


async def test_a_given_history_neither_reads_nor_writes_tokens(store: str) -> None:
    circle = Circle()
    async with running(circle, store=store, store_timeout_ms=2000) as run:
        await run.tell("ann", "i3")
        circle.encoded.clear()
        for _ in range(2):
            await run.recommend(user_id="ann", history=["i9", "i10"])
            await run.settle()
        assert circle.encoded == [2, 2]
        assert (await run.service.store.read_user("ann", "circle/1")).tokens is None


async def test_tokens_that_cannot_be_read_are_made_again() -> None:
    circle = Circle()
    async with running(circle) as run:
        await run.tell("ann", "i3")
        version = (await run.service.store.read_user("ann", "circle/1")).version
        await run.service.store.write_tokens("ann", "circle/1", version, b"nonsense", ttl=60)
        answer = await run.recommend(user_id="ann", k=1)
        assert (answer["source"], answer["items"][0]["item_id"]) == ("model", "i4")
        await run.settle()
        record = await run.service.store.read_user("ann", "circle/1")
        assert record.tokens is not None
        UserTokens.from_bytes(record.tokens[8:])


@pytest.mark.redis
async def test_redis_really_holds_the_user_tokens(redis_server: RedisServer) -> None:
    circle = Circle()
    with redis.Redis(port=redis_server.port) as plain:
        plain.flushall()
        async with running(circle, store=redis_server.url, store_timeout_ms=2000, token_ttl_s=500) as run:
            await run.tell("ann", "i3", "i7")
            await run.recommend(user_id="ann")
            await run.settle()
            value = plain.get("contrec:tokens:circle/1:ann")
            assert isinstance(value, bytes)
            assert UserTokens.from_bytes(value[16:]).condition.tolist() == circle.ahead(np.array([3, 7])).tolist()
            assert int.from_bytes(value[:8], "little") == 2
            assert 490 <= int(str(plain.ttl("contrec:tokens:circle/1:ann"))) <= 500
            # Without the key the trunk is asked again: it is this key that made the hit.
            circle.encoded.clear()
            await run.recommend(user_id="ann")
            assert circle.encoded == []
            plain.delete("contrec:tokens:circle/1:ann")
            await run.recommend(user_id="ann")
            assert circle.encoded == [2]


# --------------------------------------------------------------------------------------------- the store out of reach


@pytest.mark.redis
async def test_redis_stopped_in_mid_run_and_back_without_a_restart(own_redis: RedisServer) -> None:
    event = {"event_id": "late", "user_id": "ann", "item_id": "i30", "time": 99}
    async with running(Circle(), store=own_redis.url, store_timeout_ms=500) as run:
        await run.tell("ann", "i3")
        assert "degraded" not in await run.recommend(user_id="ann")
        await run.settle()
        own_redis.stop()
        answer = await run.recommend(user_id="ann", history=["i9"], k=3)
        assert answer["degraded"] == "history_unavailable"
        assert answer["source"] == "model"
        assert [item["item_id"] for item in answer["items"]] == ["i10", "i11", "i12"]  # what is known is excluded
        answer = await run.recommend(user_id="ann")
        assert (answer["degraded"], answer["source"]) == ("history_unavailable", "popular")
        assert "degraded" not in await run.recommend(history=["i9"])  # needs no store
        refused = await run.client.post("/events", json=event)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "store_unavailable"
        ready = await run.client.get("/readyz")
        assert (ready.status_code, ready.json()["store"]) == (200, "unavailable")
        own_redis.start()
        # Three failures in a row leave the store alone for a second; on a busy machine they may have come together.
        deadline = time.monotonic() + 10

        async def top() -> str:
            while "degraded" in (answer := await run.recommend(user_id="ann", k=1)):
                assert time.monotonic() < deadline, answer
                await asyncio.sleep(0.1)
            return str(answer["items"][0]["item_id"])

        assert await top() == "i4"
        while (taken := await run.client.post("/events", json=event)).status_code == 503:
            assert time.monotonic() < deadline, taken.text
            await asyncio.sleep(0.1)
        assert taken.json() == {"accepted": 1, "repeated": 0}
        assert await top() == "i31"
        assert (await run.client.get("/readyz")).json()["store"] == "ok"


@pytest.mark.redis
async def test_neither_bundle_nor_store_is_an_empty_list(own_redis: RedisServer) -> None:
    own_redis.stop()
    async with running(store=own_redis.url) as run:
        answer = await run.recommend(user_id="ann")
    assert (answer["items"], answer["degraded"]) == ([], "history_unavailable")


@pytest.mark.redis
async def test_a_write_that_was_not_confirmed_is_not_said_to_be_lost(own_redis: RedisServer) -> None:
    """Redis hangs with the event in its hands: it is kept after all, and sending it again is harmless."""
    event = {"event_id": "a1", "user_id": "ann", "item_id": "i3"}
    async with running(Circle(), store=own_redis.url) as run:
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            refused = [await run.client.post("/events", json=event), await run.client.put("/items/i3", json={})]
            with pytest.raises(ApiError, match="whether the user was erased is not known"):
                await run.service.users.erase("bob")
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        assert [answer.status_code for answer in refused] == [503] * 2
        for answer in refused:
            assert "is not known. Send it again" in answer.json()["error"]["message"]
            assert answer.headers["Retry-After"] == "1"
        while (await run.client.post("/events", json=event)).json() != {"accepted": 0, "repeated": 1}:
            await asyncio.sleep(0.05)  # the breaker lets nothing through for a second
