"""What was said of items, as replicas hear it from a store: refused, silent, emptied, gone back, not to be placed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from model.catalogue import Item
from service.errors import ErrorCode
from service.schemas import Source
from service.stores.contract import StoredItem, StoreUnavailable
from tests.redis_server import RedisServer
from tests.service.test_service_refusals import check
from tests.service.toy import ITEMS, NEW, Circle, put, running, withdraw


@pytest.mark.parametrize("bad", [(3,), (0, 8), tuple(range(9))], ids=len)
async def test_an_item_that_cannot_be_placed_keeps_no_other_from_its_place(bad: tuple[int, ...]) -> None:
    said = [StoredItem(f"n{n}", text="nonsense" if n in bad else f"{n}.5") for n in range(9)]
    said.append(StoredItem("i4", withdrawn=True))
    unplaced = {f"n{n}" for n in bad}
    async with running(Circle()) as run:
        await run.service.store.write_items(said)
        await run.service.overlay.refresh()
        for item in said:
            answer = await run.client.get(f"/items/{item.item_id}")
            if item.withdrawn:
                assert answer.status_code == 404
            else:
                assert answer.json()["in_bundle"] is (item.item_id not in unplaced)
        assert run.service.overlay.unplaced == unplaced
        assert "i4" not in await run.ids(history=["i3"], k=ITEMS)
        await run.service.bundles.adopt(Circle(), "circle", "2")
        assert run.service.overlay.unplaced == unplaced
        await run.client.put(f"/items/n{bad[0]}", json={"text": "7.5"})
        assert run.service.overlay.unplaced == unplaced - {f"n{bad[0]}"}


async def test_a_store_that_refuses_is_503_and_what_was_known_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Circle()) as run:
        await withdraw(run, "i4")

        async def down(*_: object) -> None:
            raise StoreUnavailable("down")

        with monkeypatch.context() as patch:
            patch.setattr(run.service.store, "write_items", down)
            patch.setattr(run.service.store, "read_items", down)
            answer = await run.client.put("/items/new", json=NEW)
            check(answer, ErrorCode.STORE_UNAVAILABLE)
            assert answer.headers["retry-after"] == "1"
            check(await run.client.delete("/items/i6"), ErrorCode.STORE_UNAVAILABLE)
            assert await run.ids(history=["i3"], k=2) == ["i5", "i6"]


async def test_a_catalogue_that_was_never_heard_is_said_until_it_is(own_redis: RedisServer) -> None:
    async with running(Circle(), store=own_redis.url, store_timeout_ms=2000) as run:
        await withdraw(run, "i4")
    own_redis.stop()
    async with running(Circle(), store=own_redis.url, store_timeout_ms=300) as run:
        assert (await run.recommend(history=["i3"], k=1))["degraded"] == "catalogue_unavailable"
        own_redis.start()
        async with asyncio.timeout(10):
            while "degraded" in (answer := await run.recommend(history=["i3"], k=1)):
                await asyncio.sleep(0.05)
        assert answer["items"][0]["item_id"] == "i5"


async def test_a_list_without_a_user_that_does_without_something_is_counted() -> None:
    async with running(Circle(), catalogue_poll_ms=60_000) as run:  # the store is heard when the test says so
        run.service.overlay.known = False
        for path in ("/popular", "/items/i3/similar"):
            assert (await run.client.get(path)).json()["degraded"] == "catalogue_unavailable"
        run.service.overlay.known = True
        assert "degraded" not in (await run.client.get("/popular")).json()
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_degraded_total", {"reason": "catalogue_unavailable"}) == 2
        assert sum(value("contrec_recommendations_total", {"source": source}) or 0 for source in Source) == 0


@pytest.mark.redis
async def test_a_popular_list_that_the_store_is_silent_about_is_counted(own_redis: RedisServer) -> None:
    async with running(store=own_redis.url) as run:
        own_redis.stop()
        answer = (await run.client.get("/popular")).json()
        value = run.service.metrics.registry.get_sample_value
        assert (answer["items"], answer["degraded"]) == ([], "history_unavailable")
        assert value("contrec_degraded_total", {"reason": "history_unavailable"}) == 1


async def test_a_list_begun_before_the_catalogue_was_heard_says_so_though_it_is_heard_meanwhile() -> None:
    """Else a withdrawn item could stand in an answer that passes for whole."""
    async with running(Circle()) as run:
        overlay, users = run.service.overlay, run.service.users
        read = users.read

        async def read_and_hear(*given: Any) -> Any:
            overlay.known = True
            return await read(*given)

        overlay.known = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(users, "read", read_and_hear)
            assert (await run.recommend(history=["i3"], k=1))["degraded"] == "catalogue_unavailable"
            assert "degraded" not in await run.recommend(history=["i3"], k=1)
            overlay.known = False
            ranked = await run.client.post("/rank", json={"history": ["i3"], "items": ["i4", "i5"]})
            assert ranked.json()["degraded"] == "catalogue_unavailable"


async def test_a_text_that_cannot_be_placed_does_not_keep_a_withdrawn_item(caplog: pytest.LogCaptureFixture) -> None:
    class Picky(Circle):
        def with_items(self, items: Sequence[Item]) -> Circle:
            if items:
                raise ValueError("the text encoder cannot be loaded")
            return super().with_items(items)

    async with running(Picky()) as run:
        await run.service.overlay.write([])
        await put(run, "new", text="4.25")
        await withdraw(run, "i4")
        assert await run.ids(history=["i3"], k=2) == ["i5", "i6"]
        assert "cannot be loaded" in caplog.text
        await run.service.bundles.adopt(Circle(), "circle", "2")
        assert await run.ids(history=["i3"], k=2) == ["new", "i5"], "it waited for a bundle that can"


async def test_a_store_that_was_emptied_is_read_anew(redis_server: RedisServer) -> None:
    async with running(Circle(), store=redis_server.url, store_timeout_ms=2000, catalogue_poll_ms=60_000) as run:
        with redis.Redis(port=redis_server.port) as plain:
            plain.flushall()
        await put(run, "a", text="1.5")
        await put(run, "b", text="2.5")
        with redis.Redis(port=redis_server.port) as plain:
            plain.flushall()
        await put(run, "c", text="3.25")
        assert await run.ids(history=["i2"], k=1) == ["c"]


async def test_what_a_store_says_after_a_loss_is_heard_by_replicas_that_had_heard_what_was_lost(
    redis_server: RedisServer,
) -> None:
    """Versions that were counted began again: a withdrawal had the number of the write that was lost."""
    options: dict[str, Any] = {"store": redis_server.url, "store_timeout_ms": 2000, "catalogue_poll_ms": 60_000}
    with redis.Redis(port=redis_server.port) as plain:
        plain.flushall()
        async with running(Circle(), **options) as one, running(Circle(), **options) as other:
            await put(one, "a", text="1.5")
            await other.service.overlay.refresh()
            plain.flushall()
            await withdraw(one, "i0")
            await other.service.overlay.refresh()
            for run in (one, other):
                assert "i0" not in await run.ids(k=ITEMS)
                assert "a" in await run.ids(k=ITEMS + 1), "what was acknowledged stays where it was heard"


async def test_a_store_that_went_back_is_read_anew(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Circle(), store=redis_server.url, store_timeout_ms=2000, catalogue_poll_ms=60_000) as run:
        with redis.Redis(port=redis_server.port) as plain:
            plain.flushall()
            await put(run, "i4", title="First")
            before = {key: plain.dump(key) for key in plain.scan_iter()}
            await put(run, "i4", title="Second")
            plain.flushall()
            for key, value in before.items():
                plain.restore(key, 0, value)
        await run.service.overlay.refresh()
        assert (await run.client.get("/items/i4")).json()["title"] == "First"
        assert "is read anew" in caplog.text
