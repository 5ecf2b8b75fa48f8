"""What the service asks of a store: the records, the one Protocol, and the one error.

A store keeps every accepted event for ever (the log), and what follows from it: each user's history, seen set and
dislikes, and how often each item was met. It keeps what was said of items since the bundle was made (the overlay), and
which version of a bundle is active (the pointer). It also keeps user tokens, which may vanish at any time. It knows no
bundle, no catalogue and no HTTP; ids are opaque strings. `sqlite.py` and `redis.py` fulfil this contract, and
`tests/contracts/store_contract.py` is its executable form.

    appended = await store.append([Event(...)])
    record = await store.read_user("42", bundle="demo/1")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

HISTORY_TAIL: Final = 1000
"""How many of a user's newest items `read_user` returns in order; the seen set is complete."""

MAX_APPEND: Final = 1000
"""Most events of one `append`: all or none means one transaction, and one transaction must stay short."""

WRITES_WAIT: Final = 5
"""How many times as long as a read a write may take: to refuse an event costs more than to acknowledge it late."""

DISLIKE_BELOW: Final = 3.0
"""A rating below this is a dislike: on the scale of five that most rate on, one and two stars."""


class StoreUnavailable(Exception):
    """The store could not be reached in time, or refused. Nothing was acknowledged; trying again is safe.

    counted: whether the breaker knows of it. All who shared a round trip are told by the same object.
    """

    counted = False


class StoreIncompatible(Exception):
    """What lies at the store's address was not written by this version. Carries one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction. time: unix seconds. recommendation_id: of the answer that led to it, where known.

    A negative one (a dislike, or a rating below DISLIKE_BELOW) joins the seen set but no history and no count.
    """

    event_id: str
    user_id: str
    item_id: str
    type: str = "view"
    value: float | None = None
    time: float = 0.0
    recommendation_id: str | None = None

    @property
    def negative(self) -> bool:
        """Whether the user did not like what they met."""
        rated_low = self.type == "rating" and self.value is not None and self.value < DISLIKE_BELOW
        return self.type == "dislike" or rated_low


@dataclass(frozen=True, slots=True)
class Appended:
    """accepted: events that are new and now kept. repeated: events whose id the store already knew.

    new: the places in the batch of those that were accepted.
    """

    accepted: int
    repeated: int
    new: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What was said of an item since the bundle was made: how it is now, or that it is withdrawn."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()
    text: str = ""
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version of a bundle is active, which was before it, and since when: unix seconds."""

    version: str
    previous: str | None
    moved: float


@dataclass(frozen=True, slots=True)
class UserRecord:
    """All that one answer needs of a user, read in one round trip.

    history: the item ids of the newest HISTORY_TAIL events that are not negative, in order of time, and of arrival
    where times are equal; without the items in disliked. disliked: items of which the newest event, by time, is a
    negative one. seen: every item id of the user. version: the log position of the user's last accepted event, so
    that it grows with each one and never repeats, not even after `erase`; 0 for a user without events.
    tokens: what `write_tokens` stored for this bundle, made from the history as it was at tokens_version.
    """

    history: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    disliked: frozenset[str] = frozenset()
    version: int = 0
    tokens: bytes | None = None
    tokens_version: int | None = None


class Store(Protocol):
    """Every method but `close` raises StoreUnavailable when the store cannot be reached in time or refuses."""

    async def append(self, events: Sequence[Event]) -> Appended:
        """Keeps all events or none; when it returns they are kept. An event id that is known changes nothing.

        Raises ValueError for more than MAX_APPEND events.
        """
        ...

    async def read_user(self, user_id: str, bundle: str) -> UserRecord:
        """The user with the tokens of that bundle, in one round trip. Never a history or a seen set older than the
        version, nor tokens newer than tokens_version."""
        ...

    async def write_tokens(self, user_id: str, bundle: str, version: int, data: bytes, ttl: float) -> None:
        """Keeps tokens for ttl seconds at most. Newer tokens are never replaced by older ones, and tokens of a
        user without events (erased meanwhile, say) are not kept."""
        ...

    async def popular(self, n: int) -> list[tuple[str, int]]:
        """The n items with the most events that are not negative, and their counts: most first, ties in order of id."""
        ...

    def events(self, after: int | None = None) -> AsyncIterator[tuple[int, Event]]:
        """The log in order of arrival, each event with its position; `after` continues behind a position."""
        ...

    async def user_events(self, user_id: str, after: int = 0, n: int = 1000) -> list[tuple[int, Event]]:
        """At most n of the user's events with their positions, in order of arrival, behind a position."""
        ...

    async def write_items(self, items: Sequence[StoredItem]) -> int:
        """Keeps what is said of items, all or none, each in place of what was said of it before.

        Returns the catalogue version after it, which grows with every item and never repeats: see `next_version`.
        """
        ...

    async def read_items(self, after: int) -> tuple[int, list[StoredItem]]:
        """The catalogue version, and every item that was written since the version `after`, in order of writing.

        A version below `after` says that the store lost writes: what it has must be read again from 0.
        Cheap where nothing was: replicas ask several times a second.
        """
        ...

    async def read_pointer(self, name: str) -> Pointer | None:
        """Which version of the bundle `name` is active; None while nobody has said so."""
        ...

    async def write_pointer(self, name: str, pointer: Pointer) -> Pointer:
        """Keeps it, unless one that moved later is there. Returns the one that is kept."""
        ...

    async def erase(self, user_id: str) -> int:
        """Forgets the user wholly: log, history, seen set, tokens, and their share in the counts.

        Returns how many events that removed, when all are. Where it raises, it may have done a part: erasing again
        does the rest, and `read_user` finds all of what was or nothing. Events told meanwhile begin a new history.
        """
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def close(self) -> None:
        """Frees connections and threads. Nothing acknowledged is lost."""
        ...


async def append_all(store: Store, events: Iterable[Event], size: int = MAX_APPEND) -> Appended:
    """Appends any number of events, `size` at a time: the way to import. Each batch is all or none by itself."""
    accepted = repeated = 0
    source = iter(events)
    while batch := list(islice(source, size)):
        appended = await store.append(batch)
        accepted, repeated = accepted + appended.accepted, repeated + appended.repeated
    return Appended(accepted, repeated)


def next_version(last: int, now: float) -> int:
    """The catalogue version of the next item. last: the greatest one given. now: unix seconds.

    Not merely the next number: a store that lost its last writes would give their versions again, and a replica that
    had heard them would take what is new for what it knows. No clock in milliseconds gives one again.
    """
    return max(last + 1, int(now * 1000))


def positive_tail(
    history: Iterable[tuple[float, str]], negatives: Mapping[str, float]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """(history, disliked) as a UserRecord has them.

    history: (time, item) of the newest positive events, in order. negatives: item -> time of its newest negative
    event; where both are of the same time the negative one counts.
    """
    tail = list(history)
    newest = {item_id: time for time, item_id in tail}  # the last one of an item is its newest
    disliked = frozenset(
        item_id for item_id, time in negatives.items() if item_id not in newest or newest[item_id] <= time
    )
    return tuple(item_id for _, item_id in tail if item_id not in disliked), disliked


def check_batch(events: Sequence[Event]) -> None:
    """Raises ValueError when `append` was handed more than one transaction should hold."""
    if len(events) > MAX_APPEND:
        raise ValueError(f"{len(events)} events in one append, at most {MAX_APPEND}; use append_all")
