"""What every store keeps, as a mixin that its test class inherits.

class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]: ...
"""

from __future__ import annotations

import asyncio
import random
from itertools import count

import pytest

from service.stores.contract import HISTORY_TAIL, MAX_APPEND, Appended, Event, Store, UserRecord, append_all

BUNDLE = "movies/1"
_ids = count()


def event(user: str, item: str, time: float = 0.0, **more: object) -> Event:
    """An event with an id of its own."""
    return Event(event_id=f"event-{next(_ids)}", user_id=user, item_id=item, time=time, **more)  # type: ignore[arg-type]


class StoreContract:
    """Inherit, and give a fixture `store` that yields an empty store and closes it."""

    async def test_an_unknown_user_is_an_empty_record(self, store: Store) -> None:
        assert await store.read_user("nobody", BUNDLE) == UserRecord()

    async def test_an_event_is_in_the_very_next_read(self, store: Store) -> None:
        assert await store.append([event("ann", "a", 1.0)]) == Appended(accepted=1, repeated=0)
        record = await store.read_user("ann", BUNDLE)
        assert record.history == ("a",)
        assert record.seen == {"a"}
        assert record.version > 0
        assert record.tokens is None
        assert (await store.read_user("bob", BUNDLE)).history == ()

    async def test_nothing_to_append_is_fine(self, store: Store) -> None:
        assert await store.append([]) == Appended(0, 0)

    async def test_history_is_in_order_of_time_then_of_arrival(self, store: Store) -> None:
        await store.append([event("ann", "late", 30.0), event("ann", "x", 20.0)])
        await store.append([event("ann", "early", 10.0), event("ann", "c", 20.0), event("ann", "b", 20.0)])
        assert (await store.read_user("ann", BUNDLE)).history == ("early", "x", "c", "b", "late")

    async def test_an_item_met_twice_is_twice_in_the_history_and_once_in_seen(self, store: Store) -> None:
        await store.append([event("ann", "a", 1.0), event("ann", "b", 2.0), event("ann", "a", 3.0)])
        record = await store.read_user("ann", BUNDLE)
        assert record.history == ("a", "b", "a")
        assert record.seen == {"a", "b"}

    async def test_a_repeated_event_id_changes_nothing(self, store: Store) -> None:
        first = Event("e", "ann", "a", time=1.0)
        await store.append([first])
        before = await store.read_user("ann", BUNDLE)
        assert await store.append([first, Event("e", "bob", "b", time=2.0)]) == Appended(accepted=0, repeated=2)
        assert await store.read_user("ann", BUNDLE) == before
        assert await store.read_user("bob", BUNDLE) == UserRecord()
        assert await store.popular(10) == [("a", 1)]

    async def test_an_event_id_repeated_inside_one_append_counts_once(self, store: Store) -> None:
        twin = event("ann", "a", 1.0)
        assert await store.append([twin, twin, event("ann", "b", 2.0)]) == Appended(accepted=2, repeated=1)
        assert (await store.read_user("ann", BUNDLE)).history == ("a", "b")

    async def test_appends_at_the_same_time_lose_nothing(self, store: Store) -> None:
        batches = [[event("ann", f"{n}-{i}", n) for i in range(5)] for n in range(20)]
        results = await asyncio.gather(*(store.append(batch) for batch in batches))
        assert sum(result.accepted for result in results) == 100
        assert len((await store.read_user("ann", BUNDLE)).seen) == 100

    async def test_history_is_a_bounded_tail_and_seen_is_complete(self, store: Store) -> None:
        total = HISTORY_TAIL + 50
        events = [event("ann", f"i{n}", float(n)) for n in range(total)]
        random.Random(0).shuffle(events)
        assert await append_all(store, events, size=400) == Appended(total, 0)
        record = await store.read_user("ann", BUNDLE)
        assert record.history == tuple(f"i{n}" for n in range(50, total))
        assert len(record.seen) == total

    async def test_an_append_beyond_the_bound_is_refused_whole(self, store: Store) -> None:
        with pytest.raises(ValueError, match="append_all"):
            await store.append([event("ann", f"i{n}") for n in range(MAX_APPEND + 1)])
        assert await store.read_user("ann", BUNDLE) == UserRecord()

    async def test_the_version_grows_with_each_accepted_event_only(self, store: Store) -> None:
        versions = []
        for n in range(3):
            await store.append([event("ann", "a", float(-n))])
            versions.append((await store.read_user("ann", BUNDLE)).version)
        assert versions == sorted(set(versions))
        await store.append([event("bob", "a")])
        assert (await store.read_user("ann", BUNDLE)).version == versions[-1]

    async def test_tokens_come_back_with_the_version_they_were_made_from(self, store: Store) -> None:
        await store.append([event("ann", "a")])
        version = (await store.read_user("ann", BUNDLE)).version
        data = bytes(range(256)) * 8
        await store.write_tokens("ann", BUNDLE, version, data, ttl=60.0)
        record = await store.read_user("ann", BUNDLE)
        assert (record.tokens, record.tokens_version, record.version) == (data, version, version)
        await store.append([event("ann", "b")])
        record = await store.read_user("ann", BUNDLE)
        assert (record.tokens, record.tokens_version) == (data, version)
        assert record.version > version

    async def test_tokens_belong_to_one_bundle_and_one_user(self, store: Store) -> None:
        await store.append([event("ann", "a"), event("bob", "a")])
        await store.write_tokens("ann", BUNDLE, 1, b"tokens", ttl=60.0)
        assert (await store.read_user("ann", "movies/2")).tokens is None
        assert (await store.read_user("bob", BUNDLE)).tokens is None

    async def test_older_tokens_never_replace_newer_ones(self, store: Store) -> None:
        await store.append([event("ann", "a"), event("ann", "b")])
        version = (await store.read_user("ann", BUNDLE)).version
        await store.write_tokens("ann", BUNDLE, version, b"new", ttl=60.0)
        await store.write_tokens("ann", BUNDLE, version - 1, b"old", ttl=60.0)
        assert (await store.read_user("ann", BUNDLE)).tokens == b"new"
        await store.write_tokens("ann", BUNDLE, version + 1, b"newer", ttl=60.0)
        assert (await store.read_user("ann", BUNDLE)).tokens == b"newer"

    async def test_tokens_expire_and_nothing_else_does(self, store: Store) -> None:
        await store.append([event("ann", "a")])
        await store.write_tokens("ann", BUNDLE, 1, b"tokens", ttl=0.05)
        await asyncio.sleep(0.1)
        record = await store.read_user("ann", BUNDLE)
        assert record.tokens is None
        assert record.history == ("a",)

    async def test_popular_is_most_first_and_ties_are_in_order_of_id(self, store: Store) -> None:
        await store.append([event(f"u{n}", item) for n, item in enumerate("ccbbad")])
        assert await store.popular(3) == [("b", 2), ("c", 2), ("a", 1)]
        assert await store.popular(10) == [("b", 2), ("c", 2), ("a", 1), ("d", 1)]
        assert await store.popular(0) == []

    async def test_the_log_gives_back_every_field_in_order_of_arrival(self, store: Store) -> None:
        written = [
            Event("e1", "ann", "a", "rating", 4.5, 1234567890.123456, "r1"),
            Event("e2", "bob", "b", "view", None, -3.0, None),
            Event("e3", "ann", "b", "dislike", -0.0, 2.0**40 + 0.25, None),
        ]
        await store.append(written)
        logged = [entry async for entry in store.events()]
        assert [entry for _, entry in logged] == written
        assert [entry async for _, entry in store.events(after=logged[0][0])] == written[1:]
        assert [entry async for entry in store.events(after=logged[-1][0])] == []

    async def test_a_log_of_several_pages_is_read_whole(self, store: Store) -> None:
        written = [event(f"u{n % 7}", f"i{n % 11}", float(n)) for n in range(4000)]
        await append_all(store, written)
        assert [entry async for _, entry in store.events()] == written

    async def test_erase_forgets_one_user_wholly(self, store: Store) -> None:
        mine = [Event(f"ann-{n}", "ann", item, time=float(n)) for n, item in enumerate("aab")]
        await store.append([*mine, Event("bob-0", "bob", "a")])
        await store.write_tokens("ann", BUNDLE, 3, b"tokens", ttl=60.0)
        old = (await store.read_user("ann", BUNDLE)).version
        assert await store.erase("ann") == 3
        assert await store.read_user("ann", BUNDLE) == UserRecord()
        assert [entry.event_id async for _, entry in store.events()] == ["bob-0"]
        assert await store.popular(10) == [("a", 1)]
        assert await store.erase("ann") == 0
        # A request that was on its way while the user was erased must not bring tokens back.
        await store.write_tokens("ann", BUNDLE, old, b"tokens", ttl=60.0)
        assert await store.append(mine[:1]) == Appended(accepted=1, repeated=0)
        record = await store.read_user("ann", BUNDLE)
        assert record.tokens is None
        assert record.version > old

    @pytest.mark.parametrize("name", ["a:history", "a b", "ünï-日本", "x" * 256, "0", "{tag}", "%", "a\nb"])
    async def test_any_string_is_an_id(self, store: Store, name: str) -> None:
        await store.append([event(name, name, 1.0), event("a", "other", 2.0)])
        await store.write_tokens(name, BUNDLE, 1, b"tokens", ttl=60.0)
        record = await store.read_user(name, BUNDLE)
        assert (record.history, record.seen, record.tokens) == ((name,), {name}, b"tokens")
        assert [entry.item_id async for _, entry in store.events()] == [name, "other"]

    async def test_ping_answers(self, store: Store) -> None:
        await store.ping()

    async def test_closing_twice_is_fine(self, store: Store) -> None:
        await store.close()
        await store.close()
