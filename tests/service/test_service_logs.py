"""The log: no id in it whatever happens, one object a line, each with its request; and it cannot be flooded."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs
from service.keys import Scope, key_line, new_key
from service.logs import JsonFormatter, Repeats, TextFormatter
from tests.redis_server import RedisServer, free_port
from tests.service.test_service_process import process
from tests.service.test_service_recommend import publish
from tests.service.toy import Circle, running

SECRETS = ["user-secret", "item-secret", "event-secret", "query-secret", "kategorie-secret"]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the service's own JSON handler would have written, at any level, from the whole process."""
    written: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith("httpx"):  # the client of the tests
                written.append(self.format(record))

    handler = Keep()
    handler.setFormatter(JsonFormatter(ids=False))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def traffic() -> list[tuple[str, str, Any]]:
    """Requests of every kind, all of them with ids that can be recognised."""
    event = {"event_id": "event-secret", "user_id": "user-secret", "item_id": "item-secret", "type": "like"}
    return [
        ("POST", "/events", event),
        ("POST", "/events", {"events": [event | {"event_id": "event-secret-2", "item_id": "i5"}]}),
        ("POST", "/events", event | {"item_id": 7}),
        ("POST", "/recommend", {"user_id": "user-secret"}),
        ("POST", "/recommend", {"user_id": "user-secret", "history": ["item-secret", "i7"], "k": 5}),
        ("POST", "/recommend", {"history": ["i3"], "deny": {"items": ["item-secret"]}}),
        ("POST", "/recommend", {"history": ["i3"], "allow": {"categories": ["kategorie-secret"]}}),
        ("POST", "/recommend", {"user_id": "user-secret", "item-secret": 1}),
        ("POST", "/rank", {"user_id": "user-secret", "items": ["item-secret", "i3"]}),
        ("GET", "/items/item-secret/similar", None),
        ("GET", "/items/i3/similar?q=query-secret", None),
        ("PUT", "/items/item-secret", {"title": "item-secret", "categories": [], "text": "item-secret"}),
        ("DELETE", "/items/item-secret", None),
        ("GET", "/users/user-secret", None),
        ("DELETE", "/users/user-secret", None),
        ("GET", "/user-secret/query-secret", None),
        ("GET", "/livez?user=user-secret", None),
        ("PATCH", "/recommend", {"user_id": "user-secret"}),
    ]


def check(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text, next(line for line in text.splitlines() if secret in line)


async def test_no_id_is_logged_at_any_level_even_when_everything_breaks(lines: list[str]) -> None:
    class Telltale(Circle):
        def _maybe_break(self, step: str) -> None:
            if step in self.broken:
                user, item = SECRETS[:2]
                try:
                    {}[user]
                except KeyError as error:
                    raise RuntimeError(item) from error

    circle = Telltale()
    key = new_key()
    async with running(circle, keys=key_line("all", Scope, key)) as run:
        for broken in (set(), {"encode"}, {"generate", "retrieve"}, {"encode", "generate", "retrieve", "neighbours"}):
            circle.broken.clear()  # in place: once items were said of, a copy is served that shares the set
            circle.broken.update(broken)
            for method, path, body in traffic():
                await run.client.request(method, path, json=body, headers={"x-api-key": key})
            await run.settle()
        await run.service.store.close()
        for method, path, body in traffic() * 2:
            await run.client.request(method, path, json=body, headers={"x-api-key": key})
        run.service.bundles.served = "item-secret"  # type: ignore[assignment]
        answer = await run.client.post("/recommend", json={"user_id": "user-secret"}, headers={"x-api-key": key})
        assert answer.status_code == 500
        run.service.bundles.served = None
    text = "\n".join(lines)
    check(text)
    for happened in ("encode failed", "neighbours failed", "the store does not answer", "a request failed"):
        assert happened in text  # it was loud, and told where it broke
    assert "_maybe_break" in text
    assert "RuntimeError" in text


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_id_is_logged_by_the_real_process(tmp_path: Path, form: str) -> None:
    publish(tmp_path / "bundles")
    with process(tmp_path, log_level="debug", log_format=form) as (server, client):
        for method, path, body in traffic():
            client.request(method, path, json=body)
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as raw:
            raw.sendall(b"user-secret item-secret\r\n\r\n")
            raw.recv(1000)
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    assert server.returncode == 0
    check(output)
    assert "/recommend" in output
    if form == "json":
        loggers = {json.loads(line)["logger"] for line in output.splitlines()}  # each line, also uvicorn's
        assert {"contrec.access", "uvicorn.error", "service.bundles"} <= loggers


@pytest.mark.redis
def test_no_id_is_logged_while_redis_comes_and_goes(tmp_path: Path, own_redis: RedisServer) -> None:
    publish(tmp_path / "bundles")
    with process(tmp_path, log_level="debug", store=own_redis.url) as (server, client):
        for stop in (False, True, True):
            if stop:
                own_redis.stop()
            for method, path, body in traffic():
                client.request(method, path, json=body)
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    check(output)
    assert "the store does not answer" in output


async def test_the_access_line_has_the_facts_and_the_request(lines: list[str]) -> None:
    key = new_key()
    async with running(Circle(), keys=key_line("shop", [Scope.RECOMMEND], key)) as run:
        lines.clear()
        headers = {"x-api-key": key, "x-request-id": "mine-7"}
        await run.client.post("/recommend", json={"history": ["i1"]}, headers=headers)
        await run.client.post("/recommend", json={"k": 0}, headers=headers)
        await run.client.get("/nowhere/at/all", headers=headers)
        await run.client.get("/livez", headers=headers)
        told = [one for line in lines if (one := json.loads(line))["logger"] == "contrec.access"]
    assert all(one["request_id"] == "mine-7" and one["key"] == "shop" and one["ms"] >= 0 for one in told)
    names = ("level", "method", "route", "status", "outcome", "source")
    facts = [tuple(one.get(name) for name in names) for one in told]
    assert facts == [
        ("info", "POST", "/recommend", 200, "ok", "model"),
        ("info", "POST", "/recommend", 422, "invalid_request", None),
        ("info", "GET", "unmatched", 404, "not_found", None),
        ("debug", "GET", "/livez", 200, "ok", None),
    ]
    assert told[0]["message"].startswith("POST /recommend 200 outcome=ok ms=")


def record(message: str = "hello", error: BaseException | None = None, line: int = 1) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("service.x", logging.ERROR, "x.py", line, message, (), info)


def caught() -> BaseException:
    user, item = SECRETS[:2]
    try:
        try:
            raise KeyError(user)
        except KeyError as error:
            raise httpx.ReadError(item) from error
    except httpx.ReadError as error:
        return error


def test_of_an_exception_the_type_and_the_place_are_logged_and_its_text_only_on_demand() -> None:
    error = caught()
    told = json.loads(JsonFormatter(ids=False).format(record(error=error)))["error"]
    check(told)
    assert told.splitlines()[-1] == "httpx.ReadError"
    assert "KeyError\nwhich caused\n" in told
    assert "test_service_logs.py" in told
    told = TextFormatter(ids=True).format(record(error=error))
    assert "KeyError: 'user-secret'" in told
    assert "httpx.ReadError: item-secret" in told


def test_a_record_carries_the_id_of_its_request_and_none_outside() -> None:
    with logs.request("r1"):
        logs.note(source="model")
        assert logs.noted() == {"source": "model"}
        assert json.loads(JsonFormatter(ids=False).format(record()))["request_id"] == "r1"
        assert TextFormatter(ids=False).format(record()).endswith("hello [request r1]")
    logs.note(source="lost")
    assert logs.noted() == {}
    assert "request" not in TextFormatter(ids=False).format(record())


def test_a_line_stays_a_line() -> None:
    text = JsonFormatter(ids=True).format(record("two\nlines\u2028", error=caught()))
    assert "\n" not in text
    assert json.loads(text)["message"] == "two\nlines\u2028"


async def test_paths_are_logged_on_demand(lines: list[str]) -> None:
    async with running(Circle(), log_ids=True) as run:
        await run.client.get("/users/ann")
    assert [json.loads(line)["path"] for line in lines if "contrec.access" in line] == ["/users/ann"]


def test_one_complaint_cannot_fill_the_disk() -> None:
    now = [0.0]
    repeats = Repeats(most=3, window=60, clock=lambda: now[0])
    assert [repeats.filter(record()) for _ in range(1000)] == [True] * 3 + [False] * 997
    assert repeats.filter(record(line=2))  # another complaint
    quiet = logging.LogRecord("x", logging.INFO, "x.py", 1, "hello", (), None)
    assert all(repeats.filter(quiet) for _ in range(100))
    now[0] = 61.0
    again = record()
    assert repeats.filter(again)
    assert again.getMessage() == "hello (and 997 times more before)"


def test_a_lookup_that_fails_when_nobody_waits_any_more_is_no_complaint(capfd: pytest.CaptureFixture[str]) -> None:
    """A Redis whose name is looked up for seconds: uvloop's future fails long after the store was given up."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    loop = asyncio.new_event_loop()
    try:
        logs.setup("info", "text", ids=False)
        late, other = (loop.create_future() for _ in range(2))
        for future, error in ((late, socket.gaierror(-3, "try again")), (other, ValueError("lost"))):
            future.set_exception(error)
        del late, other, future, error
        gc.collect()
    finally:
        loop.close()
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
    said = capfd.readouterr().err
    assert said.count("Future exception was never retrieved") == 1
    assert "ValueError" in said


def test_every_complaint_of_the_metrics_port_too(tmp_path: Path) -> None:
    """The metrics server writes no line for a scrape, nor for what is no scrape."""
    publish(tmp_path / "bundles")
    port = free_port()
    with process(tmp_path, log_format="json", metrics_port=port) as (server, _):
        httpx.get(f"http://127.0.0.1:{port}/metrics?user-secret", trust_env=False)
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"user-secret\r\n\r\n")
            raw.recv(1000)
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    check(output)
    for line in output.splitlines():
        json.loads(line)
