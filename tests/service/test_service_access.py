"""Who may call what: every route of the real app, with and without keys, and the table that decides."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Match

from service.access import OFF_WITHOUT_KEYS, ROUTES, Door, check_routes, find_route, routes_of
from service.app import create_app
from service.keys import Scope, key_line, new_key
from tests.service.test_service_refusals import check
from tests.service.toy import Circle, quiet_settings, running

KEY = {scope: new_key() for scope in Scope}
ALL = new_key()
KEYS = ";".join([*(key_line(scope, [scope], key) for scope, key in KEY.items()), key_line("all", Scope, ALL)])

PLACES = [(method, template) for template, methods in ROUTES.items() for method in methods]


def test_the_table_and_the_router_know_the_same_routes() -> None:
    app = create_app(quiet_settings())
    there = {(method, template) for template, methods in routes_of(app.routes) for method in methods - {"HEAD"}}
    assert there == set(PLACES), "say in service/access.py who may call it"


def test_a_route_that_the_table_lacks_stops_the_start() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.get("/users/{user_id}")(lambda user_id: None)
    check_routes(app.routes)
    app.post("/users/{user_id}")(lambda user_id: None)
    app.get("/backdoor")(lambda: None)
    app.mount("/files", FastAPI())
    with pytest.raises(RuntimeError, match=r"GET /backdoor, GET /files/\{path:path\}, POST /users/\{user_id\}"):
        check_routes(app.routes)


async def test_a_route_that_slips_past_the_start_is_refused_all_the_same() -> None:
    async with running(Circle(), keys=KEYS) as run:
        run.app.get("/backdoor")(lambda: "come in")
        run.app.delete("/recommend")(lambda: "come in")
        headers = {"x-api-key": ALL}
        check(await run.client.get("/backdoor", headers=headers), "not_found")
        check(await run.client.delete("/recommend", headers=headers), "method_not_allowed")


APP = create_app(quiet_settings())
segments = st.sampled_from(["", "recommend", "items", "users", "similar", "admin", "bundles", "a%2fb", "ui", "..", "é"])


@settings(max_examples=300, deadline=None)
@given(st.lists(segments, max_size=5).map("/".join), st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]))
def test_the_table_and_the_router_agree_on_every_path(path: str, method: str) -> None:
    """Otherwise a request could be let in as one route and answered by another."""
    scope: dict[str, Any] = {"type": "http", "method": method, "path": f"/{path}", "headers": [], "root_path": ""}
    template, needed = find_route(method, f"/{path}")
    answering = [one for one in iter_route_contexts(APP.routes) if one.matches(dict(scope))[0] is Match.FULL]
    if answering:
        assert template == answering[0].path
        assert needed is not None


def example(template: str) -> str:
    return template.replace("{item_id}", "i1").replace("{user_id}", "ann").replace("{path:path}", "none.js")


async def ask(client: httpx.AsyncClient, method: str, template: str, **headers: str) -> httpx.Response:
    return await client.request(method, example(template), headers=headers)


OPEN = {Door.OPEN, Door.PROBE}


@pytest.mark.parametrize(("method", "template"), PLACES)
async def test_with_keys_every_route_wants_the_one_that_holds_its_scope(method: str, template: str) -> None:
    needed = ROUTES[template][method]
    async with running(Circle(), keys=KEYS) as run:
        for headers in ({}, {"x-api-key": new_key()}, {"x-api-key": ""}, {"authorization": f"Basic {ALL}"}):
            answer = await ask(run.client, method, template, **headers)
            if needed in OPEN:
                assert answer.status_code not in (401, 403)
            else:
                check(answer, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
        for scope, key in KEY.items():
            answer = await ask(run.client, method, template, **{"x-api-key": key})
            if needed in OPEN or needed is scope:
                assert answer.status_code not in (401, 403)
            else:
                check(answer, "forbidden")
        for headers in ({"x-api-key": ALL}, {"authorization": f"Bearer {ALL}"}, {"authorization": f"bearer  {ALL} "}):
            assert (await ask(run.client, method, template, **headers)).status_code not in (401, 403)


@pytest.mark.parametrize(("method", "template"), PLACES)
async def test_without_keys_users_and_admin_are_off_and_the_rest_is_open(method: str, template: str) -> None:
    async with running(Circle()) as run:
        for headers in ({}, {"x-api-key": new_key()}):
            answer = await ask(run.client, method, template, **headers)
            if ROUTES[template][method] in OFF_WITHOUT_KEYS:
                check(answer, "forbidden")
                assert "CONTREC_KEYS_FILE" in answer.json()["error"]["message"]
            else:
                assert answer.status_code not in (401, 403)


async def test_a_refused_request_is_not_read_and_not_counted_by_path() -> None:
    async with running(Circle(), keys=KEYS) as run:

        async def body() -> Any:
            raise AssertionError("the body of a request without a key was read")
            yield b""

        check(await run.client.post("/events", content=body()), "unauthorized")
        check(await run.client.get("/users/ann", headers={"x-api-key": KEY[Scope.ADMIN]}), "forbidden")
        value = run.service.metrics.registry.get_sample_value
        assert value("contrec_requests_total", {"route": "/events", "outcome": "unauthorized"}) == 1
        assert value("contrec_requests_total", {"route": "/users/{user_id}", "outcome": "forbidden"}) == 1


async def test_openapi_says_which_scope_and_how_each_route_refuses() -> None:
    async with running() as run:
        document = (await run.client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for template, methods in document["paths"].items():
        for method, operation in methods.items():
            needed = ROUTES[template][method.upper()]
            assert operation.get("x-scope") == (None if needed in OPEN else needed)
            assert ("security" in operation) == (needed not in OPEN) == ("401" in operation["responses"])
            assert ("429" in operation["responses"]) == (needed is not Door.PROBE)


def test_a_method_and_a_path_that_the_table_lacks() -> None:
    assert find_route("POST", "/recommend") == ("/recommend", Scope.RECOMMEND)
    assert find_route("PATCH", "/recommend") == ("/recommend", None)
    assert find_route("HEAD", "/users/ann") == ("/users/{user_id}", Scope.USERS)
    for path in ("/users/a/b", "/users/", "/recommend/", "/recommend\n", "//recommend", "/Recommend"):
        assert find_route("GET", path) == (None, None)
