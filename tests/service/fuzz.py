"""Hostile requests, made from the OpenAPI document so that a new route is attacked on the day it is added, and from
what the document leaves out.

Every case follows from a seed and its number; a failure names both. `CONTREC_FUZZ` says how many cases a run has at
least: 2,000 unless told, 20,000 in `make nightly`, whose record sums what the tests note under `SENT`.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.routes import docs, page

CASES = int(os.environ.get("CONTREC_FUZZ", "2000"))
SENT = "fuzz_cases"

JSON = {"content-type": "application/json"}

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 10, 200, 201, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400,
    0.5, -0.0, 1.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 1760000000, 1.76e12,
    "", " ", "i1", "i39", "42", "10", "true", "null", "NaN", "x" * 256, "x" * 257, "x" * 70_000, "\0", "a\nb", "\u2028",
    "\u202e", "\ud800", "\udfff", "é", "日本", "\U0001f600" * 100, "../../etc", "'; DROP TABLE event; --", "<script>",
    "${7*7}", "%00", "*",
    [], {}, [[]], [None], [1, "i1"], ["i1"] * 1000, ["i1"] * 1001, ["i1"] * 10_001, [f"i{n}" for n in range(200)],
    {"items": []}, {"categories": ["even"]}, {"": ""}, {"__proto__": 1}, {"items": [["i1"]]}, {"a": {"b": {"c": {}}}},
]  # fmt: skip
MILLION = "[" + ",".join(['"i1"'] * 1_000_000) + "]"
TYPES = ["", "text/plain", "application/json; charset=utf-16", "APPLICATION/JSON", "application/json;", "*/*"]


@dataclass(frozen=True)
class Case:
    """One request, ready to be sent."""

    name: str
    method: str
    path: str
    content: bytes | None
    headers: dict[str, str] = field(default_factory=dict)


def hidden() -> dict[str, Any]:
    """The routes that the OpenAPI document leaves out, as a document: the page's, and those of the documents.

    That of the document itself is FastAPI's own and takes nothing."""
    routes = [copy.copy(route) for route in (*page.router.routes, *docs.router.routes)]
    for route in routes:
        assert isinstance(route, APIRoute)
        route.include_in_schema = True
    document = get_openapi(title="hidden", version="0", routes=routes)
    document["components"]["schemas"]["TraceRequest"]["examples"] = [{"history": ["i1", "i3"], "mark": ["i1"]}]
    document["paths"]["/openapi.json"] = {"get": {"responses": {"200": {"description": ""}}}}
    return document


def everything(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with what it leaves out."""
    rest = hidden()
    schemas = rest["components"]["schemas"] | document["components"]["schemas"]
    return {"paths": document["paths"] | rest["paths"], "components": {"schemas": schemas}}


def cases(document: dict[str, Any], seed: int, count: int) -> Iterator[Case]:
    """`count` cases over all operations of the document, in turn."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    # Those that read a body have the most to go wrong.
    operations += [one for one in operations if "requestBody" in one[2]] * 4
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        method, path, operation = operations[number % len(operations)]
        yield _case(f"{seed}/{number}", draw, method, path, operation, document)


def _case(
    name: str, draw: random.Random, method: str, path: str, operation: dict[str, Any], document: dict[str, Any]
) -> Case:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(_text(draw), safe="") or "i1")
    names = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    if draw.random() < 0.7 and (names or draw.random() < 0.1):
        pairs = [(draw.choice([*names, "unknown"]), _text(draw)) for _ in range(draw.choice([1, 1, 2, 5]))]
        path += "?" + urlencode(pairs, errors="replace")
    content, headers = None, {}
    if "requestBody" in operation or draw.random() < 0.05:
        content, headers = _body(draw, operation, document), dict(JSON)
        if draw.random() < 0.03:
            headers["content-type"] = draw.choice(TYPES)
        if draw.random() < 0.02:
            headers["content-encoding"] = draw.choice(["gzip", "br", "identity", "x"])
    if draw.random() < 0.02:
        headers["x-request-id"] = draw.choice(["", "a b", "x" * 1000, "{}"])
    if draw.random() < 0.02:
        method = draw.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
    return Case(name, method, path, content, headers)


def _text(draw: random.Random) -> str:
    value = draw.choice(VALUES) if draw.random() < 0.7 else f"i{draw.randrange(40)}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:2000].encode("utf-8", "replace").decode()


def _body(draw: random.Random, operation: dict[str, Any], document: dict[str, Any]) -> bytes:
    body = json.loads(json.dumps(draw.choice(_examples(operation, document))))
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        body = _mutated(draw, body)
    text = json.dumps(body, ensure_ascii=draw.random() < 0.7)
    wreck = draw.choice(WRECKS) if draw.random() < 0.3 else _plain
    return wreck(draw, text)


def _examples(operation: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Good bodies: the document's own, and one with every field it knows."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    found = list(schema.get("examples", []))
    parts = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
    for part in parts:
        part = document["components"]["schemas"].get(part.get("$ref", "").rpartition("/")[2], part)
        found += part.get("examples", [])
        found.append(dict.fromkeys(part.get("properties", {}), "i1"))
    return found or [{}]


def _mutated(draw: random.Random, body: Any) -> Any:
    """One node of the body replaced, removed or added."""
    if not isinstance(body, dict | list) or not body or draw.random() < 0.1:
        return draw.choice(VALUES)
    if isinstance(body, list):
        place = draw.randrange(len(body))
        if draw.random() < 0.3:
            return body + [draw.choice(VALUES)] * draw.choice([1, 2, 300])
        return [*body[:place], _mutated(draw, body[place]), *body[place + 1 :]]
    key = draw.choice(list(body))
    chance = draw.random()
    if chance < 0.1:
        return {name: value for name, value in body.items() if name != key}
    if chance < 0.2:
        return body | {draw.choice(["user", "k", "", "x" * 300, "\ud800", "history", "events"]): draw.choice(VALUES)}
    if chance < 0.5:
        return body | {key: _mutated(draw, body[key])}
    return body | {key: draw.choice(VALUES)}


def _plain(draw: random.Random, text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _cut(draw: random.Random, text: str) -> bytes:
    return _plain(draw, text)[: draw.randrange(len(text) + 1)]


def _flipped(draw: random.Random, text: str) -> bytes:
    data = bytearray(_plain(draw, text))
    for _ in range(draw.choice([1, 1, 3, 10])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _deep(draw: random.Random, text: str) -> bytes:
    depth = draw.choice([50, 250, 1000, 100_000])
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}"), ('{"history":[', "]}")])
    return f"{opening * depth}{text if draw.random() < 0.5 else ''}{closing * draw.choice([depth, 0])}".encode(
        "utf-8", "replace"
    )


def _twice(draw: random.Random, text: str) -> bytes:
    """The same keys again, with other values."""
    other = json.dumps({name: draw.choice(VALUES) for name in ("user_id", "k", "history", "event_id")})
    return _plain(draw, f"{text[:-1]}, {other[1:]}" if text.startswith("{") and len(text) > 2 else other)


def _encoded(draw: random.Random, text: str) -> bytes:
    encoding = draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "utf-7", "cp037"])
    return text.encode(encoding, "replace")


def _huge(draw: random.Random, text: str) -> bytes:
    if draw.random() < 0.8:  # they take a while each
        return b" " * 100_000 + _plain(draw, text) + b"\n" * 100_000
    key = draw.choice(["history", "items", "events", "deny"])
    return f'{{"{key}": {MILLION}}}'.encode()


def _digits(draw: random.Random, text: str) -> bytes:
    long = ["9" * 5000, "1e999999", "-" + "9" * 400, "0" * 100, "1." + "1" * 5000]
    number = draw.choice([*long, "0x10", "1_0", "+1"])
    return f'{{"k": {number}, "seed": {number}}}'.encode()


def _nothing(draw: random.Random, text: str) -> bytes:
    return draw.choice([b"", b" ", b"\0", b"null", b"0", b'""', b"[]", b"{}", b"\xff\xfe", b"\xef\xbb\xbf", b"{}{}"])


WRECKS: list[Callable[[random.Random, str], bytes]] = [
    _cut, _flipped, _deep, _twice, _encoded, _huge, _digits, _nothing,
]  # fmt: skip
