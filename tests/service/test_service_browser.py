"""What a web page elsewhere could try through its visitor's browser: other hosts, origins and content types."""

from __future__ import annotations

import re

import pytest

from service.middleware.hosts import Hosts
from service.routes.docs import _HASH
from tests.service.test_service_refusals import check
from tests.service.toy import Circle, running

WELCOME = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:80",
    "[::1]",
    "[::1]:8000",
    "192.0.2.9:8000",
    "shop.test",
    "SHOP.test:443",
    "a.below.test",
    "a.b.below.test",
]
STRANGE = [
    "evil.test",
    "localhost.evil.test",
    "127.0.0.1.evil.test",
    "shop.test.evil.test",
    "below.test",
    "xbelow.test",
    "evil.test:8000",
    "evil.test@localhost",
    "localhost@evil.test",
    "localhost, evil.test",
    "localhost evil.test",
    "",
    ":8000",
    "[localhost]",
    "[::1",
    "*",
]


@pytest.mark.parametrize("host", WELCOME)
def test_hosts_that_are_welcome(host: str) -> None:
    assert Hosts(None, ["shop.test", "*.below.test"]).allows(host)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", STRANGE)
async def test_hosts_that_are_not_reach_no_route(host: str) -> None:
    async with running(Circle(), allowed_hosts="shop.test, *.below.test") as run:
        for path in ("/livez", "/recommend", "/nowhere"):
            check(await run.client.post(path, json={}, headers={"host": host}), "misdirected_request")


async def test_of_two_hosts_both_must_be_welcome() -> None:
    async with running(Circle(), allowed_hosts="shop.test") as run:
        for hosts in (["shop.test", "evil.test"], ["evil.test", "shop.test"]):
            answer = await run.client.get("/livez", headers=[("host", host) for host in hosts])
            check(answer, "misdirected_request")


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 421),
        ({"allowed_hosts": "*"}, 200),
        ({"host": "0.0.0.0"}, 200),
        ({"host": "0.0.0.0", "allowed_hosts": "shop.test"}, 421),
    ],
    ids=str,
)
async def test_by_default_a_service_for_this_machine_answers_to_this_machine(
    settings: dict[str, str], status: int
) -> None:
    async with running(Circle(), **settings) as run:
        assert (await run.client.get("/livez", headers={"host": "other.test"})).status_code == status
        assert (await run.client.get("/livez")).status_code == 200


PREFLIGHT = {
    "origin": "https://shop.test",
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-api-key",
}


async def test_no_page_elsewhere_may_read_an_answer_unless_its_origin_is_named() -> None:
    async with running(Circle()) as run:
        preflight = await run.client.options("/recommend", headers=PREFLIGHT)
        check(preflight, "method_not_allowed")
        answer = await run.client.post("/recommend", json={}, headers={"origin": "https://shop.test"})
        for one in (preflight, answer):
            assert not [name for name in one.headers if name.startswith("access-control")]
    async with running(Circle(), allowed_origins="https://shop.test, https://two.test") as run:
        for origin, allowed in (("https://shop.test", True), ("https://two.test", True), ("https://evil.test", False)):
            preflight = await run.client.options("/recommend", headers=PREFLIGHT | {"origin": origin})
            answer = await run.client.post("/recommend", json={}, headers={"origin": origin})
            assert (preflight.status_code == 200) == allowed
            for one in (preflight, answer):
                assert one.headers.get("access-control-allow-origin") == (origin if allowed else None)
                assert "access-control-allow-credentials" not in one.headers


FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", ""]


@pytest.mark.parametrize("kind", FORMS)
async def test_what_a_form_elsewhere_can_send_is_taken_nowhere(kind: str) -> None:
    """A browser sends these without asking first; every route that reads a body refuses them, also those to come."""
    async with running(Circle(), host="0.0.0.0") as run:
        document = (await run.client.get("/openapi.json")).json()
        places = [
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if "requestBody" in operation
        ]
        assert ("POST", "/events") in places
        for method, path in places:
            event = b'{"event_id": "e", "user_id": "u", "item_id": "i"}'
            answer = await run.client.request(method, path, content=event, headers={"content-type": kind})
            assert answer.status_code in (403, 415), (method, path)
        assert [entry async for entry in run.service.store.events()] == []


async def test_every_answer_tells_the_browser_to_be_careful() -> None:
    async with running(Circle()) as run:
        for method, path in (("GET", "/docs"), ("GET", "/livez"), ("GET", "/nowhere"), ("GET", "/recommend")):
            answer = await run.client.request(method, path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            if path != "/docs":
                assert answer.headers["cache-control"] == "no-store"


async def test_pages_may_use_files_of_this_service_and_no_script_of_their_own() -> None:
    async with running(Circle()) as run:
        pages = [path for path in ("/", "/docs") if (await run.client.get(path)).status_code == 200]
        assert "/docs" in pages
        for path in pages:
            page = await run.client.get(path)
            policy = page.headers["content-security-policy"]
            rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
            assert rules["default-src"] == "'none'"
            assert rules["script-src"] == "'self'"
            assert rules["frame-ancestors"] == "'none'"
            assert "unsafe" not in policy
            assert page.headers["x-frame-options"] == "DENY"
            assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:|\sstyle=", page.text)
            inline = re.findall(r"<style>(.*?)</style>", page.text, flags=re.DOTALL)
            assert len(inline) == ("sha256-" in policy)
    assert _HASH in policy
