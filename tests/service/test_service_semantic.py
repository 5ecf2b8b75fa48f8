"""DiffGRM behind POST /recommend, like any other: filters, the seen set, explore with a seed, the ladder, new items."""

from __future__ import annotations

import pytest

from model.semantic.decoding import Decoding
from tests.contracts.recommender_contract import WORLD
from tests.model import fitted_semantic as toy
from tests.service.toy import running

WAYS = (Decoding(), Decoding(candidates=10, weight=1.0), Decoding(beam=8, weight=1.0))


@pytest.mark.parametrize("decoding", WAYS, ids=str)
async def test_it_is_asked_like_any_other(decoding: Decoding) -> None:
    async with running(toy.fitted().recommender(decoding)) as run:
        answer = await run.recommend(history=["item-1", "item-2", "item-3"], k=3, explain=True)
        assert answer["source"] == "model"
        assert answer["items"][0]["item_id"] == "item-4"
        other = await run.recommend(history=["item-3"], k=24, allow={"categories": ["orchard"]})
        assert [item["categories"] for item in other["items"]] == [["orchard"]] * WORLD, "every eligible item, once"
        denied = await run.ids(history=["item-3"], k=5, deny={"items": ["item-4"]})
        assert "item-4" not in denied
        assert "item-3" not in denied
        await run.tell("ann", "item-15", "item-16")
        assert await run.ids(user_id="ann", k=1) == ["item-17"]
        for body in ({"user_id": "nobody"}, {"history": []}):
            assert (await run.recommend(**body, k=3))["source"] == "popular"


async def test_explore_with_a_seed_gives_one_list_and_another_seed_another() -> None:
    async with running(toy.fitted().recommender(Decoding())) as run:
        asked = {"history": ["item-3"], "k": 24, "explore": 1.0}
        first = await run.ids(**asked, seed=3)
        assert await run.ids(**asked, seed=3) == first
        assert await run.ids(**asked, seed=4) != first


async def test_a_new_item_can_be_asked_for_at_once() -> None:
    async with running(toy.fitted().recommender(Decoding())) as run:
        put = await run.client.put(
            "/items/new", json={"title": "Orchard part 13", "categories": ["fresh"], "text": "Part 13 of the orchard."}
        )
        assert put.status_code in (200, 201), put.text
        assert await run.ids(history=["item-15"], k=3, allow={"categories": ["fresh"]}) == ["new"]
        assert len(await run.ids(history=["item-15"], k=24)) == 24
