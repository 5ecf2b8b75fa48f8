"""Every kind of bad request gets a typed error, and never a traceback or an echo."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.errors import STATUS, ErrorCode
from service.schemas import MAX_EVENTS, MAX_HISTORY
from tests.service.toy import Circle, running

JSON = {"content-type": "application/json"}


def check(answer: Any, code: ErrorCode, field: str | None = None) -> None:
    assert answer.status_code == STATUS[code], answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert body["error"]["code"] == code
    assert body["error"].get("field") == field
    assert set(body["error"]) == {"code", "message"} | ({"field"} if field else set())
    assert body["error"]["message"]
    assert "Traceback" not in answer.text
    assert len(answer.content) < 1000
    assert answer.headers["x-request-id"]


MALFORMED = {
    "no JSON": b"{",
    "two documents": b"{} {}",
    "not UTF-8": b'{"user_id": "\xff"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"history":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of ten thousand digits": b'{"k": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("path", ["/recommend", "/events"])
async def test_what_is_not_json_is_malformed(path: str, body: bytes) -> None:
    async with running(Circle()) as run:
        answer = await run.client.post(path, content=body, headers=JSON)
    check(answer, ErrorCode.MALFORMED_JSON)


RECOMMEND = [
    ("", None),
    ("[]", None),
    ('"text"', None),
    ("null", None),
    ('{"k": "10"}', "k"),
    ('{"k": 10.0}', "k"),
    ('{"k": true}', "k"),
    ('{"k": null}', "k"),
    ('{"k": 0}', "k"),
    ('{"k": 201}', "k"),
    ('{"k": 1e400}', "k"),
    ('{"user_id": 42}', "user_id"),
    ('{"user_id": ""}', "user_id"),
    ('{"user_id": "\\ud800"}', "user_id"),
    (json.dumps({"user_id": "x" * 257}), "user_id"),
    ('{"history": "i1"}', "history"),
    ('{"history": {"0": "i1"}}', "history"),
    ('{"history": ["i1", 2]}', "history[1]"),
    ('{"history": ["i1", ""]}', "history[1]"),
    ('{"history": ["i1", null]}', "history[1]"),
    ('{"history": ["\\udfff"]}', "history[0]"),
    (json.dumps({"history": ["i1"] * (MAX_HISTORY + 1)}), "history"),
    ('{"exclude_seen": 1}', "exclude_seen"),
    ('{"exclude_seen": "yes"}', "exclude_seen"),
    ('{"explore": NaN}', "explore"),
    ('{"explore": Infinity}', "explore"),
    ('{"explore": -0.1}', "explore"),
    ('{"explore": 1.01}', "explore"),
    ('{"explore": "0.5"}', "explore"),
    ('{"diversity": NaN}', "diversity"),
    ('{"diversity": 2}', "diversity"),
    ('{"seed": -1}', "seed"),
    ('{"seed": 1.5}', "seed"),
    ('{"seed": 9007199254740992}', "seed"),
    ('{"explain": 0}', "explain"),
    ('{"allow": []}', "allow"),
    ('{"allow": {"items": "i1"}}', "allow.items"),
    ('{"deny": {"items": [1]}}', "deny.items[0]"),
    ('{"deny": {"categories": [""]}}', "deny.categories[0]"),
    ('{"deny": {"brands": []}}', "deny.brands"),
    ('{"user": "42"}', "user"),
    ('{"user_id": "42", "limit": 10}', "limit"),
]


@pytest.mark.parametrize(("body", "field"), RECOMMEND, ids=[body[:40] for body, _ in RECOMMEND])
async def test_a_request_that_is_not_one_names_its_field(body: str, field: str | None) -> None:
    async with running(Circle()) as run:
        check(await run.client.post("/recommend", content=body, headers=JSON), ErrorCode.INVALID_REQUEST, field)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('["i1"]', "the body: input should be an object"),
        ('{"allow": ["i1"]}', "allow: input should be an object"),
        ('{"history": "i1"}', "history: input should be an array"),
    ],
)
async def test_a_refusal_speaks_of_json_and_not_of_python(body: str, message: str) -> None:
    async with running(Circle()) as run:
        answer = await run.client.post("/recommend", content=body, headers=JSON)
        assert answer.json()["error"]["message"] == message


GOOD = {"event_id": "e", "user_id": "u", "item_id": "i"}
EVENTS: list[tuple[Any, str | None]] = [
    ([], None),
    ([GOOD], None),
    ({}, "event_id"),
    ({"events": []}, "events"),
    ({"events": GOOD}, "events"),
    ({"events": [GOOD] * (MAX_EVENTS + 1)}, "events"),
    ({"events": [GOOD], "user_id": "u"}, "user_id"),
    ({"events": [GOOD, {"event_id": "e2", "user_id": "u"}]}, "events[1].item_id"),
    (GOOD | {"event_id": ""}, "event_id"),
    (GOOD | {"event_id": 1}, "event_id"),
    (GOOD | {"type": "stare"}, "type"),
    (GOOD | {"value": "5"}, "value"),
    (GOOD | {"value": float("nan")}, "value"),
    (GOOD | {"time": float("inf")}, "time"),
    (GOOD | {"time": -1}, "time"),
    (GOOD | {"time": 1_760_000_000_000}, "time"),  # milliseconds
    (GOOD | {"time": "2026-01-01"}, "time"),
    ({"events": [GOOD, GOOD | {"event_id": "e2", "time": 4e9}]}, "events[1].time"),
    (GOOD | {"recommendation_id": "x" * 65}, "recommendation_id"),
    (GOOD | {"item": "i"}, "item"),
]


@pytest.mark.parametrize(("body", "field"), EVENTS, ids=[str(body)[:60] for body, _ in EVENTS])
async def test_an_event_that_is_not_one_names_its_field(body: Any, field: str | None) -> None:
    async with running(Circle()) as run:
        answer = await run.client.post("/events", content=json.dumps(body), headers=JSON)
        check(answer, ErrorCode.INVALID_REQUEST, field)
        assert [entry async for entry in run.service.store.events()] == []  # all or none


async def test_an_event_of_the_future_names_its_time() -> None:
    """Taken when the test runs: what was far ahead when the tests were collected is near after a long run."""
    async with running(Circle()) as run:
        body = json.dumps(GOOD | {"time": time.time() + 400})
        check(await run.client.post("/events", content=body, headers=JSON), ErrorCode.INVALID_REQUEST, "time")
        assert [entry async for entry in run.service.store.events()] == []


async def test_hostile_field_names_come_back_short_and_printable() -> None:
    async with running(Circle()) as run:
        for name in ["x" * 5000, "a\nb", "<script>", "\u202e", "\ud800"]:
            body = json.dumps({name: 1})
            answer = await run.client.post("/recommend", content=body, headers=JSON)
            assert answer.status_code == 422, name
            assert len(answer.content) < 1000
            answer.json()["error"].get("field", "").encode()  # a name that is no Unicode has no field to name


async def test_the_bounds_themselves_are_fine() -> None:
    async with running(Circle()) as run:
        for body in (
            {"k": 1},
            {"k": 200},
            {"history": ["i1"] * MAX_HISTORY},
            {"user_id": "x" * 256},
            {"user_id": "ünï日本\u0000"},
            {"explore": 1, "seed": 2**53 - 1},
            {"diversity": 1, "explain": True, "history": ["i1"]},
            {"user_id": None, "history": None, "allow": None, "deny": None, "seed": None},
        ):
            assert (await run.client.post("/recommend", json=body)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/xml"}], ids=str)
@pytest.mark.parametrize("body", [b"{}", b"no json"])
async def test_another_content_type(headers: dict[str, str], body: bytes) -> None:
    async with running(Circle()) as run:
        for path in ("/recommend", "/events"):
            answer = await run.client.post(path, content=body, headers=headers)
            check(answer, ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        charset = {"content-type": "Application/JSON; charset=utf-8"}
        assert (await run.client.post("/recommend", content=b"{}", headers=charset)).status_code == 200


async def test_another_path_or_method() -> None:
    async with running(Circle()) as run:
        check(await run.client.post("/recommendations", json={}), ErrorCode.NOT_FOUND)
        check(await run.client.get("/nowhere"), ErrorCode.NOT_FOUND)
        answer = await run.client.get("/recommend")
        check(answer, ErrorCode.METHOD_NOT_ALLOWED)
        assert answer.headers["allow"] == "POST"
        check(await run.client.delete("/livez"), ErrorCode.METHOD_NOT_ALLOWED)


async def test_a_huge_body_is_refused_declared_or_streamed() -> None:
    async with running(Circle(), max_body_bytes=2000) as run:
        check(await run.client.post("/recommend", content=b" " * 2001, headers=JSON), ErrorCode.BODY_TOO_LARGE)

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        check(await run.client.post("/recommend", content=drip(), headers=JSON), ErrorCode.BODY_TOO_LARGE)
        exact = b'{"k": 1}'.ljust(2000)
        assert (await run.client.post("/recommend", content=exact, headers=JSON)).status_code == 200


async def test_a_million_ids_are_refused_quickly() -> None:
    async with running(Circle(), max_body_bytes=16_000_000) as run:
        body = json.dumps({"history": ["i1"] * 1_000_000})
        check(await run.client.post("/recommend", content=body, headers=JSON), ErrorCode.INVALID_REQUEST, "history")


async def test_a_full_queue_is_429_with_retry_after() -> None:
    import threading

    gate = threading.Event()

    class Gated(Circle):
        gated = False

        def generate(self, tokens: Any, dials: Any) -> Any:
            if self.gated:
                gate.wait(5)
            return super().generate(tokens, dials)

    circle = Gated()
    async with running(circle, queue_size=2, max_batch=1, model_timeout_ms=10_000) as run:
        circle.gated = True
        body = {"history": ["i1"]}
        asked = [asyncio.create_task(run.client.post("/recommend", json=body))]
        await asyncio.sleep(0.1)  # it is being computed now, and the queue is empty
        asked += [asyncio.create_task(run.client.post("/recommend", json=body)) for _ in range(7)]
        while sum(task.done() for task in asked) < 5:  # one computes, two wait
            await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(*asked)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 5
    for answer in refused:
        check(answer, ErrorCode.OVERLOADED)
        assert answer.headers["retry-after"] == "1"


async def test_the_unforeseen_is_logged_and_answered_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Circle()) as run:
        run.service.bundles.served = "no bundle at all"  # type: ignore[assignment]
        answer = await run.client.post("/recommend", json={"user_id": "u"}, headers={"x-request-id": "mine-1"})
        run.service.bundles.served = None
    check(answer, ErrorCode.INTERNAL)
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in answer.json()["error"]["message"]
    assert "AttributeError" not in answer.text
    assert "AttributeError" in caplog.text


async def test_a_request_id_that_is_not_sane_is_replaced() -> None:
    async with running() as run:
        answer = await run.client.get("/livez", headers={"x-request-id": "a b{}" * 50})
    assert len(answer.headers["x-request-id"]) == 32
