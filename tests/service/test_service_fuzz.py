"""Thousands of hostile requests: never a 500, every refusal typed, and the service as good as new afterwards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from model.catalogue import Item
from service.access import routes_of
from service.errors import STATUS, ErrorCode
from service.keys import Scope, key_line, new_key
from tests.service.fuzz import CASES, SENT, Case, cases, everything
from tests.service.test_service_page import Walking
from tests.service.toy import Circle, running

SEED = 2026


class Tolerant(Walking):
    """Finds a place for a new item whatever its text is, as a text encoder does."""

    def with_items(self, items: Sequence[Item]) -> Circle:
        return super().with_items([replace(item, text=str(len(item.text) / 7)) for item in items])


def fault_of(method: str, status: int, headers: Mapping[str, str], content: bytes) -> str | None:
    """What is wrong with an answer, whatever was asked; headers in lower case."""
    if method == "HEAD":
        if content:
            return "a body after HEAD"
        return None if status < 500 else "a server error"
    if status < 400:
        if headers.get("content-type", "").startswith("application/json"):
            json.loads(content, parse_constant=_no_constant)
        return None
    try:
        error = json.loads(content)["error"]
        code = ErrorCode(error["code"])
    except (ValueError, KeyError, TypeError):
        return "an untyped refusal"
    if STATUS[code] != status:
        return f"{code} with another status"
    if code is ErrorCode.INTERNAL:
        return "a server error"
    if len(content) > 1000 or b"Traceback" in content or not error["message"]:
        return "a refusal that says too much or nothing"
    return None if headers.get("x-request-id") else "no request id"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def shown(case: Case) -> str:
    content = "" if case.content is None else f" {case.content[:300]!r} ({len(case.content)} bytes)"
    return f"case {case.name}: {case.method} {case.path[:300]} {case.headers}{content}"


@pytest.mark.slow
async def test_no_request_whatever_it_is_breaks_anything(
    caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    caplog.set_level(logging.WARNING)
    key = new_key()
    outcomes: Counter[str] = Counter()
    walked = 0
    faults = []
    async with running(Tolerant(), keys=key_line("all", Scope, key), max_body_bytes=16_000_000) as run:
        run.client.headers["x-api-key"] = key
        document = (await run.client.get("/openapi.json")).json()
        for case in cases(everything(document), SEED, CASES):
            answer = await run.client.request(case.method, case.path, content=case.content, headers=case.headers)
            outcomes[f"{answer.status_code}"] += 1
            walked += b'"steps":[{' in answer.content
            if (fault := fault_of(case.method, answer.status_code, answer.headers, answer.content)) is not None:
                faults.append(f"{fault}: {shown(case)} -> {answer.status_code} {answer.text[:300]}")
        await run.settle()
        assert faults == []
        assert run.service.ready
        await run.tell("afterwards", "i1")
        assert (await run.recommend(user_id="afterwards", k=3))["source"] == "model"
    assert "Traceback" not in caplog.text
    assert {"200", "400", "404", "405", "415", "422"} <= set(outcomes)
    record_property(SENT, outcomes.total())
    assert outcomes.total() >= CASES
    assert walked, "no case reaches the model through the page"
    assert outcomes["200"] > CASES / 20, f"too few get through to the service itself: {outcomes}"


def test_the_cases_are_the_same_each_time_and_cover_every_operation() -> None:
    from service.app import create_app
    from tests.service.toy import quiet_settings

    app = create_app(quiet_settings())
    document = everything(app.openapi())
    one, two = (list(cases(document, SEED, 500)) for _ in range(2))
    assert one == two
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = routes_of(app.routes)  # there {path} is {path:path}
    assert operations == {(method, path.replace(":path", "")) for path, found in routes for method in found - {"HEAD"}}
    for method, path in operations:
        start, _, end = path.partition("{")
        assert any(
            case.method == method and case.path.startswith(start) and end.partition("}")[2] in case.path for case in one
        ), (method, path)
