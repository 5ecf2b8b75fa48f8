"""The whole thread on real parts: raw files -> prepared arrays -> a trained bundle -> a Redis -> answers over HTTP."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import torch

from contrec.events import import_events
from model.bundle import activate, verify
from model.continuous.recommender import ContinuousRecommender
from model.recommender import UserTokens
from service.app import create_app
from service.settings import Settings
from training.data.prepare import prepare
from training.train import train

NAME = "rings"
RINGS, LENGTH, USERS = 4, 12, 80


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users walk around one of four rings of items, so what comes next is visible by eye: r1-04 after r1-03."""
    folder = tmp_path_factory.mktemp("raw")
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "categories", "text"])
        for ring in range(RINGS):
            for place in range(LENGTH):
                writer.writerow([f"r{ring}-{place:02d}", f"Ring {ring}, stop {place}", f"ring {ring}", ""])
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(USERS):
            for step in range(9):
                place = (user // RINGS + step) % LENGTH
                writer.writerow([f"u{user}", f"r{user % RINGS}-{place:02d}", 1_700_000_000 + 60 * step])
    return folder


@pytest.fixture(scope="module")
def bundles(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thread")
    prepare("table", raw, folder / "prepared")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    small = ["trunk.epochs=12", "trunk.tokens_per_step=128", "tokenizer.epochs=10", "head.epochs=1"]
    path = train(folder / "prepared", "contrec", "tiny", bundles=folder / "bundles", name=NAME, overrides=small)
    torch.set_num_threads(threads)
    activate(folder / "bundles", NAME, path.name)
    return folder / "bundles"


@asynccontextmanager
async def serving(bundles: Path, store: str) -> AsyncIterator[tuple[httpx.AsyncClient, ContinuousRecommender, Any]]:
    settings = Settings(bundles=str(bundles), bundle=NAME, store=store, metrics_port=0, store_timeout_ms=2000)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        service = app.state.service
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await settle(service)
            yield client, service.bundles.served.recommender, service


async def settle(service: Any) -> None:
    """Waits for what the service does beside requests: loading the bundle, keeping tokens."""
    while service._background:
        await asyncio.wait(set(service._background))
        await asyncio.sleep(0)


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


@pytest.mark.redis
async def test_raw_files_become_answers_and_a_cached_user_skips_the_trunk(
    raw: Path, bundles: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis(port=redis_server.port) as plain:
        plain.flushall()
        await import_events(raw, redis_server.url)
        async with serving(bundles, redis_server.url) as (client, recommender, service):
            reads: list[int] = []
            read = recommender.encode
            monkeypatch.setattr(recommender, "encode", lambda histories: reads.append(1) or read(histories))

            # u0 has walked r0-00 .. r0-08: the next stop is first, nothing walked on comes back.
            first = await ask(client, user_id="u0", k=5)
            assert first["source"] == "model"
            assert first["items"][0] == first["items"][0] | {
                "item_id": "r0-09",
                "title": "Ring 0, stop 9",
                "categories": ["ring 0"],
            }
            assert not {item["item_id"] for item in first["items"]} & {f"r0-{place:02d}" for place in range(9)}
            assert first["bundle"] == f"{NAME}/{next((bundles / NAME).glob('*/manifest.json')).parent.name}"
            assert len(reads) == 1
            await settle(service)

            # Redis holds the tokens: the very condition of the trunk, readable without our client.
            (key,) = plain.keys("contrec:tokens:*")
            catalogue = recommender.catalogue
            history = catalogue.rows([f"r0-{place:02d}" for place in range(9)])
            (expected,) = recommender.encode([history])
            reads.clear()
            value = plain.get(key)
            kept = UserTokens.from_bytes(value[value.index(b"ctok") :])  # behind the versions it was made from
            np.testing.assert_allclose(kept.condition, expected.condition, rtol=1e-4, atol=1e-5)
            assert plain.ttl(key) > 0

            # The same user again: head and search alone.
            again = await ask(client, user_id="u0", k=5)
            assert reads == []
            assert [item["item_id"] for item in again["items"]] == [item["item_id"] for item in first["items"]]
            assert again["timings_ms"]["encode"] == 0

            # A longer history invalidates them, and the very next answer has moved on.
            event = {"event_id": "now", "user_id": "u0", "item_id": "r0-09", "time": 1_700_009_999}
            assert (await client.post("/events", json=event)).status_code == 200
            moved = await ask(client, user_id="u0", k=5)
            assert len(reads) == 1
            assert moved["items"][0]["item_id"] == "r0-10"


async def test_a_given_history_an_unknown_user_and_a_filter(bundles: Path) -> None:
    async with serving(bundles, "sqlite://:memory:") as (client, recommender, _):
        given = await ask(client, history=["r2-03", "r2-04", "r2-05"], k=3)
        assert given["source"] == "model"
        assert given["items"][0]["item_id"] == "r2-06"
        stranger = await ask(client, user_id="nobody", k=48)
        assert (stranger["source"], len(stranger["items"])) == ("popular", len(recommender.catalogue))
        allowed = await ask(client, history=["r2-03", "r2-04"], allow={"categories": ["ring 3"]}, k=10)
        assert {item["categories"][0] for item in allowed["items"]} == {"ring 3"}
        explored = [await ask(client, history=["r2-03"], explore=1.0, seed=5) for _ in range(2)]
        assert [i["item_id"] for i in explored[0]["items"]] == [i["item_id"] for i in explored[1]["items"]]


def test_the_manifest_says_where_the_bundle_comes_from(bundles: Path) -> None:
    (path,) = (entry.parent for entry in (bundles / NAME).glob("*/manifest.json"))
    manifest = verify(path)
    assert (manifest.kind, manifest.recipe) == ("continuous", "contrec/tiny")
    assert 0 <= manifest.metrics["test"]["ndcg@10"] <= 1
