"""What is stored of a user: read page by page, and erased."""

from __future__ import annotations

from service.errors import ErrorCode
from service.stores.contract import Event
from tests.service.test_service_access import ALL, KEYS
from tests.service.test_service_refusals import check
from tests.service.toy import Circle, running


async def test_a_user_is_read_page_by_page_and_erased() -> None:
    auth = {"x-api-key": ALL}
    async with running(Circle(), keys=KEYS) as run:
        events = [Event(f"e{n}", "ann", f"i{n}", "view", None, float(n)) for n in range(5)]
        await run.service.store.append(
            [*events, Event("d", "ann", "i9", "dislike", None, 9.0), Event("x", "bob", "i1")]
        )
        first = (await run.client.get("/users/ann?n=4", headers=auth)).json()
        assert [event["event_id"] for event in first["events"]] == ["e0", "e1", "e2", "e3"]
        assert first["history"] == ["i0", "i1", "i2", "i3", "i4"]
        assert (first["seen"], first["disliked"]) == (6, ["i9"])
        rest = (await run.client.get(f"/users/ann?n=4&after={first['next']}", headers=auth)).json()
        assert [event["event_id"] for event in rest["events"]] == ["e4", "d"]
        assert rest["next"] is None
        assert rest["events"][0] == {
            "event_id": "e4", "item_id": "i4", "type": "view", "value": None, "time": 4.0, "recommendation_id": None
        }  # fmt: skip
        erased = await run.client.delete("/users/ann", headers=auth)
        assert erased.json() == {"user_id": "ann", "events": 6}
        check(await run.client.get("/users/ann", headers=auth), ErrorCode.NOT_FOUND, "user_id")
        assert (await run.client.delete("/users/ann", headers=auth)).json()["events"] == 0
        assert (await run.client.get("/users/bob", headers=auth)).status_code == 200
        answer = await run.client.get("/users/bob?n=1001", headers=auth)
        check(answer, ErrorCode.INVALID_REQUEST, "query.n")
