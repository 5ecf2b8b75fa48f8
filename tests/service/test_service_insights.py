"""What is recommended, seen from outside: coverage, popularity, diversity, cold users, and clicks for each bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundles import Served, prove
from service.insights import BUNDLES, Insights, diversity, from_rung, mark, new_id
from service.metrics import Metrics
from service.schemas import Source
from tests.service.test_service_recommend import publish
from tests.service.toy import Circle, Running, circle_catalogue, running


def value(run: Running, name: str, **labels: str) -> float:
    found = run.service.metrics.registry.get_sample_value(name, labels)
    return 0.0 if found is None else found


async def click(run: Running, event_id: str, answer: dict[str, Any]) -> None:
    event = {
        "event_id": event_id,
        "user_id": "ann",
        "item_id": answer["items"][0]["item_id"] if "items" in answer else "i1",
        "type": "click",
        "recommendation_id": answer["recommendation_id"],
    }
    assert (await run.client.post("/events", json=event)).status_code == 200


async def test_clicks_count_for_the_bundle_that_recommended_even_after_a_swap() -> None:
    circle = Circle()
    async with running(circle) as run:
        old = await run.recommend(history=["i3"])
        await run.service.bundles.adopt(circle, "circle", "2")
        new = await run.recommend(history=["i3"])
        await click(run, "a", old)
        await click(run, "a", old)  # the same event again is no second click
        await click(run, "b", new)
        await click(run, "c", new)
        await click(run, "d", {**old, "recommendation_id": "somebody else's"})
        clicks = {
            bundle: value(run, "contrec_cited_events_total", bundle=bundle, source=source, type="click")
            for bundle, source in (("circle/1", "model"), ("circle/2", "model"), ("other", "other"))
        }
        assert clicks == {"circle/1": 1, "circle/2": 2, "other": 1}
        assert value(run, "contrec_lists_total", bundle="circle/1") == 1


async def test_clicks_count_for_the_rung_that_recommended_and_after_a_restart(tmp_path: Path) -> None:
    path = publish(tmp_path)
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"encode"}
        await click(run, "a", await run.recommend(history=["i3"]))
        await click(run, "b", await run.recommend())
        for source in ("neighbours", "popular"):
            assert value(run, "contrec_cited_events_total", bundle="circle/1", source=source, type="click") == 1
    cited = from_rung(new_id(f"movies/{path.name}"), Source.STALE)
    async with running(bundles=tmp_path, bundle="movies") as run:
        await click(run, "c", {"recommendation_id": cited})
        labels = {"bundle": f"movies/{path.name}", "source": "stale", "type": "click"}
        assert value(run, "contrec_cited_events_total", **labels) == 1, "of a version that this process never served"


async def test_a_list_without_a_user_is_shown_and_cited_but_says_nothing_of_recommending() -> None:
    async with running(Circle()) as run:
        for number, (path, source) in enumerate(
            (("/items/i13/similar?k=3", "neighbours"), ("/popular?k=3", "popular"))
        ):
            answer = (await run.client.get(path)).json()
            assert answer["source"] == source
            await click(run, str(number), answer)
            assert value(run, "contrec_cited_events_total", bundle="circle/1", source=source, type="click") == 1
        assert value(run, "contrec_lists_total", bundle="circle/1") == 2
        assert value(run, "contrec_shown_items") == 6
        for name in ("contrec_history_items_count", "contrec_list_popularity_count", "contrec_list_diversity_count"):
            assert value(run, name) == 0
    async with running() as run:
        await run.tell("ann", "a")
        answer = (await run.client.get("/popular")).json()
        await click(run, "x", answer)
        assert value(run, "contrec_cited_events_total", bundle="other", source="other", type="click") == 1


async def test_a_ranking_is_a_list_that_can_be_cited_and_shows_nothing_of_its_own_choice() -> None:
    async with running(Circle()) as run:
        for n in range(2):
            answer = (await run.client.post("/rank", json={"history": ["i3"], "items": ["i9", "i4"]})).json()
            await click(run, str(n), answer)
        assert value(run, "contrec_cited_events_total", bundle="circle/1", source="model", type="click") == 2
        assert value(run, "contrec_lists_total", bundle="circle/1") == 2
        assert value(run, "contrec_shown_items") == 0
        assert value(run, "contrec_history_items_count") == 0


async def test_a_cold_user_is_a_history_of_zero() -> None:
    async with running(Circle()) as run:
        await run.recommend(user_id="nobody")
        await run.recommend(history=["no such item"])
        await run.recommend(history=["i1", "i2", "i3"])
        assert value(run, "contrec_history_items_bucket", le="0.0") == 2
        assert value(run, "contrec_history_items_bucket", le="2.0") == 2
        assert value(run, "contrec_history_items_bucket", le="4.0") == 3


async def test_coverage_counts_different_items() -> None:
    async with running(Circle()) as run:
        assert value(run, "contrec_shown_items") == 0
        first = set(await run.ids(history=["i3"], k=5))
        assert value(run, "contrec_shown_items") == 5
        second = set(await run.ids(history=["i4"], k=5))
        assert value(run, "contrec_shown_items") == len(first | second) < 10
        assert value(run, "contrec_catalogue_items") == 40


def served(items: int = 40, version: str = "1") -> Served:
    return prove(Circle(items), "circle", version)


def test_what_was_shown_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    insights = Insights(metrics)
    insights.answered(served(), np.arange(7), 1)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3000)
    insights.answered(served(), np.arange(5, 9), 1)
    assert metrics.registry.get_sample_value("contrec_shown_items") == 9
    monkeypatch.setattr(time, "monotonic", lambda: now + 3700)
    assert metrics.registry.get_sample_value("contrec_shown_items") == 4


def test_a_catalogue_that_grows_keeps_what_was_shown_and_another_bundle_does_not() -> None:
    metrics = Metrics()
    insights = Insights(metrics)
    insights.answered(served(), np.arange(7), 1)
    insights.answered(served(items=42), np.array([41]), 1)
    assert metrics.registry.get_sample_value("contrec_shown_items") == 8
    insights.answered(served(version="2"), np.array([0]), 1)
    assert metrics.registry.get_sample_value("contrec_shown_items") == 1


def test_popularity_is_one_for_the_top_and_zero_for_the_bottom() -> None:
    for rows, expected in (([0], 1.0), ([39], 0.0), ([0, 39], 0.5)):
        metrics = Metrics()
        Insights(metrics).answered(served(), np.array(rows), 1)
        assert metrics.registry.get_sample_value("contrec_list_popularity_sum") == pytest.approx(expected)


def test_diversity_is_the_mean_distance_of_categories() -> None:
    catalogue = circle_catalogue()
    assert diversity(catalogue, np.array([0, 2])) == 0  # even and tens-0, both
    assert diversity(catalogue, np.array([0, 11])) == 1
    assert diversity(catalogue, np.array([0, 1])) == pytest.approx(2 / 3)  # one of three categories is shared
    assert diversity(catalogue, np.array([0, 2, 11])) == pytest.approx((0 + 1 + 1) / 3)
    assert diversity(catalogue, np.array([0])) is None


def test_a_process_that_swaps_for_years_has_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    insights = Insights(metrics)
    for version in range(3 * BUNDLES):
        one = served(version=str(version))
        insights.answered(one, np.array([0]), 1)
        insights.cited(new_id(one.label), "click")
    bundles = {
        sample.labels["bundle"]
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name in ("contrec_lists_total", "contrec_cited_events_total")
    }
    assert bundles == {f"circle/{version}" for version in range(2 * BUNDLES, 3 * BUNDLES)}


def test_an_id_is_random_and_ends_in_its_bundles_mark() -> None:
    ids = {new_id("circle/1") for _ in range(100)}
    assert len({one[:12] for one in ids}) == 100
    assert all(len(one) == 32 and one.endswith(mark("circle/1")) for one in ids)
    assert mark("circle/1") != mark("circle/2")
