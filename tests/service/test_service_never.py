"""Never a seen, denied, disliked or withdrawn item, nor fewer than k while k exist: every route and recommender."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import load_recommender
from model.catalogue import Catalogue, Item
from model.continuous.hybrid import Hybrid
from model.continuous.transitions import WithTransitions
from model.recommender import Recommender
from service.stores.contract import Event, StoredItem
from tests.model import cut
from tests.service.toy import Circle, Running, running


def circle(catalogue: Catalogue) -> Recommender:
    made = Circle(len(catalogue))
    made.catalogue = catalogue
    return made


KINDS: dict[str, Sequence[Callable[[Catalogue], Recommender | None]]] = {
    "circle": [circle],
    "popular": [cut.popular],
    "continuous": [cut.continuous, cut.hybrid],
    "continuous with transitions": [cut.with_transitions],  # what is served by default
    "semantic": [cut.semantic],
    "no bundle": [lambda catalogue: None],
}
CATEGORIES = ["even", "odd", "tens-1", "harbour", "orchard", "fresh"]
TYPES = ["view", "like", "dislike", "low rating"]
STEPS = ["encode", "generate", "retrieve", "neighbours"]


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """One item, a few, or as many as a list may ask for and more than it gets."""
    items = draw(st.sampled_from([1, 2, 3, 5, 30, 30]))
    categories = st.lists(st.sampled_from(CATEGORIES), max_size=2, unique=True).map(tuple)
    given = draw(st.lists(categories, min_size=items, max_size=items))
    return Catalogue(Item(f"i{n}", f"Part {n}", named, f"{n}.5") for n, named in enumerate(given))


@st.composite
def worlds(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A catalogue, events, items said of and withdrawn, and one request; ids are of it, new, or nobody's."""
    catalogue = draw(catalogues())
    known = [item.item_id for item in catalogue]
    ids = st.sampled_from([*known, "new-1", "new-2", "new-3", "nobody's"])
    categories = st.lists(st.sampled_from(CATEGORIES), max_size=2)
    selection = st.none() | st.fixed_dictionaries({"items": st.lists(ids, max_size=25), "categories": categories})
    return {
        "catalogue": catalogue,
        "make": draw(st.sampled_from(KINDS[kind])),
        "events": draw(st.lists(st.tuples(ids, st.sampled_from(TYPES)), max_size=40)),
        "put": draw(st.dictionaries(ids.filter(lambda i: i != "nobody's"), categories, max_size=5)),
        "withdrawn": draw(st.sets(ids, max_size=6)),
        "history": draw(st.none() | st.lists(ids, max_size=20)),
        "allow": draw(selection),
        "deny": draw(selection),
        "candidates": draw(st.lists(ids, min_size=1, max_size=20)),
        "like": draw(ids),
        "exclude_seen": draw(st.booleans()),
        "k": draw(st.integers(1, 60)),
        "diversity": draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        "explore": draw(st.sampled_from([0.0, 1.0])),
        "explain": draw(st.sampled_from([False, False, True])),
        "broken": draw(st.sets(st.sampled_from(STEPS))) if kind == "circle" else set(),
    }


def means(selection: dict[str, list[str]], item_id: str, categories: set[str] | None) -> bool:
    return item_id in selection["items"] or bool((categories or set()) & set(selection["categories"]))


class Truth:
    """What may come back, reckoned apart from the service: ids to categories, None where nobody knows them."""

    def __init__(self, kind: str, world: dict[str, Any]) -> None:
        self.world = world
        negative = {"dislike", "low rating"}
        self.seen = {item_id for item_id, _ in world["events"]}
        self.disliked = {item_id for item_id, told in dict(world["events"]).items() if told in negative}
        if kind == "no bundle":
            counted = {item_id for item_id, told in world["events"] if told not in negative}
            self.known: dict[str, set[str] | None] = dict.fromkeys(counted)
        else:
            self.known = {item.item_id: set(item.categories) for item in world["catalogue"]}
        # What is withdrawn was put before: withdrawing comes last.
        self.known |= {item_id: set(categories) for item_id, categories in world["put"].items()}
        self.known = {i: c for i, c in self.known.items() if i not in world["withdrawn"]}

    def allowed(self, *, without: set[str]) -> set[str]:
        allow, deny = self.world["allow"], self.world["deny"]
        return {
            item_id
            for item_id, categories in self.known.items()
            if item_id not in without
            and (allow is None or means(allow, item_id, categories))
            and not (deny is not None and means(deny, item_id, categories))
            # Where categories are unknown a denied one might be among them.
            and not (deny is not None and deny["categories"] and categories is None)
        }

    def recommendable(self) -> set[str]:
        seen = self.seen | set(self.world["history"] or ()) if self.world["exclude_seen"] else set()
        return self.allowed(without=seen | self.disliked)


def check(found: list[dict[str, Any]], expected: set[str], k: int) -> None:
    ids = [item["item_id"] for item in found]
    assert set(ids) <= expected
    assert len(ids) == len(set(ids)) == min(k, len(expected))


async def build(run: Running, world: dict[str, Any]) -> None:
    told = {"low rating": ("rating", 1.0), "view": ("view", None), "like": ("like", None), "dislike": ("dislike", None)}
    events = [
        Event(f"e{n}", "ann", item_id, *told[kind], time=float(n)) for n, (item_id, kind) in enumerate(world["events"])
    ]
    await run.service.store.append(events)
    await run.service.overlay.write([StoredItem(i, i.title(), tuple(c), "3.5") for i, c in world["put"].items()])
    await run.service.overlay.write([StoredItem(item_id, withdrawn=True) for item_id in sorted(world["withdrawn"])])
    if world["broken"]:
        served = run.service.bundles.served
        assert served is not None
        served.recommender.broken = world["broken"]  # type: ignore[attr-defined]


async def ask(kind: str, world: dict[str, Any]) -> None:
    truth = Truth(kind, world)
    async with running(world["make"](world["catalogue"])) as run:
        await build(run, world)
        fields = ("history", "allow", "deny", "exclude_seen", "k", "diversity", "explore", "explain")
        answer = await run.recommend(user_id="ann", **{field: world[field] for field in fields})
        check(answer["items"], truth.recommendable(), world["k"])
        assert (
            not {named["item_id"] for item in answer["items"] for named in item.get("reasons", ())} & world["withdrawn"]
        )
        if not (world["diversity"] or truth.disliked):
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)

        asked = {"user_id": "ann", "history": world["history"], "items": world["candidates"]}
        ranked = (await run.client.post("/rank", json=asked)).json()
        wanted = set(world["candidates"]) & set(truth.known)
        check(ranked["items"], wanted, len(wanted))
        assert set(ranked["unknown"]) == set(world["candidates"]) - wanted

        allow, deny = world["allow"], world["deny"]
        if allow is None or allow["items"] or allow["categories"]:  # in a query, nothing given is no restriction
            query: list[tuple[str, str | int]] = [("k", world["k"])]
            for name, selection in (("allow", allow), ("deny", deny)):
                query += [(f"{name}_item", item_id) for item_id in (selection or {}).get("items", [])]
                query += [(f"{name}_category", category) for category in (selection or {}).get("categories", [])]
            popular = (await run.client.get("/popular", params=query)).json()
            check(popular["items"], truth.allowed(without=set()), world["k"])
            near = await run.client.get(f"/items/{world['like']}/similar", params=query)
            here = world["like"] in truth.known and (kind != "no bundle" or world["like"] in world["put"])
            assert near.status_code == (200 if here else 404)
            if here:
                check(near.json()["items"], truth.allowed(without={world["like"]}), world["k"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_never_what_must_not_and_k_while_k_exist(kind: str, data: st.DataObject) -> None:
    world = data.draw(worlds(kind))
    asyncio.run(ask(kind, world))


def test_the_kinds_are_all_there() -> None:
    """A recommender that load_recommender knows, or that it may give, is asked here too."""
    made = [found for makes in KINDS.values() for make in makes if (found := make(Catalogue([Item("i0")]))) is not None]
    assert {one.kind for one in made} >= set(
        re.findall(r'manifest\.kind == "(\w+)"', inspect.getsource(load_recommender))
    )
    loaded = {one for one in Recommender.__subclasses__() if one.__module__.startswith("model.")}
    assert {one.__name__ for one in loaded} >= {"Hybrid", "WithTransitions"}
    assert loaded <= {type(one) for one in made}
    (default,) = (one for one in made if isinstance(one, WithTransitions))
    assert isinstance(default.base, Hybrid)
