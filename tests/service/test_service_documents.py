"""Documents that cannot rot: the error table, the ladder, OpenAPI, /docs."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from model.bundle import activate
from service.access import find_route
from service.errors import STATUS, ErrorCode
from service.insights import from_rung, mark
from service.schemas import Degraded, RankAnswer, RecommendAnswer, RecommendRequest, Source
from service.schemas_items import ListAnswer
from tests.pages import DOCS, lines, scripts
from tests.redis_server import free_port
from tests.service.test_service_access import ALL, KEYS
from tests.service.test_service_process import process
from tests.service.test_service_swap import publish
from tests.service.toy import Circle, running

PAGE = (DOCS / "service.md").read_text(encoding="utf-8")
PAGES = ("service.md", "operations.md")
SHOWN = "3f2a90c11d7e"  # the version that the pages activate


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(ErrorCode)


def test_the_page_lists_every_error_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", PAGE, flags=re.MULTILINE)
    assert {code: int(status) for status, code in rows} == {str(code): status for code, status in STATUS.items()}
    assert len(rows) == len(STATUS)


def test_the_page_names_every_rung_and_every_field() -> None:
    for word in (*Source, *Degraded, *RecommendRequest.model_fields):
        assert f"`{word}`" in PAGE, f"docs/service.md lacks {word}"


@dataclass(frozen=True)
class Curl:
    """One command of a page. line: as it stands, joined. keyed: it sends a key, so that the server has some."""

    line: str
    method: str
    port: str
    path: str
    body: str | None
    keyed: bool


def curls() -> list[Curl]:
    """Every curl of service.md, then those of operations.md, in order."""
    found = []
    for line in (line for page in PAGES for script in scripts(page) for line in lines(script)):
        words = shlex.split(line)
        if words[0] == "curl":
            port, path = next(match.groups() for word in words if (match := re.match(r"localhost:(\d+)(/.*)", word)))
            body = words[words.index("-d") + 1] if "-d" in words else None
            method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
            found.append(Curl(line, method, port, path, body, "X-API-Key: $KEY" in words))
    return found


def opened_then_keyed() -> Iterator[tuple[dict[str, str], list[Curl]]]:
    """The two servers that the pages speak of, without keys and with some, and what each is asked."""
    for keys, keyed in (({}, False), ({"keys": KEYS}, True)):
        yield keys, [curl for curl in curls() if curl.keyed is keyed]


@pytest.fixture
def two_versions(tmp_path: Path) -> str:
    """A folder of bundles with two versions and the second active; the version that the pages activate."""
    first, second = (publish(tmp_path / "bundles", first) for first in (1, 2))
    activate(tmp_path / "bundles", "movies", second)
    return first


async def test_every_curl_of_the_pages_works_in_its_order(tmp_path: Path, two_versions: str) -> None:
    place = {"bundles": tmp_path / "bundles", "bundle": "movies", "store": f"sqlite:///{tmp_path / 'events.db'}"}
    for keys, asked in opened_then_keyed():
        async with running(**place, **keys) as run:
            for curl in asked:
                if curl.port != "8000":  # the metrics' own: asked with the real program below
                    continue
                headers = {"content-type": "application/json"} if curl.body else {}
                headers |= {"x-api-key": ALL} if curl.keyed else {}
                body = None if curl.body is None else curl.body.replace(SHOWN, two_versions)
                answer = await run.client.request(curl.method, curl.path, content=body, headers=headers)
                assert answer.status_code == 200, f"{curl.line}: {answer.text}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on the PATH")
def test_every_curl_of_the_pages_works_as_it_stands(tmp_path: Path, two_versions: str) -> None:
    """The lines in a shell, but for port and version, against the real process."""
    quiet = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = 0
    for keys, asked in opened_then_keyed():
        metrics = free_port()
        with process(tmp_path, metrics_port=metrics, **keys) as (_, http):
            for curl in asked:
                line = curl.line.replace("curl ", "curl --fail-with-body -sS ", 1).replace(SHOWN, two_versions)
                line = line.replace("localhost:8000", f"localhost:{http.base_url.port}")
                line = line.replace("localhost:9100", f"localhost:{metrics}")
                ran = subprocess.run(
                    ["sh", "-c", line],
                    env=quiet | {"KEY": ALL},
                    capture_output=True,
                    text=True,
                    timeout=30,
                    check=False,
                )
                assert ran.returncode == 0, f"{curl.line}: {ran.stdout}{ran.stderr}"
                assert curl.port == "9100" or json.loads(ran.stdout), curl.line
                done += 1
    assert done == len(curls()) >= 20


async def test_the_pages_have_a_curl_for_every_operation_and_for_the_metrics() -> None:
    shown = {(find_route(curl.method, curl.path.partition("?")[0])[0], curl.method) for curl in curls()}
    document = await openapi()
    assert shown >= {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert any(curl.port == "9100" for curl in curls())


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


def answer_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> list[Any]:
    """What the document shows of the answers to one operation."""
    name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return list(schemas[name].get("examples", []))


def example_of(parameter: dict[str, Any]) -> Any:
    return (parameter.get("examples") or parameter["schema"]["examples"])[0]


def check(example: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """That the example is of the schema, and has no field that the schema lacks."""
    named = copy.deepcopy(document["components"]["schemas"])
    for one in named.values():
        if "properties" in one:
            one["additionalProperties"] = False
    Draft202012Validator({**schema, "components": {"schemas": named}}).validate(example)


async def test_every_example_of_openapi_works_and_every_operation_has_one(tmp_path: Path, two_versions: str) -> None:
    document = await openapi()
    schemas, headers = document["components"]["schemas"], {"x-api-key": ALL}
    tried = 0
    async with running(keys=KEYS, bundles=tmp_path / "bundles", bundle="movies") as run:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                named = {
                    parameter["name"]: example_of(parameter)
                    for parameter in operation.get("parameters", [])
                    if parameter["in"] == "path"
                }
                assert operation["summary"]
                for body in examples_of(operation, schemas):
                    if path.startswith("/items") and method in ("get", "delete"):
                        named["item_id"] = "i1"  # the example's id is nobody's here
                    if path.endswith("/activate"):
                        body = {"version": two_versions}
                    await run.tell_with(headers, "42", "i2")
                    answer = await run.client.request(method, path.format(**named), json=body, headers=headers)
                    assert answer.status_code == 200, f"{method} {path} {body}: {answer.text}"
                    assert set(answer.json()) >= set(answer_examples(operation, schemas)[0]), f"{method} {path}"
                    tried += 1
                if path == "/items/{item_id}" and method == "delete":
                    await run.client.put("/items/i1", json={}, headers=headers)
    assert tried >= 20


async def test_every_parameter_of_openapi_has_an_example_that_is_taken() -> None:
    document = await openapi()
    async with running(Circle(), keys=KEYS) as run:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                parameters = operation.get("parameters", [])
                for parameter in parameters:
                    check(example_of(parameter), parameter["schema"], document)
                query = {one["name"]: example_of(one) for one in parameters if one["in"] == "query"}
                if query:
                    await run.tell_with({"x-api-key": ALL}, "42", "i2")
                    url = path.format(item_id="i1", user_id="42")
                    answer = await run.client.request(method, url, params=query, headers={"x-api-key": ALL})
                    assert answer.status_code == 200, f"{method} {url} {query}: {answer.text}"


async def test_every_answer_of_openapi_has_an_example_of_its_schema() -> None:
    document = await openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                content = answer["content"]["application/json"]
                if content["schema"]["$ref"].endswith("/ErrorBody"):
                    examples = [example["value"] for example in content["examples"].values()]
                    codes = [example["error"]["code"] for example in examples]
                    assert codes == re.findall(r"`([a-z_]+)`", answer["description"]), f"{method} {path} {status}"
                    assert {STATUS[ErrorCode(code)] for code in codes} == {int(status)}
                elif status == "200":
                    examples = answer_examples(operation, document["components"]["schemas"])
                else:
                    examples = [content["example"]]
                assert examples, f"{method} {path} {status}"
                for example in examples:
                    check(example, content["schema"], document)


async def test_what_asks_for_patience_says_for_how_long() -> None:
    document = await openapi()
    found = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for status in {"429", "503"} & set(operation["responses"]):
                header = operation["responses"][status]["headers"]["Retry-After"]
                check(header["example"], header["schema"], document)
                found += 1
    assert found >= 16


async def test_who_is_not_ready_says_when_to_come_again() -> None:
    async with running(Circle()) as run:
        assert "retry-after" not in (await run.client.get("/readyz")).headers
        run.service.begin_draining()
        answer = await run.client.get("/readyz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_the_examples_cite_the_bundle_and_the_rung_that_they_name() -> None:
    for model in (RecommendAnswer, RankAnswer, ListAnswer):
        for example in model.model_json_schema()["examples"]:
            recommendation_id, source = example["recommendation_id"], Source(example["source"])
            assert recommendation_id.endswith(mark(example["bundle"]))
            assert from_rung(recommendation_id, source) == recommendation_id


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
