"""Metrics: on their own port, named and counted once, and no client can make a new series."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from model.catalogue import Rows
from model.recommender import Floats
from service.metrics import READS, SECONDS, STAGES, STEPS, WRITES, Metrics
from service.schemas import Degraded, EventType, Source
from tests.redis_server import free_port
from tests.service.toy import Circle, running


def series(metrics: Metrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metric in metrics.registry.collect()
        for sample in metric.samples
    }


def test_buckets_are_geometric_from_half_a_millisecond() -> None:
    assert len(SECONDS) == 20
    assert SECONDS[0] == 0.0005
    assert SECONDS[-1] == pytest.approx(3.78, abs=0.02)
    for low, high in pairwise(SECONDS):
        assert high / low == pytest.approx(1.6, rel=0.01)


async def test_a_thousand_users_make_no_new_series() -> None:
    async with running(Circle(), queue_size=2000) as run:

        async def ask(user: str, item: str) -> None:
            event = {"event_id": f"{user}-{item}", "user_id": user, "item_id": item}
            await run.client.post("/events", json=event)
            await run.client.post("/recommend", json={"user_id": user, "deny": {"items": [item]}})
            await run.client.post("/rank", json={"user_id": user, "items": [item, user]})
            await run.client.get(f"/items/{item}/similar?deny_item={user}")
            await run.client.get(f"/items/{user}", headers={"x-api-key": user, "host": f"{user}.test", "origin": user})

        async def everything(user: str, item: str) -> None:
            await ask(user, item)
            await run.client.post("/recommend", json={user: 1})
            await run.client.get(f"/users/{user}")
            await run.client.get(f"/livez?user={user}")
            await run.client.request("GET" if user[-1] in "02468" else "PUT", "/recommend")

        for user in ("a0", "a1"):
            for _ in range(2):  # the second time finds tokens
                await everything(user, "i3")
                await run.settle()
        before = series(run.service.metrics)
        for start in range(0, 1000, 100):
            await asyncio.gather(*(ask(f"user-{n}", f"i{n % 40}") for n in range(start, start + 100)))
            await everything(f"odd-{start}", f"i{start % 40}")
        after = series(run.service.metrics)
    assert after == before


async def test_answers_are_counted_by_route_and_outcome_and_by_rung() -> None:
    circle = Circle()
    async with running(circle) as run:
        value = run.service.metrics.registry.get_sample_value
        await run.recommend(history=["i1"])
        await run.recommend()
        await run.client.post("/recommend", json={"k": 0})
        await run.client.get("/nowhere")
        circle.broken = {"generate"}
        await run.recommend(history=["i1"])
        requests = "contrec_requests_total"
        assert value(requests, {"route": "/recommend", "outcome": "ok"}) == 3
        assert value(requests, {"route": "/recommend", "outcome": "invalid_request"}) == 1
        assert value(requests, {"route": "unmatched", "outcome": "not_found"}) == 1
        for source in ("model", "popular", "neighbours"):
            assert value("contrec_recommendations_total", {"source": source}) == 1
        assert value("contrec_model_failures_total", {"step": "generate"}) == 1
        assert value("contrec_bundle_info", {"bundle": "circle/1"}) == 1
        assert value("contrec_stage_seconds_count", {"stage": "encode"}) == 2
        assert value("contrec_batch_size_count") == 2
        assert value("contrec_ready") == 1


async def test_metrics_have_a_port_of_their_own() -> None:
    port = free_port()
    async with running(Circle(), metrics_port=port) as run:
        await run.recommend(history=["i1"])
        assert (await run.client.get("/metrics")).status_code == 404

        def scrape() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(scrape)
    assert 'contrec_requests_total{outcome="ok",route="/recommend"} 1.0' in text
    assert 'contrec_stage_seconds_bucket{le="0.0005",stage="total"}' in text


def test_no_series_tells_when_a_counter_was_made() -> None:
    assert not [name for name, _ in series(Metrics()) if name.endswith("_created")]


async def test_a_client_that_leaves_is_dropped_and_counted() -> None:
    """The app sees the disconnect while the request waits in the queue."""
    import threading

    gate = threading.Event()

    class Gated(Circle):
        gated = False

        def generate(self, tokens, dials):  # type: ignore[no-untyped-def]
            if self.gated:
                gate.wait(5)
            return super().generate(tokens, dials)

    circle = Gated()
    async with running(circle, model_timeout_ms=10_000) as run:
        circle.gated = True
        blocking = asyncio.create_task(run.client.post("/recommend", json={"history": ["i1"]}))
        await asyncio.sleep(0.05)
        circle.encoded.clear()

        messages = asyncio.Queue[dict[str, object]]()
        sent: list[object] = []
        messages.put_nowait({"type": "http.request", "body": b'{"history": ["i1", "i2", "i3"]}', "more_body": False})

        async def send(message: object) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/recommend",
            "raw_path": b"/recommend",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        leaving = asyncio.create_task(run.app(scope, messages.get, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(leaving, timeout=2)
        gate.set()
        assert (await blocking).status_code == 200
        await run.recommend(history=["i7"])
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_requests_total", {"route": "/recommend", "outcome": "client_gone"}) == 1
        assert value("contrec_dropped_total") == 1
    assert sent == []
    assert circle.encoded == [1]  # three ids were never read


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def families() -> dict[str, tuple[str, str, str]]:
    """(type, labels, help) of each metric of ours, by the name that Prometheus knows."""
    found = {}
    for collector in dict.fromkeys(Metrics().registry._collector_to_names):
        for family in collector.describe() if hasattr(collector, "describe") else ():
            if family.name.startswith("contrec_"):
                name = family.name + ("_total" if family.type == "counter" else "")
                labels = ", ".join(f"`{label}`" for label in collector._labelnames) or "-"
                found[name] = (family.type, labels, family.documentation)
    return found


def test_the_page_lists_every_metric_as_it_is_and_nothing_else() -> None:
    rows = re.findall(r"^\| `(contrec_[a-z_]+)` \| ([a-z]+) \| (.+?) \| (.+) \|$", PAGE, flags=re.MULTILINE)
    assert {name: tuple(rest) for name, *rest in rows} == families()


def test_the_page_names_every_label_value_of_a_closed_set() -> None:
    results = ("hit", "old", "miss", "accepted", "repeated", "served", "refused")
    for value in (*STAGES, *STEPS, *READS, *WRITES, *Source, *Degraded, *get_args(EventType), *results):
        assert f"`{value}`" in PAGE, f"docs/metrics.md lacks {value}"
    labels = {label for _, names, _ in families().values() for label in re.findall(r"`(\w+)`", names)}
    explained = set(re.findall(r"^\| `([a-z]+)` \| [^|]+ \|$", PAGE, flags=re.MULTILINE))
    assert labels <= explained


def test_the_operations_are_those_that_the_store_is_asked() -> None:
    """In the source, since not every one of them can be made to fail in a test without naming it there too."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    for method, names in (("read", READS), ("write", WRITES)):
        assert set(re.findall(rf'self\._guard\.{method}\(\s*"(\w+)"', source)) == set(names)


async def test_no_failure_makes_a_new_series() -> None:
    """Every step of the model fails, and the store with all that it is asked: all of it was there at zero."""

    class Breakable(Circle):
        def score(self, taste: Any) -> Floats:
            self._maybe_break("score")
            return super().score(taste)

        def unit_vectors(self, rows: Rows) -> Floats:
            self._maybe_break("unit vectors")
            return super().unit_vectors(rows)

    failures = ("contrec_model_failures_total", "contrec_store_failures_total")
    circle = Breakable()
    async with running(circle, model_timeout_ms=1000) as run:
        before = {one for one in series(run.service.metrics) if one[0] in failures}
        for broken in ({"encode"}, {"generate"}, {"retrieve"}, {"retrieve", "score"}, {"neighbours", "generate"}):
            circle.broken = broken
            await run.recommend(history=["i1"])
        circle.broken = {"unit vectors"}
        await run.recommend(history=["i1"], diversity=0.5)
        circle.broken = {"encode", "unit vectors"}
        await run.recommend(history=["i1"], explain=True)
        circle.broken = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(circle, "encode", lambda histories: time.sleep(1.2))
            await run.recommend(history=["i1"])
        await run.tell("ann", "i1")
        await run.service.store.close()
        await run.recommend(user_id="ann")
        await run.client.post("/events", json={"event_id": "e", "user_id": "ann", "item_id": "i3"})
        await run.client.put("/items/new", json={"title": "New", "text": "7.5"})
        await run.service.following.first()
        moved = {
            sample.labels["step"]
            for metric in run.service.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == failures[0] and sample.value
        }
        assert moved == set(STEPS)
        assert {one for one in series(run.service.metrics) if one[0] in failures} == before


async def test_every_metric_moves_when_what_it_counts_happens() -> None:
    """None is registered and forgotten."""
    circle = Circle()
    async with running(circle, model_timeout_ms=50) as run:
        event = {"event_id": "e", "user_id": "ann", "item_id": "i3", "type": "click"}
        for _ in range(2):
            cited = (await run.recommend(history=["i1"]))["recommendation_id"]
            await run.client.post("/events", json=event | {"recommendation_id": cited})
            await run.recommend(user_id="ann")
            await run.settle()
        circle.broken = {"encode", "generate", "neighbours"}
        await run.recommend(history=["i2"])
        await run.client.put("/items/new", json={"title": "New", "text": "7.5"})
        await run.client.delete("/items/i9")
        await run.service.store.close()
        for _ in range(4):
            assert (await run.recommend(user_id="ann"))["degraded"]
        moved = {
            sample.name.removesuffix("_count")
            for metric in run.service.metrics.registry.collect()
            for sample in metric.samples
            if sample.value > 0
        }
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_breaker_state", {"calls": "reads"}) == 2
        assert value("contrec_overlay_items", {"kind": "withdrawn"}) == 1
        assert value("contrec_overlay_items", {"kind": "upserted"}) == 1
    # Of a queue, of clients that leave and of a bundle on disk other tests speak.
    assert set(families()) - moved <= ELSEWHERE


ELSEWHERE = {"contrec_queue_requests", "contrec_dropped_total", "contrec_bundle_created_timestamp_seconds"}
