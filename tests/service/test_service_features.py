"""What a request may ask for beyond a list: rank, diversity, reasons; and what becomes of each kind of event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from model.catalogue import Mask, Rows
from model.recommender import Floats, UserTokens
from service.insights import mark
from tests.service.toy import ITEMS, NAME, Circle, Running, running


async def told(run: Running, **event: Any) -> dict[str, int]:
    answer = await run.client.post("/events", json=event)
    assert answer.status_code == 200, answer.text
    counts: dict[str, int] = answer.json()
    return counts


async def ranked(run: Running, **body: Any) -> dict[str, Any]:
    answer = await run.client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


# -------------------------------------------------------------------------------------------------------------- rank


async def test_rank_scores_what_it_is_given_and_nothing_else() -> None:
    async with running(Circle()) as run:
        answer = await ranked(run, history=["i3"], items=["i20", "i5", "none", "i4", "i3", "i5", "x"])
        assert [item["item_id"] for item in answer["items"]] == ["i4", "i5", "i3", "i20"], "seen or not"
        assert answer["unknown"] == ["none", "x"]
        assert (answer["source"], answer["bundle"]) == ("model", "circle/1")
        whole = await run.recommend(history=["i3"], k=ITEMS, exclude_seen=False)
        scores = {item["item_id"]: item["score"] for item in whole["items"]}
        assert {item["item_id"]: item["score"] for item in answer["items"]} == {
            item_id: scores[item_id] for item_id in ("i4", "i5", "i3", "i20")
        }


async def test_rank_for_a_stored_user_uses_and_keeps_their_tokens() -> None:
    circle = Circle()
    async with running(circle) as run:
        await run.tell("ann", "i3")
        circle.encoded.clear()
        first = await ranked(run, user_id="ann", items=["i9", "i5"])
        await run.settle()
        second = await ranked(run, user_id="ann", items=["i9", "i5"])
        assert [item["item_id"] for item in first["items"]] == ["i5", "i9"]
        assert second["items"] == first["items"]
        assert len(circle.encoded) == 1
        assert (await ranked(run, user_id="nobody", items=["i9", "i5"]))["source"] == "popular"
        assert (await ranked(run, user_id="ann", items=["zz"]))["items"] == []


# --------------------------------------------------------------------------------------------------------- diversity


async def test_diversity_spreads_the_list_and_zero_leaves_it() -> None:
    def spread(ids: list[str]) -> float:
        angles = [2 * np.pi * int(item_id[1:]) / ITEMS for item_id in ids]
        return float(np.mean([1 - np.cos(a - b) for a in angles for b in angles]))

    async with running(Circle()) as run:
        plain = await run.ids(history=["i3"], k=6)
        assert await run.ids(history=["i3"], k=6, diversity=0) == plain
        some, most = [await run.ids(history=["i3"], k=6, diversity=d) for d in (0.4, 1.0)]
        assert some[0] == most[0] == plain[0]
        assert spread(plain) < spread(some) < spread(most)
        answer = await run.recommend(history=["i3"], k=6, diversity=0.4)
        scores = {item["item_id"]: item["score"] for item in (await run.recommend(history=["i3"], k=39))["items"]}
        assert all(item["score"] == scores[item["item_id"]] for item in answer["items"]), "each item's own score"
        stranger = await run.recommend(k=6, diversity=0.6)
        assert stranger["source"] == "popular"
        assert [item["item_id"] for item in stranger["items"]] != ["i0", "i1", "i2", "i3", "i4", "i5"]


async def test_a_list_that_cannot_be_shaped_stands_as_it_is() -> None:
    class Shapeless(Circle):
        def unit_vectors(self, rows: Rows) -> Floats:
            raise RuntimeError("no vectors today")

    async with running(Shapeless()) as run:
        assert await run.ids(history=["i3"], k=3, diversity=0.9) == ["i4", "i5", "i6"]
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_model_failures_total", {"step": "shape"}) == 1


async def test_what_retrieve_leaves_short_is_done_again_exactly() -> None:
    class Short(Circle):
        def retrieve(self, taste: Any, eligible: Mask, k: int) -> tuple[Rows, Floats]:
            rows, scores = super().retrieve(taste, eligible, k)
            return (rows, scores) if eligible.all() else (rows[:1], scores[:1])

    async with running(Short()) as run:
        answer = await run.recommend(history=["i3"], k=4, deny={"items": ["i5"]})
        assert [item["item_id"] for item in answer["items"]] == ["i4", "i6", "i2", "i7"]
        assert answer["source"] == "model"


# ----------------------------------------------------------------------------------------------------------- reasons


async def test_reasons_name_what_holds_an_item_up() -> None:
    """The circle looks after the last item alone: that one, and no other, is a reason."""
    async with running(Circle()) as run:
        answer = await run.recommend(history=["i20", "i30", "i3"], k=2, explain=True)
        assert [item["item_id"] for item in answer["items"]] == ["i4", "i5"]
        for item in answer["items"]:
            (reason,) = item["reasons"]
            assert (reason["item_id"], reason["title"], reason["kind"]) == ("i3", "Item 3", "left_out")
            without = await ranked(run, history=["i20", "i30"], items=[item["item_id"]])
            assert item["score"] - without["items"][0]["score"] == pytest.approx(reason["weight"], abs=1e-5)
        shares = {one["category"]: one["probability"] for one in answer["categories"]}
        assert shares["even"] + shares["odd"] == pytest.approx(1, abs=1e-3)
        assert max(shares, key=lambda name: shares[name] if name.startswith("tens") else 0) == "tens-0"
        plain = await run.recommend(history=["i3"], k=2)
        assert "categories" not in plain
        assert "reasons" not in plain["items"][0]


async def test_reasons_of_the_other_rungs() -> None:
    circle = Circle()
    async with running(circle) as run:
        circle.broken = {"encode"}
        answer = await run.recommend(history=["i10", "i30", "i11"], k=1, explain=True)
        assert answer["source"] == "neighbours"
        assert [reason["item_id"] for reason in answer["items"][0]["reasons"]] == ["i11", "i10"]
        assert {reason["kind"] for reason in answer["items"][0]["reasons"]} == {"alike"}
        circle.broken = {"encode", "neighbours"}
        for body in ({"history": ["i10"]}, {}):
            answer = await run.recommend(**body, k=1, explain=True)
            assert answer["source"] == "popular"
            assert answer["items"][0]["reasons"] == []
            assert answer["categories"] == []
    async with running() as run:
        await run.tell("bob", "a")
        answer = await run.recommend(explain=True)
        assert (answer["items"][0]["item_id"], answer["categories"]) == ("a", [])


async def test_others_have_their_turn_while_reasons_are_found() -> None:
    class Deliberate(Circle):
        def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
            time.sleep(0.004 * len(histories))
            return super().encode(histories)

    circle = Deliberate()
    async with running(circle) as run:
        reasoned = asyncio.create_task(run.recommend(history=[f"i{n}" for n in range(24)], k=2, explain=True))
        while 23 not in circle.encoded:  # the first history with an item left out
            await asyncio.sleep(0.001)
        assert await run.ids(history=["i3"], k=2) == ["i4", "i5"]
        assert not reasoned.done()
        assert [item["reasons"][0]["item_id"] for item in (await reasoned)["items"]] == ["i23", "i23"]
        assert circle.encoded.count(23) == 24  # each item was left out once


async def test_reasons_that_take_too_long_are_left_out() -> None:
    class Endless(Circle):
        def score_rows(self, taste: Any, rows: Rows) -> Floats:
            time.sleep(0.03)
            return super().score_rows(taste, rows)

    async with running(Endless(), model_timeout_ms=200) as run:
        answer = await run.recommend(history=[f"i{n}" for n in range(24)], k=2, explain=True)
        assert [item["item_id"] for item in answer["items"]] == ["i24", "i25"]
        assert [item["reasons"] for item in answer["items"]] == [[], []]
        assert answer["source"] == "model"


async def test_reasons_that_cannot_be_found_cost_no_answer() -> None:
    class Silent(Circle):
        def score_rows(self, taste: Any, rows: Rows) -> Floats:
            raise RuntimeError("no words")

        def unit_vectors(self, rows: Rows) -> Floats:
            raise RuntimeError("no vectors")

    async with running(Silent()) as run:
        answer = await run.recommend(history=["i3"], k=2, explain=True)
        assert [item["item_id"] for item in answer["items"]] == ["i4", "i5"]
        assert [item["reasons"] for item in answer["items"]] == [[], []]


# ------------------------------------------------------------------------------------------------------------ events


@pytest.mark.parametrize("negative", [{"type": "dislike"}, {"type": "rating", "value": 2.5}], ids=lambda n: n["type"])
async def test_a_dislike_is_never_recommended_and_not_read(negative: dict[str, Any]) -> None:
    async with running(Circle()) as run:
        await run.tell("ann", "i20", "i3")
        await told(run, event_id="d", user_id="ann", item_id="i3", time=10, **negative)
        answer = await run.recommend(user_id="ann", k=1)
        assert answer["items"][0]["item_id"] == "i21", "the history ends with i20 again"
        for body in ({}, {"exclude_seen": False}, {"history": ["i2"], "exclude_seen": False}):
            assert "i3" not in await run.ids(user_id="ann", k=200, **body)
        assert "i20" in await run.ids(user_id="ann", k=200, exclude_seen=False)
        assert len((await ranked(run, user_id="ann", items=["i3", "i4"]))["items"]) == 2, "your list is yours"
        await told(run, event_id="l", user_id="ann", item_id="i3", time=11, type="like")
        assert await run.ids(user_id="ann", k=1) == ["i4"], "a later like takes it back"
        assert "i3" in await run.ids(user_id="ann", k=200, exclude_seen=False)


async def test_a_dislike_pushes_the_list_away_from_what_is_like_it() -> None:
    """On both sides of where the circle looks lie equally good items; the side of the dislike falls behind."""
    async with running(Circle()) as run:
        await run.tell("ann", "i19")
        before = await run.ids(user_id="ann", k=10)
        assert before[:6] == ["i20", "i21", "i22", "i18", "i23", "i17"]
        await told(run, event_id="d", user_id="ann", item_id="i25", time=5, type="dislike")
        after = await run.ids(user_id="ann", k=10)
        assert "i25" not in after

        def mean(ids: list[str]) -> float:
            return float(np.mean([int(item_id[1:]) for item_id in ids]))

        assert mean(after) < mean(before) - 2
        assert after[0] in ("i15", "i16", "i17", "i18"), "and it stays near where the history looks"


async def test_a_dislike_alone_is_a_popular_list_without_it() -> None:
    async with running(Circle()) as run:
        await told(run, event_id="d", user_id="ann", item_id="i0", type="dislike")
        answer = await run.recommend(user_id="ann", k=200)
        assert answer["source"] == "popular"
        assert "i0" not in [item["item_id"] for item in answer["items"]]
    async with running() as run:
        await run.tell("bob", "a", "b")
        await told(run, event_id="d", user_id="ann", item_id="a", type="dislike")
        assert await run.ids(user_id="ann", exclude_seen=False) == ["b"]


async def test_late_future_unknown_and_repeated_events_have_their_stated_result() -> None:
    now = time.time()
    async with running(Circle()) as run:
        await told(run, event_id="e1", user_id="ann", item_id="i20", time=now)
        await told(run, event_id="late", user_id="ann", item_id="i3", time=now - 1e6)
        assert await run.ids(user_id="ann", k=1) == ["i21"], "a late event takes its place by its time"
        await told(run, event_id="skew", user_id="ann", item_id="i30", time=now + 200)
        assert await run.ids(user_id="ann", k=1) == ["i31"], "a clock that is a little ahead is believed"

        many = [
            {"event_id": "m1", "user_id": "ann", "item_id": "i5", "time": now},
            {"event_id": "m2", "user_id": "ann", "item_id": "i6", "time": now + 1000},
        ]
        refused = await run.client.post("/events", json={"events": many})
        assert refused.status_code == 422
        assert refused.json()["error"]["field"] == "events[1].time"
        assert "future" in refused.json()["error"]["message"]
        assert "i5" in await run.ids(user_id="ann", k=200), "all or none"

        assert await told(run, event_id="u", user_id="ann", item_id="nobody knows", time=now + 250) == {
            "accepted": 1, "repeated": 0,
        }  # fmt: skip
        assert await run.ids(user_id="ann", k=1) == ["i31"], "it is kept and not read"
        await run.client.put("/items/nobody knows", json={"text": "10"})
        assert await run.ids(user_id="ann", k=1) == ["i11"], "until the catalogue knows it"

        twice = {"event_id": "t", "user_id": "bob", "item_id": "i7", "time": 1}
        answer = await run.client.post("/events", json={"events": [twice, twice | {"item_id": "i8"}]})
        assert answer.json() == {"accepted": 1, "repeated": 1}
        assert await run.ids(user_id="bob", k=1) == ["i8"], "the first of them counts: i8 was not seen"


async def test_a_cited_event_counts_once_for_its_bundle() -> None:
    async with running(Circle()) as run:
        cited = (await run.recommend(history=["i3"]))["recommendation_id"]
        assert cited.endswith(mark(f"{NAME}/1"))
        click = {"event_id": "c1", "user_id": "ann", "item_id": "i4", "type": "click", "recommendation_id": cited}
        other = click | {"event_id": "c2"}
        for events in ([click], [click], [click, other], [other]):
            await run.client.post("/events", json={"events": events})
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_cited_events_total", {"bundle": f"{NAME}/1", "source": "model", "type": "click"}) == 2
