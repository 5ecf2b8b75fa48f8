"""The fast lane and the routes behind it answer alike; a charset in the content type keeps a request off the lane."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.middleware import fast_lane
from tests.service.toy import Circle, Running, running

DEEP = b'{"history": ' + b"[" * 5000 + b"]" * 5000 + b"}"
EVENT = {"event_id": "e", "user_id": "ann", "item_id": "i1"}
BODIES: list[tuple[str, bytes]] = [
    ("/recommend", json.dumps(body).encode())
    for body in (
        {},
        {"user_id": "ann"},
        {"history": ["i3", "nothing"], "k": 3},
        {"history": ["i3"], "explore": 0.5, "seed": 7},
        {"history": ["i3"], "deny": {"categories": ["odd"]}, "allow": {"items": ["i4", "i6"]}},
        {"k": 0},
        {"k": 201},
        {"k": "10"},
        {"k": 10.0},
        {"k": 1.5},
        {"k": True},
        {"history": "i3"},
        {"history": ["i3"] * 1001},
        {"user_id": ""},
        {"user_id": "x" * 257},
        {"user_id": "\ud800"},
        {"unknown": 1},
        {"seed": 2**53},
        {"seed": -1},
        {"explore": 2},
        [],
        None,
        "text",
    )
]
BODIES += [
    ("/recommend", body)
    for body in (
        b"",
        b"{",
        b"nonsense",
        b'{"k": 3} trailing',
        b'{"explore": NaN}',
        b'{"explore": Infinity}',
        b'{"explore": 1e999}',
        b'{"k": 3, "k": 4}',
        b'{"k": 1' + b"0" * 5000 + b"}",
        b'{"user_id": "\xff"}',
        b'\xef\xbb\xbf{"k": 3}',
        '{"k": 3}'.encode("utf-16"),
        b' \n{"k": 3}\t ',
        b'{"user_id": "\\u0000"}',
        DEEP,
    )
]
BODIES += [
    ("/events", json.dumps(body).encode())
    for body in (
        EVENT,
        {**EVENT, "type": "rating", "value": 4, "time": 10},
        {**EVENT, "type": "shout"},
        {**EVENT, "time": -1},
        {**EVENT, "extra": 1},
        {"events": [EVENT, {**EVENT, "event_id": "f"}]},
        {"events": []},
        {"events": [EVENT, {"event_id": "g"}]},
        {"events": "all"},
        {},
        [EVENT],
    )
]


async def both(run: Running, path: str, body: bytes) -> tuple[httpx.Response, httpx.Response]:
    """The answer of the fast lane and of the route."""
    fast = await run.client.post(path, content=body, headers={"Content-Type": "application/json"})
    plain = await run.client.post(path, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    return fast, plain


def told(answer: httpx.Response) -> Any:
    """What an answer says, less what differs from one request to the next."""
    content = answer.json()
    if answer.request.url.path == "/events" and answer.status_code == 200:
        return content["accepted"] + content["repeated"]
    if answer.status_code == 200:
        assert content.pop("recommendation_id")
        assert content.pop("timings_ms")["total"] >= 0
    return content


@pytest.mark.parametrize(("path", "body"), BODIES, ids=lambda value: str(value[:40]))
async def test_both_ways_answer_alike(path: str, body: bytes) -> None:
    async with running(Circle()) as run:
        await run.tell("ann", "i9")
        fast, plain = await both(run, path, body)
    assert (fast.status_code, told(fast)) == (plain.status_code, told(plain))
    assert fast.status_code in (200, 400, 422)
    assert fast.headers["content-type"] == plain.headers["content-type"] == "application/json"
    assert fast.headers.keys() == plain.headers.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["user_id", "history", "k", "exclude_seen", "allow", "deny", "explore", "seed", "explain", "diversity"]


@settings(deadline=None, max_examples=20)
@given(bodies=st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), min_size=20, max_size=20))
async def test_both_ways_answer_alike_to_nonsense(bodies: list[dict[str, Any]]) -> None:
    async with running(Circle()) as run:
        for body in bodies:
            fast, plain = await both(run, "/recommend", json.dumps({"seed": 1} | body).encode())
            assert (fast.status_code, told(fast)) == (plain.status_code, told(plain))


async def test_a_well_formed_request_takes_the_fast_lane_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    routed: list[str] = []
    original = fast_lane.FastLane.__call__

    async def watched(self: fast_lane.FastLane, *arguments: Any) -> None:
        inner = self.app

        async def noting(*given: Any) -> None:
            routed.append(given[0]["path"])
            await inner(*given)

        await original(fast_lane.FastLane(noting, self.lanes), *arguments)

    monkeypatch.setattr(fast_lane.FastLane, "__call__", watched)
    async with running(Circle()) as run:
        assert (await run.recommend(history=["i3"], k=1))["items"]
        await run.tell("ann", "i9")
        assert routed == []
        await both(run, "/recommend", b"{}")
        assert routed == ["/recommend"]
        await run.client.post("/recommend", json={"k": 0})
        assert routed == ["/recommend"] * 2
