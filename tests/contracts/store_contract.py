"""What every store keeps, as a mixin that its test class inherits.

class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]: ...
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import count

import pytest

from service.stores.contract import (
    DISLIKE_BELOW,
    HISTORY_TAIL,
    MAX_APPEND,
    Appended,
    Event,
    Pointer,
    Store,
    StoredItem,
    UserRecord,
    append_all,
)

BUNDLE = "movies/1"
_ids = count()


def event(user: str, item: str, time: float = 0.0, **more: object) -> Event:
    """An event with an id of its own."""
    return Event(event_id=f"event-{next(_ids)}", user_id=user, item_id=item, time=time, **more)  # type: ignore[arg-type]


def _opinion(user: str, item: str, told: str) -> Event:
    """A like (+) or a dislike (-) at a time, told as "+12"."""
    return event(user, item, float(told[1:]), type="like" if told[0] == "+" else "dislike")


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

    async def test_events_that_come_while_a_user_is_erased_are_a_new_history(self, store: Store) -> None:
        await append_all(store, [event("ann", f"old{n}", float(n)) for n in range(1500)])
        await store.append([event("bob", "old0")])
        told = [event("ann", f"new{n}", float(-n)) for n in range(20)]
        erased, *_ = await asyncio.gather(store.erase("ann"), *(store.append([one]) for one in told))
        record = await store.read_user("ann", BUNDLE)
        logged = [one for _, one in await store.user_events("ann")]
        assert erased + len(logged) == 1500 + len(told)
        assert set(logged) <= set(told)
        assert record.seen == {one.item_id for one in logged} == set(record.history)
        assert await store.popular(50) == sorted([("old0", 1), *((one.item_id, 1) for one in logged)])
        assert {one.event_id async for _, one in store.events() if one.user_id == "ann"} == {
            one.event_id for one in logged
        }

    @pytest.mark.parametrize("name", ["a:history", "a b", "ünï-日本", "x" * 256, "0", "{tag}", "%", "a\nb"])
    async def test_any_string_is_an_id(self, store: Store, name: str) -> None:
        await store.append([event(name, name, 1.0), event("a", "other", 2.0)])
        await store.write_tokens(name, BUNDLE, 1, b"tokens", ttl=60.0)
        record = await store.read_user(name, BUNDLE)
        assert (record.history, record.seen, record.tokens) == ((name,), {name}, b"tokens")
        assert [entry.item_id async for _, entry in store.events()] == [name, "other"]

    # ------------------------------------------------------------------------------------------------------------
    # What was not liked

    @pytest.mark.parametrize(
        ("kind", "value", "negative"),
        [
            ("dislike", None, True),
            ("dislike", 5.0, True),
            ("rating", 2.99, True),
            ("rating", DISLIKE_BELOW, False),
            ("rating", None, False),
            ("view", 0.5, False),
        ],
    )
    async def test_a_negative_is_seen_and_not_in_the_history(
        self, store: Store, kind: str, value: float | None, negative: bool
    ) -> None:
        await store.append([event("ann", "a", 1.0), event("ann", "b", 2.0, type=kind, value=value)])
        record = await store.read_user("ann", BUNDLE)
        assert record.seen == {"a", "b"}
        assert record.history == (("a",) if negative else ("a", "b"))
        assert record.disliked == ({"b"} if negative else set())
        assert await store.popular(5) == ([("a", 1)] if negative else [("a", 1), ("b", 1)])

    async def test_the_newest_opinion_counts_by_time_whatever_arrived_first(self, store: Store) -> None:
        """(times and signs in order of arrival) -> whether the item is liked in the end."""
        cases = {
            "+1": True,
            "+1 -2": False,
            "-2 +1": False,
            "-1 +2": True,
            "+2 -1": True,
            "+1 -2 +3": True,
            "-1 +1": False,  # at the same time the dislike counts, in either order
            "+1 -1": False,
            "+1 -3 -2 +4 -4": False,
            "-5 -1 +3": False,
        }
        for case in cases:
            for told in case.split():
                await store.append([_opinion(case, "x", told)])
        for case, liked in cases.items():
            record = await store.read_user(case, BUNDLE)
            assert record.disliked == (set() if liked else {"x"}), case
            assert set(record.history) == ({"x"} if liked else set()), case
            assert record.seen == {"x"}, case

    async def test_the_newest_opinion_counts_where_the_history_has_forgotten_it(self, store: Store) -> None:
        """What comes after the history was pushed out, and whether the item is liked then; a like came at 1000."""
        cases = {"-500": True, "-1000": False, "-1500 +1200": False, "-1500 +1600": True, "-500 -1500": False}
        for before in ("+1000", "+1000 -400"):
            for case, liked in cases.items():
                user = f"{before} {case}"
                await store.append([_opinion(user, "x", told) for told in before.split()])
                await store.append([event(user, f"i{n}", 2000.0 + n) for n in range(HISTORY_TAIL)])
                assert (await store.read_user(user, BUNDLE)).disliked == set(), user
                await store.append([_opinion(user, "x", told) for told in case.split()])
                record = await store.read_user(user, BUNDLE)
                assert record.disliked == (set() if liked else {"x"}), user
                assert len(record.history) == HISTORY_TAIL, user

    async def test_a_user_is_what_the_contract_says_of_events_in_any_order(self, store: Store) -> None:
        """Against the words of UserRecord, with more events than the history holds and many at the same time."""
        draw = random.Random(0)
        for user in ("ann", "bob"):
            signs, items = draw.choices("+-", k=400), draw.choices(range(300), k=1800)
            few = [
                _opinion(user, f"i{item}", f"{sign}{draw.randrange(1500)}")
                for sign, item in zip(signs, items[:400], strict=True)
            ]
            many = [event(user, f"i{item}", float(draw.randrange(200, 3000))) for item in items[400:]]
            told = [*few, *many]
            draw.shuffle(told)
            for size in (700, 400, 700):  # a read in between is right as well
                await append_all(store, told[:size])
                told = told[size:]
                kept = [one for _, one in await store.user_events(user, n=MAX_APPEND * 2)]
                record = await store.read_user(user, BUNDLE)
                newest = {one.item_id: one for one in sorted(kept, key=lambda one: (one.time, one.negative))}
                assert record.seen == set(newest)
                assert record.disliked == {item for item, one in newest.items() if one.negative}
                positive = [one.item_id for one in sorted(kept, key=lambda one: one.time) if not one.negative]
                tail = positive[-HISTORY_TAIL:]
                assert record.history == tuple(item for item in tail if item not in record.disliked)
                assert record.disliked, "else nothing was tried"

    async def test_a_disliked_item_leaves_the_history_wholly_and_moves_the_version(self, store: Store) -> None:
        await store.append([event("ann", item, float(n)) for n, item in enumerate("abac")])
        before = (await store.read_user("ann", BUNDLE)).version
        await store.append([event("ann", "a", 9.0, type="dislike")])
        record = await store.read_user("ann", BUNDLE)
        assert record.history == ("b", "c")
        assert record.version > before, "tokens made before are old now"

    async def test_erase_takes_dislikes_along(self, store: Store) -> None:
        await store.append([event("ann", "a"), event("ann", "a", 2.0, type="dislike"), event("bob", "a")])
        assert await store.erase("ann") == 2
        assert await store.popular(5) == [("a", 1)]
        await store.append([event("ann", "b")])
        assert (await store.read_user("ann", BUNDLE)).disliked == set()

    async def test_an_append_says_which_were_new(self, store: Store) -> None:
        twin = event("ann", "a")
        await store.append([twin])
        assert (await store.append([event("ann", "b"), twin, event("ann", "c")])).new == (0, 2)
        assert (await store.append([twin])).new == ()

    async def test_the_events_of_one_user_page_by_page(self, store: Store) -> None:
        written = [event("ann" if n % 3 else "bob", f"i{n}", float(-n)) for n in range(12)]
        await store.append(written)
        mine = [one for one in written if one.user_id == "ann"]
        first = await store.user_events("ann", n=5)
        rest = await store.user_events("ann", after=first[-1][0], n=5)
        assert [one for _, one in [*first, *rest]] == mine
        assert await store.user_events("ann", after=rest[-1][0]) == []
        assert await store.user_events("nobody") == []

    async def test_a_page_of_a_user_begins_behind_any_position(self, store: Store) -> None:
        """Also behind those of others and of nobody."""
        written = [event("ann" if n % 3 else "bob", f"i{n}") for n in range(3000)]
        await append_all(store, written)
        logged = [(position, one) async for position, one in store.events()]
        mine = [(position, one) for position, one in logged if one.user_id == "ann"]
        first, last = logged[0][0], logged[-1][0]
        for after in (0, first, first + 1, first + 1499, first + 1500, last - 1, last, last + 5):
            page = await store.user_events("ann", after=after, n=7)
            assert page == [entry for entry in mine if entry[0] > after][:7], after

    # ------------------------------------------------------------------------------------------------------------
    # The overlay of items and the pointer

    async def test_items_come_back_once_as_they_were_written_last(self, store: Store) -> None:
        assert await store.read_items(0) == (0, [])
        a = StoredItem("a", 'Ünïcode, "quoted"', ("x, y", "日本"), "text\nof lines")
        b = StoredItem("b")
        first = await store.write_items([a, b])
        assert await store.read_items(0) == (first, [a, b])
        assert await store.read_items(first) == (first, [])
        gone = StoredItem("a", withdrawn=True)
        second = await store.write_items([gone])
        assert second > first
        assert await store.read_items(first) == (second, [gone])
        assert await store.read_items(0) == (second, [b, gone])
        assert await store.write_items([]) == second

    async def test_an_item_twice_in_one_write_is_the_last_one(self, store: Store) -> None:
        version = await store.write_items([StoredItem("a", "one"), StoredItem("b"), StoredItem("a", "two")])
        assert await store.read_items(0) == (version, [StoredItem("b"), StoredItem("a", "two")])

    async def test_a_version_is_none_that_a_store_could_have_given_before(self, store: Store) -> None:
        """A store that lost its last writes must not give their versions to others."""
        now = int(time.time() * 1000)
        first = await store.write_items([StoredItem("a")])
        many = await store.write_items([StoredItem(f"i{n}") for n in range(200)])
        assert now - 1000 < first < many - 199
        assert await store.write_items([StoredItem("a", "again")]) > many
        assert (await store.read_items(many - 1))[1] == [StoredItem("i199"), StoredItem("a", "again")]

    async def test_a_reader_that_follows_the_version_misses_nothing(self, store: Store) -> None:
        """Writers at the same time; a replica that polls ends with what one that reads everything has."""
        held: dict[str, StoredItem] = {}
        version = 0

        async def poll() -> None:
            nonlocal version
            version, items = await store.read_items(version)
            held.update((item.item_id, item) for item in items)

        async def write(writer: int) -> None:
            for n in range(8):
                await store.write_items([StoredItem(f"i{(writer + n) % 5}", f"{writer}/{n}")])
                await poll()

        await asyncio.gather(*(write(writer) for writer in range(5)))
        await poll()
        last, everything = await store.read_items(0)
        assert last == version >= 40
        assert held == {item.item_id: item for item in everything}

    async def test_the_pointer_is_what_moved_last(self, store: Store) -> None:
        assert await store.read_pointer("movies") is None
        first, second = Pointer("1", None, 1764444000.5), Pointer("2", "1", 1764444000.75)
        assert await store.write_pointer("movies", first) == first
        assert await store.write_pointer("movies", second) == second
        assert await store.write_pointer("movies", first) == second  # a message that was on its way for long
        assert await store.read_pointer("movies") == second
        back = Pointer("1", "2", second.moved)
        assert await store.write_pointer("movies", back) == back
        assert await store.read_pointer("books") is None

    async def test_ping_answers(self, store: Store) -> None:
        await store.ping()

    async def test_closing_twice_is_fine(self, store: Store) -> None:
        await store.close()
        await store.close()
