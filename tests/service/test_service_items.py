"""Items said of while the service runs: found at once, everywhere, after restarts and swaps; withdrawn for good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from bench.serving.subject import make_recommender
from model.catalogue import Item
from model.recommender import Popular
from service.errors import ErrorCode
from tests.redis_server import RedisServer
from tests.service.test_service_process import process
from tests.service.test_service_recommend import publish
from tests.service.test_service_refusals import JSON, check
from tests.service.toy import ITEMS, NEW, Circle, Running, circle_catalogue, listed, put, running, withdraw


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store that two replicas can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis(port=server.port) as plain:
        plain.flushall()
    return server.url


async def test_a_new_item_is_in_the_very_next_answer() -> None:
    async with running(Circle()) as run:
        assert await run.ids(history=["i3"], k=2) == ["i4", "i5"]
        written = await put(run, "new", **NEW)
        assert written == {"item_id": "new", "catalogue_version": run.service.overlay.version}
        answer = await run.recommend(history=["i3"], k=2)
        assert [item["item_id"] for item in answer["items"]] == ["new", "i4"]
        assert answer["items"][0]["title"] == "A new thing"
        assert answer["items"][0]["categories"] == ["odd", "fresh"]
        assert await run.ids(history=["i3"], k=2, allow={"categories": ["fresh"]}) == ["new"]
        assert "new" not in await run.ids(history=["i3"], deny={"categories": ["fresh"]})
        assert set(await run.ids(history=["new"], k=2)) == {"i5", "i6"}
        assert "new" not in await run.ids(history=["i3", "new"], k=200), "it may be seen, too"
        assert (await listed(run, "/items/new/similar?k=2")) == ["i4", "i5"]
        assert (await run.client.get("/items/new")).json() == {
            "item_id": "new", "title": "A new thing", "categories": ["odd", "fresh"], "text": "4.25", "in_bundle": True
        }  # fmt: skip


async def test_a_known_item_is_changed_and_keeps_its_place() -> None:
    async with running(Circle()) as run:
        await put(run, "i4", title="Renamed", categories=["sale"])
        answer = await run.recommend(history=["i3"], k=1)
        assert (answer["items"][0]["item_id"], answer["items"][0]["title"]) == ("i4", "Renamed")
        assert await run.ids(history=["i3"], allow={"categories": ["sale"]}) == ["i4"]
        assert "i4" not in await run.ids(history=["i3"], k=200, allow={"categories": ["even"]})


async def test_every_replica_knows_within_a_second(store: str) -> None:
    options: dict[str, Any] = {"store": store, "store_timeout_ms": 2000}
    async with running(Circle(), **options) as one, running(Circle(), **options) as other:
        await put(one, "new", **NEW)
        await withdraw(one, "i5")
        async with asyncio.timeout(1):
            while await other.ids(history=["i3"], k=3) != ["new", "i4", "i6"]:
                await asyncio.sleep(0.02)
        await put(other, "i5", title="Back")
        async with asyncio.timeout(1):
            while "i5" not in await one.ids(history=["i3"], k=3):
                await asyncio.sleep(0.02)


async def test_it_survives_a_restart(store: str) -> None:
    async with running(Circle(), store=store, store_timeout_ms=2000) as run:
        await put(run, "new", **NEW)
        await withdraw(run, "i4")
    async with running(Circle(), store=store, store_timeout_ms=2000) as run:
        assert await run.ids(history=["i3"], k=2) == ["new", "i5"]
        assert (await run.client.get("/items/i4")).status_code == 404


def test_what_was_said_and_withdrawn_survives_a_kill(tmp_path: Path) -> None:
    publish(tmp_path / "bundles")
    with process(tmp_path) as (server, client):
        assert client.put("/items/new", json=NEW).status_code == 200
        assert client.delete("/items/i39").status_code == 200
        server.kill()
        server.wait(timeout=10)
    with process(tmp_path) as (_, client):
        assert client.get("/items/new").json()["title"] == "A new thing"
        assert client.get("/items/i39").status_code == 404
        found = client.post("/recommend", json={"k": 2, "allow": {"items": ["i39", "i38", "new"]}}).json()
        assert [item["item_id"] for item in found["items"]] == ["i38", "new"]


class Larger(Circle):
    """The next bundle: it knows `new` itself, somewhere else, under another title."""

    def __init__(self) -> None:
        super().__init__()
        grown = self.with_items([Item("new", "As the bundle has it", ("odd",), "30.25")])
        self.catalogue, self.vectors, self.counts = grown.catalogue, grown.vectors, grown.counts


async def test_another_bundle_is_dressed_before_its_first_answer() -> None:
    async with running(Circle()) as run:
        await put(run, "new", **NEW)
        await put(run, "other", title="Other", text="5.25")
        await withdraw(run, "i4")
        await run.service.bundles.adopt(Circle(), "circle", "2")
        answer = await run.recommend(history=["i3"], k=3)
        assert answer["bundle"] == "circle/2"
        assert [item["item_id"] for item in answer["items"]] == ["new", "i5", "other"]
        await run.service.bundles.adopt(Larger(), "circle", "3")
        found = await run.ids(history=["i3"], k=200)
        assert sorted(found) == sorted({*(f"i{n}" for n in range(ITEMS)), "new", "other"} - {"i3", "i4"})
        assert await run.ids(history=["i29"], k=1) == ["new"], "where the bundle learnt it to be"
        assert (await run.client.get("/items/new")).json()["title"] == "A new thing", "as it was said last"


async def test_writes_and_swaps_at_the_same_time_lose_nothing() -> None:
    async with running(Circle()) as run:

        async def swap() -> None:
            for version in range(2, 12):
                await run.service.bundles.adopt(Circle(), "circle", str(version))

        async def write() -> None:
            for n in range(20):
                await put(run, f"new-{n}", text=str(n))
                await withdraw(run, f"i{n}")

        await asyncio.gather(swap(), write())
        found = set(await run.ids(k=200))
    assert found == {f"i{n}" for n in range(20, ITEMS)} | {f"new-{n}" for n in range(20)}


async def explained(run: Running) -> list[str]:
    """Every item that an answer with reasons names."""
    answer = await run.recommend(history=["i6", "i5"], k=200, exclude_seen=False, explain=True)
    return [named["item_id"] for item in answer["items"] for named in (item, *item["reasons"])]


async def marked(run: Running) -> list[str]:
    """The items whose place on the map is told."""
    asked = ["i5", "i6"]
    answer = await run.client.post("/page/trace", json={"mark": asked})
    return [item_id for item_id, place in zip(asked, answer.json()["marks"], strict=True) if place is not None]


async def mapped(run: Running) -> list[str]:
    found: list[str] = (await run.client.get("/page/map")).json()["item_ids"]
    return found


ROUTES: dict[str, Callable[[Running], Any]] = {
    "recommend": lambda run: run.ids(history=["i4"], k=200),
    "recommend a stranger": lambda run: run.ids(k=200),
    "recommend by id": lambda run: run.ids(history=["i4"], k=200, allow={"items": ["i5", "i6"]}),
    "recommend seen": lambda run: run.ids(history=["i5"], k=200, exclude_seen=False),
    "recommend diverse": lambda run: run.ids(history=["i4"], k=30, diversity=0.9),
    "recommend with reasons": explained,
    "popular": lambda run: listed(run, "/popular?k=200"),
    "popular by id": lambda run: listed(run, "/popular?allow_item=i5&allow_item=i6"),
    "similar": lambda run: listed(run, "/items/i4/similar?k=200"),
    "page by id": lambda run: listed(run, "/page/catalogue?item=i5&item=i6"),
    "page search": lambda run: listed(run, "/page/catalogue?limit=50"),
    "page map": mapped,
    "page marks": marked,
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("broken", [(), ("encode",), ("retrieve",), ("encode", "neighbours")], ids=str)
async def test_a_withdrawn_item_never_comes_back_from_any_route_or_rung(route: str, broken: Sequence[str]) -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = set(broken)
        assert "i5" in await ROUTES[route](run)
        await withdraw(run, "i5")
        assert run.service.bundles.served is not None
        run.service.bundles.served.recommender.broken = set(broken)  # type: ignore[attr-defined]
        found = await ROUTES[route](run)
        assert found
        assert "i5" not in found
        await put(run, "i5", title="Back")
        assert "i5" in await ROUTES[route](run)


async def test_a_withdrawn_item_is_named_by_rank_and_unknown_by_itself() -> None:
    async with running(Circle()) as run:
        await withdraw(run, "i5")
        answer = (await run.client.post("/rank", json={"history": ["i4"], "items": ["i5", "i6"]})).json()
        assert [item["item_id"] for item in answer["items"]] == ["i6"]
        assert answer["unknown"] == ["i5"]
        for path in ("/items/i5", "/items/i5/similar", "/items/never", "/items/never/similar"):
            check(await run.client.get(path), ErrorCode.NOT_FOUND, "item_id")


async def test_without_a_bundle_items_are_listed_named_and_withdrawn() -> None:
    async with running() as run:
        await run.tell("bob", "a", "b", "b2")
        await run.tell("eve", "b", "c", start=10)
        await put(run, "b", title="Bee", categories=["insects"])
        await put(run, "n", title="New", categories=["insects"])
        await withdraw(run, "c")
        assert await listed(run, "/popular") == ["b", "a", "b2", "n"]
        assert await run.ids(user_id="eve") == ["a", "b2", "n"]
        assert await listed(run, "/popular?allow_category=insects") == ["b", "n"]
        assert await run.ids(deny={"categories": ["birds"]}) == ["b", "n"], "of the others nobody knows"
        assert await run.ids(k=1, deny={"items": ["b"]}) == ["a"]
        assert (await listed(run, "/items/b/similar")) == ["a", "b2", "n"]
        item = (await run.client.get("/items/n")).json()
        assert (item["title"], item["in_bundle"]) == ("New", False)
        ranked = (await run.client.post("/rank", json={"items": ["c", "n", "b", "zz"]})).json()
        assert [item["item_id"] for item in ranked["items"]] == ["b", "n"]
        assert ranked["unknown"] == ["c", "zz"]
        await withdraw(run, "b")
        assert "b" not in await listed(run, "/popular")
        assert "b" not in await run.ids()


async def test_popular_and_similar_obey_their_filters() -> None:
    async with running(Circle()) as run:
        assert await listed(run, "/popular?k=3") == ["i0", "i1", "i2"]
        assert await listed(run, "/popular?k=3&deny_item=i1&deny_category=tens-0") == ["i10", "i11", "i12"]
        assert await listed(run, "/popular?k=2&allow_category=tens-3&allow_item=i7") == ["i7", "i30"]
        answer = (await run.client.get("/items/i10/similar?k=4&allow_category=even")).json()
        assert [item["item_id"] for item in answer["items"]] == ["i8", "i12", "i6", "i14"]
        assert (answer["source"], answer["bundle"]) == ("neighbours", "circle/1")
        circle = run.service.bundles.served
        assert circle is not None
        circle.recommender.broken = {"neighbours"}  # type: ignore[attr-defined]
        answer = (await run.client.get("/items/i10/similar?k=2")).json()
        assert ([item["item_id"] for item in answer["items"]], answer["source"]) == (["i0", "i1"], "popular")


async def test_what_nothing_can_be_like_is_answered_with_what_is_popular() -> None:
    """A bundle from before `space/` was saved puts new items at the origin, where every cosine is 0."""
    async with running(make_recommender(60, weight=0.0)) as run:
        await put(run, "new", title="A new thing", text="that nobody can place")
        answer = (await run.client.get("/items/new/similar?k=3")).json()
        assert answer["source"] == "popular"
        assert [item["item_id"] for item in answer["items"]] == await listed(run, "/popular?k=3")
        assert (await run.client.get("/items/i3/similar?k=3")).json()["source"] == "neighbours"
    async with running(Popular(circle_catalogue(), np.arange(ITEMS, dtype=np.int64))) as run:
        await put(run, "new", title="A new thing", categories=[])
        assert (await run.client.get("/items/new/similar")).json()["source"] == "popular"
        await put(run, "new", title="A new thing", categories=["odd"])
        assert (await run.client.get("/items/new/similar")).json()["source"] == "neighbours"


REFUSED = [
    ("[]", None),
    ('{"title": 5}', "title"),
    ('{"categories": "x"}', "categories"),
    ('{"categories": [""]}', "categories[0]"),
    (json.dumps({"categories": ["x"] * 65}), "categories"),
    (json.dumps({"title": "x" * 1025}), "title"),
    (json.dumps({"text": "x" * 20_001}), "text"),
    ('{"item_id": "x"}', "item_id"),
    ('{"text": "\\ud800"}', "text"),
]


@pytest.mark.parametrize(("body", "field"), REFUSED, ids=[body[:30] for body, _ in REFUSED])
async def test_what_is_no_item_names_its_field_and_changes_nothing(body: str, field: str | None) -> None:
    async with running(Circle()) as run:
        check(await run.client.put("/items/i1", content=body, headers=JSON), ErrorCode.INVALID_REQUEST, field)
        assert await run.service.store.read_items(0) == (0, [])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/popular?k=0", "k"),
        ("/popular?k=x", "k"),
        ("/popular?colour=red", "colour"),
        ("/popular?allow_item=", "allow_item[0]"),
        ("/items/i1/similar?k=201", "k"),
        (f"/items/{'x' * 257}", "item_id"),
        (f"/items/{'x' * 257}/similar", "item_id"),
    ],
)
async def test_a_question_that_is_not_one_names_its_field(path: str, field: str) -> None:
    async with running(Circle()) as run:
        answer = await run.client.get(path)
        assert answer.status_code == 422, answer.text
        assert field in answer.json()["error"]["field"]
