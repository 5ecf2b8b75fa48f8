"""What the page asks beside the API: files under a strict policy, the map, the search, and walks that end where
`/recommend` does. The page itself is tried in a browser: tests/e2e/test_page*.py."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.catalogue import Rows
from model.recommender import Dials, Floats, UserTokens, Walk
from service.atlas import MAX_POINTS, Atlas, fold
from service.bundles import prove
from service.page import WAITING
from service.routes.page import FILES
from tests.service.toy import Circle, running

JSON = {"content-type": "application/json"}


class Walking(Circle):
    """The circle, whose taste is walked in two steps from the middle of the map."""

    def unit_vectors(self, rows: Rows) -> Floats:
        return self.vectors[rows]

    def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]]:
        ends = self.generate(tokens, dials)
        return [(Walk((1.0, 0.5), np.stack([0.1 * end, end]), 1.0),) for end in ends]


async def asked(run: Any, path: str, **body: Any) -> dict[str, Any]:
    answer = await (run.client.post(path, json=body) if body else run.client.get(path))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


# ------------------------------------------------------------------------------------------------------- files


async def test_the_page_and_its_files_come_under_a_policy_that_lets_no_stranger_in() -> None:
    async with running() as run:
        page = await run.client.get("/")
        paths = re.findall(r'(?:src|href)="(/ui/[^"]+)"', page.text)
        assert len(paths) >= 4
        answers = [page, *[await run.client.get(path) for path in dict.fromkeys(paths)]]
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
    kinds = {
        path.rpartition(".")[2]: answer.headers["content-type"]
        for path, answer in zip(paths, answers[1:], strict=False)
    }
    assert kinds["css"].startswith("text/css")
    assert "javascript" in kinds["js"]


async def test_every_module_that_a_script_imports_is_shipped() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in FILES.glob("*.js")}
    wanted = {name for text in scripts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    page = (FILES / "index.html").read_text(encoding="utf-8")
    wanted |= set(re.findall(r'src="/ui/([^"]+\.js)"', page))
    assert wanted == set(scripts), "a script that nothing loads, or one that is missing"


def test_no_file_of_the_page_writes_markup_or_carries_script_or_style_inline() -> None:
    for path in FILES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(inner|outer|insertAdjacent)HTML|document\.write|\beval\(|new Function", text), path
        if path.suffix == ".html":
            assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]*\ssrc=)", text)


async def test_a_file_that_is_none_and_a_path_that_climbs_are_not_found() -> None:
    async with running() as run:
        for path in ("/ui/none.js", "/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/"):
            answer = await run.client.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "not_found"


async def test_without_the_setting_there_is_no_page() -> None:
    async with running(page=False) as run:
        for path in ("/", "/ui/main.js", "/page/map"):
            assert (await run.client.get(path)).status_code == 404


# --------------------------------------------------------------------------------------------------------- map


async def test_the_map_holds_every_item_at_its_place() -> None:
    recommender = Walking()
    async with running(recommender) as run:
        told = await asked(run, "/page/map")
        again = await asked(run, "/page/map")
    assert told == again
    assert told["bundle"] == "circle/1"
    assert told["items"] == len(told["item_ids"]) == 40
    assert told["share"] == 1, "two dimensions hold all of a circle"
    assert told["item_ids"][0] == "i0", "the most popular item comes first"
    points = np.array([told["x"], told["y"]]).T
    places = [int(name[1:]) for name in told["item_ids"]]
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = np.linalg.norm(recommender.vectors[places][:, None] - recommender.vectors[places][None], axis=2)
    np.testing.assert_allclose(gaps, expected, atol=1e-3)
    assert dict(told["categories"]) == {"even": 20, "odd": 20, "tens-0": 10, "tens-1": 10, "tens-2": 10, "tens-3": 10}
    labels = {name: (x, y) for name, x, y in told["labels"]}
    assert set(labels) == {"tens-0", "tens-1", "tens-2", "tens-3"}, "even and odd are everywhere"
    own = points[[place in range(10, 20) for place in places]]
    np.testing.assert_allclose(labels["tens-1"], np.median(own, axis=0), atol=1e-3)


async def test_without_a_bundle_the_page_says_why_and_asks_on() -> None:
    async with running() as run:
        told = await asked(run, "/page/map")
        assert (told["bundle"], told["state"], told["item_ids"]) == (None, "none", [])
        assert "is active" in told["reason"]
        assert await asked(run, "/page/catalogue?q=item") == {"items": [], "total": 0}
        assert await asked(run, "/page/catalogue?item=i1") == {"items": [], "total": 0}
        traced = await asked(run, "/page/trace", history=["i1"], mark=["i1"])
        assert traced == {"bundle": None, "walks": [], "marks": [None]}


async def test_the_map_is_of_the_bundle_that_is_served_now() -> None:
    async with running(Walking()) as run:
        assert (await asked(run, "/page/map"))["items"] == 40
        await run.service.bundles.adopt(Walking(30), "circle", "2")
        told = await asked(run, "/page/map")
        assert (told["bundle"], told["items"]) == ("circle/2", 30)


async def test_an_item_added_or_withdrawn_changes_the_map_and_moves_no_other() -> None:
    async with running(Walking()) as run:
        before = await asked(run, "/page/map")
        new = {"title": "A new one", "categories": ["new"], "text": "7.5"}
        assert (await run.client.put("/items/n1", json=new)).status_code == 200
        assert (await run.client.delete("/items/i3")).status_code == 200
        after = await asked(run, "/page/map")
        found = await asked(run, "/page/catalogue?q=new")
        gone = await asked(run, "/page/catalogue?q=i3&limit=50")
    assert set(after["item_ids"]) == set(before["item_ids"]) - {"i3"} | {"n1"}
    assert after["items"] == 40
    assert ["new", 1] in after["categories"]
    assert [item["item_id"] for item in found["items"]] == ["n1"]
    assert "i3" not in {item["item_id"] for item in gone["items"]}
    places = [
        dict(zip(told["item_ids"], zip(told["x"], told["y"], strict=True), strict=True)) for told in (before, after)
    ]
    assert all(places[1][name] == place for name, place in places[0].items() if name != "i3")


def test_a_large_catalogue_shows_its_most_popular_items_and_places_the_others() -> None:
    recommender = Walking(MAX_POINTS + 500)
    atlas = Atlas(prove(recommender, "circle", "1"))
    assert len(atlas.rows) == MAX_POINTS
    assert atlas.rows.max() == MAX_POINTS - 1, "i0 is the most popular, and so on down"
    beyond = np.array([MAX_POINTS + 7])
    np.testing.assert_allclose(atlas.place_rows(beyond), atlas.place(recommender.vectors[beyond]), atol=1e-6)


# ------------------------------------------------------------------------------------------------------ search


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Item 39", ["i39"]),
        ("item 3", ["i3", "i30", "i31"]),
        ("ODD tens-2", ["i21", "i23", "i25"]),
        ("i17", ["i17"]),
        ("", ["i0", "i1", "i2"]),
        ("   ", ["i0", "i1", "i2"]),
        ("nothing of the kind", []),
    ],
)
async def test_search_finds_every_word_in_title_category_or_id(query: str, found: list[str]) -> None:
    async with running(Walking()) as run:
        answer = await run.client.get("/page/catalogue", params={"q": query, "limit": 3})
    told = answer.json()
    assert [item["item_id"] for item in told["items"]] == found
    assert told["total"] >= len(found)


def test_accents_and_case_do_not_hide_a_title() -> None:
    assert fold("Le Fabuleux Destin d'AMÉLIE Poulain") == "le fabuleux destin d'amelie poulain"
    assert fold("STRASSE") == fold("Straße")


async def test_items_by_id_come_in_the_order_asked_without_the_unknown() -> None:
    async with running(Walking()) as run:
        told = await asked(run, "/page/catalogue?item=i7&item=nobody&item=i2")
    assert [item["title"] for item in told["items"]] == ["Item 7", "Item 2"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/page/catalogue?limit=51", "query.limit"),
        ("/page/catalogue?limit=0", "query.limit"),
        ("/page/catalogue?limit=many", "query.limit"),
        ("/page/catalogue?q=" + "a" * 201, "query.q"),
        ("/page/catalogue?" + "&".join(["item=i1"] * 51), "query.item"),
        ("/page/catalogue?item=", "query.item[0]"),
    ],
)
async def test_a_search_out_of_bounds_is_refused_by_name(path: str, field: str) -> None:
    async with running(Walking()) as run:
        answer = await run.client.get(path)
    assert answer.status_code == 422
    assert answer.json()["error"] == answer.json()["error"] | {"code": "invalid_request", "field": field}


# ------------------------------------------------------------------------------------------------------- walks


@pytest.mark.parametrize("explore", [0.0, 0.8])
async def test_the_walk_ends_where_the_recommendation_looks(explore: float) -> None:
    async with running(Walking()) as run:
        body = {"history": ["i3"], "explore": explore, "seed": 7}
        traced = await asked(run, "/page/trace", **body, mark=["i4", "nobody", "i3"])
        first = (await run.ids(**body, k=1, exclude_seen=False))[0]
    (walk,) = traced["walks"]
    assert walk["share"] == 1
    assert [step["time"] for step in walk["steps"]] == [1, 0.5]
    assert walk["steps"][-1]["nearest"]["item_id"] == first
    assert walk["steps"][-1]["nearest"]["title"] == f"Item {first[1:]}"
    assert traced["marks"][1] is None
    assert all(len(place) == 2 for place in (traced["marks"][0], traced["marks"][2]))


async def test_a_stored_user_is_walked_from_what_is_stored() -> None:
    async with running(Walking()) as run:
        await run.tell("ann", "i1", "i8")
        stored = await asked(run, "/page/trace", user_id="ann")
        told = await asked(run, "/page/trace", history=["i1", "i8"])
    assert stored["walks"] == told["walks"]
    assert len(stored["walks"]) == 1


async def test_nothing_is_walked_without_a_history_or_where_nothing_is_denoised() -> None:
    async with running(Walking()) as run:
        assert (await asked(run, "/page/trace", history=[]))["walks"] == []
        assert (await asked(run, "/page/trace", user_id="a stranger"))["walks"] == []
        await run.service.bundles.adopt(Circle(), "circle", "2")
        traced = await asked(run, "/page/trace", history=["i1"], mark=["i1"])
    assert traced["walks"] == []


@pytest.mark.parametrize("withdrawn_before_the_first_look", [True, False])
async def test_a_catalogue_that_is_withdrawn_whole_is_walked_nowhere_and_comes_back(
    withdrawn_before_the_first_look: bool,
) -> None:
    body = {"history": ["i1"], "mark": ["i1"]}
    async with running(Walking(3)) as run:
        if not withdrawn_before_the_first_look:
            await asked(run, "/page/map")
        for item in ("i0", "i1", "i2"):
            assert (await run.client.delete(f"/items/{item}")).status_code == 200
        assert (await asked(run, "/page/map"))["item_ids"] == []
        assert await asked(run, "/page/trace", **body) == {"bundle": "circle/1", "walks": [], "marks": [None]}
        assert (await run.client.put("/items/i1", json={})).status_code == 200
        told = await asked(run, "/page/map")
        traced = await asked(run, "/page/trace", **body)
    assert (told["item_ids"], len(traced["walks"])) == (["i1"], 1)
    assert (told["x"][0], told["y"][0]) == pytest.approx(traced["marks"][0])


@pytest.mark.parametrize("broken", ["encode", "generate"])
async def test_a_walk_of_a_model_that_fails_is_a_typed_refusal(broken: str) -> None:
    recommender = Walking()
    async with running(recommender) as run:
        recommender.broken = {broken}
        refused = await run.client.post("/page/trace", json={"history": ["i1"]})
        assert (await run.recommend(history=["i1"]))["source"] == "neighbours"
        recommender.broken = set()
        assert len((await asked(run, "/page/trace", history=["i1"]))["walks"]) == 1
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_walk_of_a_model_that_hangs_is_given_up_after_the_time_of_the_model() -> None:
    class Hanging(Walking):
        free = threading.Event()

        def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]]:
            assert self.free.wait(60)
            return super().trace(tokens, dials)

    async with running(Hanging(), model_timeout_ms=100) as run:
        await asked(run, "/page/map")
        try:
            refused = await asyncio.wait_for(run.client.post("/page/trace", json={"history": ["i1"]}), 30)
        finally:
            Hanging.free.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"history": ["i1"] * 1001}, "history"),
        ({"mark": ["i1"] * 1201}, "mark"),
        ({"explore": 2}, "explore"),
        ({"seed": -1}, "seed"),
        ({"k": 3}, "k"),
        ({"user_id": ""}, "user_id"),
    ],
)
async def test_a_walk_out_of_bounds_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    async with running(Walking()) as run:
        answer = await run.client.post("/page/trace", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


async def test_only_so_many_walks_wait_at_a_time() -> None:
    async with running(Walking()) as run:
        await asked(run, "/page/map")  # made once; here it would only blur the order
        free = threading.Event()
        held = asyncio.create_task(run.service.batcher.on_thread(free.wait))
        questions = [
            asyncio.create_task(run.client.post("/page/trace", json={"history": ["i1"]})) for _ in range(WAITING + 1)
        ]
        done, waiting = await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
        free.set()
        answers = await asyncio.gather(*waiting, held)
    (refused,) = [task.result() for task in done]
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers[:-1]] == [200] * WAITING


async def test_the_routes_of_the_page_are_no_promise() -> None:
    async with running() as run:
        document = (await run.client.get("/openapi.json")).json()
    assert not [path for path in document["paths"] if path.startswith(("/page", "/ui")) or path == "/"]


def test_the_documents_name_every_control(repository: Path) -> None:
    text = (repository / "docs" / "page.md").read_text(encoding="utf-8")
    page = (FILES / "index.html").read_text(encoding="utf-8")
    labels = re.findall(r'<label(?![^>]*"hidden")[^>]*>(?:<input[^>]*>)?\s*([A-Z][^<,]*)', page)
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert len(labels) > 10
    for words in (*labels, *headings):
        assert re.search(rf"\*\*([^*]*\W)?{re.escape(words.strip())}\*\*", text), f"docs/page.md lacks {words!r}"
