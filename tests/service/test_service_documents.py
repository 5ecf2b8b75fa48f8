"""Documents that cannot rot: the error table, the ladder, OpenAPI, /docs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from service.errors import STATUS, ErrorCode
from service.schemas import Degraded, RecommendRequest, Source
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


def curls() -> list[tuple[str, str]]:
    """(path, body) of each curl command of the page that posts something."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("curl")]
    words = [shlex.split(line) for line in lines]
    return [
        (next(word for word in line if "localhost:8000" in word).split("localhost:8000")[1], line[line.index("-d") + 1])
        for line in words
        if "-d" in line
    ]


@pytest.mark.parametrize(("path", "body"), curls())
async def test_every_curl_of_the_page_works(path: str, body: str) -> None:
    async with running(Circle()) as run:
        answer = await run.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_the_page_has_curls() -> None:
    assert {path for path, _ in curls()} == {"/recommend", "/events"}


async def openapi() -> dict[str, Any]:
    async with running() as run:
        document: dict[str, Any] = (await run.client.get("/openapi.json")).json()
    return document


async def test_openapi_names_every_route_field_and_refusal() -> None:
    document = await openapi()
    assert set(document["paths"]) == {"/recommend", "/events", "/livez", "/readyz", "/bundle"}
    recommend = document["paths"]["/recommend"]["post"]
    refusals = {"400", "401", "403", "408", "413", "415", "421", "422", "429", "500", "501"}
    assert set(recommend["responses"]) == {"200", *refusals}
    assert "503" in document["paths"]["/events"]["post"]["responses"]
    schema = document["components"]["schemas"]["RecommendRequest"]
    assert set(schema["properties"]) == set(RecommendRequest.model_fields)
    assert schema["additionalProperties"] is False
    for responses in (recommend["responses"], document["paths"]["/events"]["post"]["responses"]):
        for status, response in responses.items():
            if status != "200":
                assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


async def test_every_example_of_openapi_works() -> None:
    document = await openapi()
    examples = [("/recommend", one) for one in document["components"]["schemas"]["RecommendRequest"]["examples"]]
    body = document["paths"]["/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    examples += [("/events", one) for one in body["examples"]]
    assert len(examples) == 5
    async with running(Circle()) as run:
        for path, example in examples:
            answer = await run.client.post(path, json=example)
            assert answer.status_code == 200, answer.text


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
