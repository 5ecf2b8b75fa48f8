"""Swapping bundles: beside the running one, proved first, by one assignment, everywhere, and back in no time."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.serving.subject import NAME, make_bundle, make_versions
from model.bundle import activate, active, rollback, write_bundle
from model.popular import save_popular
from model.recommender import Popular
from service import bundles, core, following
from service.keys import Scope, key_line, new_key
from tests.service.toy import ITEMS, Running, circle_catalogue, running

ROOT = Path(__file__).resolve().parents[2]


def publish(root: Path, first: int) -> str:
    """A version of which the most popular item is i<first>."""
    counts = np.ones(ITEMS, dtype=np.int64)
    counts[first] = 100
    path = write_bundle(
        root,
        "movies",
        kind="popular",
        recipe="popular",
        config={"first": first},
        data_fingerprint="none",
        metrics={},
        fill=lambda folder: save_popular(Popular(circle_catalogue(), counts), folder),
    )
    return path.name


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[Running]:
    given = {"bundles": root, "bundle": "movies"}
    async with running(None, **(given | settings)) as run:
        yield run


async def top(run: Running) -> str:
    return (await run.ids(k=1))[0]


async def until_top(run: Running, item: str, within: float = 30.0) -> None:
    """Waits until the first item is this one."""
    started = time.monotonic()
    while await top(run) != item:
        assert time.monotonic() - started < within, f"{item} did not come first within {within} s"
        await asyncio.sleep(0.02)


def read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes back all the same has the bundle in memory still: no time is lost with loading it."""

    def refuse(root: Path, name: str, version: str) -> None:
        raise AssertionError(f"{version} was read again")

    monkeypatch.setattr(bundles, "_read", refuse)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "FOLLOW_S", 0.05)


async def test_a_running_service_follows_the_file_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = publish(tmp_path, 1), publish(tmp_path, 2)
    activate(tmp_path, "movies", one)
    async with serving(tmp_path) as run:
        assert await top(run) == "i1"
        activate(tmp_path, "movies", two)
        await until_top(run, "i2")
        read_no_more(monkeypatch)
        rollback(tmp_path, "movies")
        await until_top(run, "i1")


async def test_a_first_bundle_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as run:
        assert (await run.client.get("/readyz")).json()["bundle"] == "none"
        activate(tmp_path, "movies", publish(tmp_path, 3))
        while not await run.ids(k=1):
            await asyncio.sleep(0.02)
        assert await top(run) == "i3"


async def test_a_damaged_bundle_is_refused_and_a_whole_one_taken_up_after_it(tmp_path: Path) -> None:
    one, two, three = (publish(tmp_path, n) for n in (1, 2, 3))
    activate(tmp_path, "movies", one)
    async with serving(tmp_path) as run:
        activate(tmp_path, "movies", two)
        items = tmp_path / "movies" / two / "items.safetensors"
        items.write_bytes(items.read_bytes()[:50])
        while (reason := (await run.client.get("/bundle")).json()["reason"]) is None:
            await asyncio.sleep(0.02)
        assert "items.safetensors" in reason
        assert await top(run) == "i1"
        ready = await run.client.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (200, reason)
        await asyncio.sleep(0.3)  # several looks later it was still refused once
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_bundle_loads_total", {"outcome": "refused"}) == 1
        activate(tmp_path, "movies", three)
        await until_top(run, "i3")
        assert (await run.client.get("/bundle")).json()["reason"] is None


async def test_a_refused_version_whose_folder_is_repaired_is_taken_up_by_itself_and_not_before_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (publish(tmp_path, n) for n in (1, 2))
    activate(tmp_path, "movies", one)
    items = tmp_path / "movies" / two / "items.safetensors"
    whole = items.read_bytes()
    async with serving(tmp_path) as run:
        activate(tmp_path, "movies", two)
        items.write_bytes(whole[:50])
        while (await run.client.get("/bundle")).json()["reason"] is None:
            await asyncio.sleep(0.02)
        items.write_bytes(whole)
        await asyncio.sleep(0.3)  # several looks later: RETRY_S is 30 s
        assert await top(run) == "i1"
        monkeypatch.setattr(following, "RETRY_S", 0.1)
        await until_top(run, "i2", within=15)
        told = (await run.client.get("/bundle")).json()
        assert (told["bundle"], told["state"], told["reason"]) == (f"movies/{two}", "serving", None)


async def test_a_reason_is_said_as_long_as_it_holds(tmp_path: Path) -> None:
    one, two = publish(tmp_path, 1), publish(tmp_path, 2)
    activate(tmp_path, "movies", one)
    async with serving(tmp_path) as run:

        async def until_reason(said: bool) -> None:
            while ((await run.client.get("/bundle")).json()["reason"] is not None) is not said:
                await asyncio.sleep(0.02)

        served, aside = tmp_path / "movies" / one, tmp_path / "aside"
        served.rename(aside)
        await until_reason(True)
        aside.rename(served)
        await until_reason(False)
        activate(tmp_path, "movies", two)
        (tmp_path / "movies" / two / "items.safetensors").unlink()
        await until_reason(True)
        rollback(tmp_path, "movies")
        await until_reason(False)
        assert await top(run) == "i1"


async def test_admin_routes_are_off_without_keys(tmp_path: Path) -> None:
    activate(tmp_path, "movies", publish(tmp_path, 1))
    async with serving(tmp_path) as run:
        for method, path in (("GET", ""), ("POST", "/activate"), ("POST", "/rollback")):
            answer = await run.client.request(method, f"/admin/bundles{path}", json={"version": "x"})
            assert answer.status_code in (401, 403)


async def test_the_admin_routes(tmp_path: Path) -> None:
    one, two = publish(tmp_path, 1), publish(tmp_path, 2)
    activate(tmp_path, "movies", one)
    key = new_key()
    async with serving(tmp_path, keys=key_line("root", [Scope.ADMIN, Scope.RECOMMEND], key)) as run:
        run.client.headers["X-API-Key"] = key

        async def post(path: str, **body: str) -> httpx.Response:
            return await run.client.post(f"/admin/bundles/{path}", json=body)

        listed = (await run.client.get("/admin/bundles")).json()["bundles"]
        assert {entry["version"]: entry["served"] for entry in listed} == {one: True, two: False}
        refused = await post("rollback")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "bundle_refused")
        assert (await post("activate", version=two)).json()["bundle"] == f"movies/{two}"
        assert await top(run) == "i2"
        assert (await post("activate", version=two)).status_code == 200
        missing = await post("activate", version="nothing")
        assert (missing.status_code, missing.json()["error"]["code"]) == (409, "bundle_refused")
        assert "no bundle at" in missing.json()["error"]["message"]
        assert (await post("activate", version="../up")).status_code == 409
        assert (await post("rollback")).json()["bundle"] == f"movies/{one}"
        assert await top(run) == "i1"


async def test_no_request_sees_two_bundles_or_none_while_they_are_swapped(tmp_path: Path) -> None:
    versions = {publish(tmp_path, n): f"i{n}" for n in (1, 2, 3)}
    activate(tmp_path, "movies", next(iter(versions)))
    over = False
    seen: set[str] = set()

    async with serving(tmp_path) as run:

        async def ask() -> None:
            while not over:
                answer = await run.recommend(k=1)
                version = answer["bundle"].split("/")[1]
                assert answer["items"][0]["item_id"] == versions[version]
                seen.add(version)
                await asyncio.sleep(0)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for turn in range(12):
            await run.service.following.activate(list(versions)[turn % 3])
            await asyncio.sleep(0.01)
        over = True
        await asyncio.gather(*asking)
    assert seen == set(versions)


async def test_a_bundle_that_is_let_go_is_freed_at_once(tmp_path: Path) -> None:
    """By nobody holding it: the garbage collector would stop every thread."""
    root, versions = make_versions(tmp_path, 3, items=500, weight=0.0)
    async with serving(root, bundle=NAME) as run:
        assert (await run.recommend(history=["i1"], explain=True))["source"] == "model"
        recommender = run.service.bundles.served.recommender
        first = [weakref.ref(part) for part in (recommender, recommender.base.behaviour.trunk.backbone)]
        del recommender
        gc.collect()
        gc.disable()
        try:
            for version in versions[1:]:
                await run.service.following.activate(version)
                assert (await run.recommend(history=["i1"]))["bundle"] == f"{NAME}/{version}"
            assert [part() for part in first] == [None, None]
        finally:
            gc.enable()


async def test_an_admin_rolls_back_a_model_within_a_second(tmp_path: Path) -> None:
    """Real bundles, of which nothing is loaded again and for which nothing is collected."""
    root, (one, two) = make_versions(tmp_path, 2, items=500, weight=0.25)
    key = new_key()
    keys = key_line("root", [Scope.ADMIN, Scope.RECOMMEND], key)
    async with serving(root, bundle=NAME, keys=keys) as run:
        run.client.headers["X-API-Key"] = key
        answer = await run.client.post("/admin/bundles/activate", json={"version": two})
        assert answer.json()["bundle"] == f"{NAME}/{two}"
        collections = gc.get_stats()[2]["collections"]
        started = time.monotonic()
        answer = await run.client.post("/admin/bundles/rollback")
        assert time.monotonic() - started < 1
        assert answer.json()["bundle"] == f"{NAME}/{one}"
        assert gc.get_stats()[2]["collections"] == collections
        assert (await run.recommend(history=["i1"]))["bundle"] == f"{NAME}/{one}"


SETTLED = """
import gc, weakref
from pathlib import Path
from service import heap
from model.bundle import active

heap.settle("popular")
heap.settle("continuous")
frozen, seen = gc.get_freeze_count(), len(gc.get_objects())
from model import load_recommender
recommender = load_recommender(Path({path!r}))
recommender.itself = recommender
backbone = weakref.ref(recommender.base.behaviour.trunk.backbone)
heap.settle("semantic")
again = gc.get_freeze_count()
del recommender
held = backbone() is not None
gc.collect()
print(frozen, seen, again, held, backbone() is None)
"""


def test_what_is_imported_is_frozen_once_and_no_bundle_with_it(tmp_path: Path) -> None:
    """In a process of its own: what is frozen stays so."""
    path = active(make_bundle(tmp_path, items=50, weight=0.25), NAME)
    told = subprocess.run(
        [sys.executable, "-c", SETTLED.format(path=str(path))], capture_output=True, text=True, check=True, cwd=ROOT
    )
    frozen, seen, again, held, freed = told.stdout.split()
    assert int(frozen) > 100_000
    assert int(seen) < 1000
    assert int(again) <= int(frozen)
    assert (held, freed) == ("True", "True"), "it holds itself, and is found"
