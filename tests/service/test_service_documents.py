"""Documents that cannot rot: the error table, the ladder, OpenAPI, /docs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from service.access import ROUTES, find_route
from service.errors import STATUS, ErrorCode
from service.keys import Scope
from service.schemas import Degraded, RecommendRequest, Source
from tests.service.test_service_access import ALL, KEYS
from tests.service.toy import Circle, running

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(ErrorCode)


def test_the_page_lists_every_error_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", PAGE, flags=re.MULTILINE)
    assert {code: int(status) for status, code in rows} == {str(code): status for code, status in STATUS.items()}
    assert len(rows) == len(STATUS)


def test_the_page_names_every_rung_and_every_field() -> None:
    for word in (*Source, *Degraded, *RecommendRequest.model_fields):
        assert f"`{word}`" in PAGE, f"docs/service.md lacks {word}"


def curls() -> list[tuple[str, str, str | None]]:
    """(method, path, body) of each curl command of the page that asks the API, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("curl")]
    found = []
    for words in map(shlex.split, lines):
        path = next(word for word in words if "localhost:8000" in word).split("localhost:8000")[1]
        body = words[words.index("-d") + 1] if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
        found.append((method, path, body))
    return found


async def test_every_curl_of_the_page_works_in_its_order() -> None:
    async with running(Circle()) as run:
        for method, path, body in curls():
            headers = {"content-type": "application/json"} if body else {}
            answer = await run.client.request(method, path, content=body, headers=headers)
            assert answer.status_code == 200, f"{method} {path}: {answer.text}"


async def test_the_page_has_a_curl_for_every_route_that_needs_no_key() -> None:
    shown = {find_route(method, path.partition("?")[0])[0] for method, path, _ in curls()}
    needing = {Scope.RECOMMEND, Scope.WRITE}
    public = {template for template, methods in ROUTES.items() if needing & set(methods.values())}
    assert shown >= {template for template in public if not template.startswith("/page/")} - {"/bundle"}


async def openapi() -> dict[str, Any]:
    async with running() as run:
        document: dict[str, Any] = (await run.client.get("/openapi.json")).json()
    return document


async def test_openapi_names_every_route_field_and_refusal() -> None:
    document = await openapi()
    lists = {"/popular", "/items/{item_id}/similar"}
    assert set(document["paths"]) >= {"/recommend", "/rank", "/events", "/items/{item_id}", "/users/{user_id}", *lists}
    recommend = document["paths"]["/recommend"]["post"]
    refusals = {"400", "401", "403", "408", "413", "415", "421", "422", "429", "431", "500"}
    assert set(recommend["responses"]) == {"200", *refusals}
    assert "503" in document["paths"]["/events"]["post"]["responses"]
    schema = document["components"]["schemas"]["RecommendRequest"]
    assert set(schema["properties"]) == set(RecommendRequest.model_fields)
    assert schema["additionalProperties"] is False
    for responses in (recommend["responses"], document["paths"]["/events"]["post"]["responses"]):
        for status, response in responses.items():
            if status != "200":
                assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def examples_of(operation: dict[str, Any], schemas: dict[str, Any]) -> list[Any]:
    """The bodies that the document shows for one operation."""
    if "requestBody" not in operation:
        return [None]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return list(schema.get("examples") or schemas[name]["examples"])


async def test_every_example_of_openapi_works_and_every_operation_has_one() -> None:
    document = await openapi()
    tried = 0
    async with running(Circle(), keys=KEYS) as run:
        for path, methods in document["paths"].items():
            if path.startswith("/admin"):
                continue
            for method, operation in methods.items():
                named = {
                    parameter["name"]: parameter.get("schema", {}).get("examples", parameter.get("examples", ["i1"]))[0]
                    for parameter in operation.get("parameters", [])
                    if parameter["in"] == "path"
                }
                assert operation["summary"]
                for body in examples_of(operation, document["components"]["schemas"]):
                    headers = {"x-api-key": ALL}
                    if path.startswith("/items") and method in ("get", "delete"):
                        named["item_id"] = "i1"  # the example's id is nobody's here
                    await run.tell_with(headers, "42", "i2")
                    answer = await run.client.request(method, path.format(**named), json=body, headers=headers)
                    assert answer.status_code == 200, f"{method} {path} {body}: {answer.text}"
                    tried += 1
                if path == "/items/{item_id}" and method == "delete":
                    await run.client.put("/items/i1", json={}, headers=headers)
    assert tried >= 15


async def test_the_docs_page_names_every_operation_and_needs_nothing_from_elsewhere() -> None:
    document = await openapi()
    async with running() as run:
        answer = await run.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in answer.text
    for field in RecommendRequest.model_fields:
        assert f"<code>{field}</code>" in answer.text
    assert not re.findall(r"(?:src|href)=\"(?!/openapi.json)", answer.text)
