"""What the service asks of a store: the records, the one Protocol, and the one error.

A store keeps every accepted event for ever (the log), and what follows from it: each user's history and seen
set, and how often each item was met. It also keeps user tokens, which may vanish at any time. It knows no
bundle, no catalogue and no HTTP; ids are opaque strings. `sqlite.py` and `redis.py` fulfil this contract, and
`tests/contracts/store_contract.py` is its executable form.

    appended = await store.append([Event(...)])
    record = await store.read_user("42", bundle="demo/1")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

HISTORY_TAIL: Final = 1000
"""How many of a user's newest items `read_user` returns in order; the seen set is complete."""

MAX_APPEND: Final = 1000
"""Most events of one `append`: all or none means one transaction, and one transaction must stay short."""


class StoreUnavailable(Exception):
    """The store could not be reached in time, or refused. Nothing was acknowledged; trying again is safe."""


class StoreIncompatible(Exception):
    """What lies at the store's address was not written by this version. Carries one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction. time: unix seconds. recommendation_id: of the answer that led to it, where known."""

    event_id: str
    user_id: str
    item_id: str
    type: str = "view"
    value: float | None = None
    time: float = 0.0
    recommendation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """accepted: events that are new and now kept. repeated: events whose id the store already knew."""

    accepted: int
    repeated: int


@dataclass(frozen=True, slots=True)
class UserRecord:
    """All that one answer needs of a user, read in one round trip.

    history: the newest HISTORY_TAIL item ids in order of time, and of arrival where times are equal.
    seen: every item id of the user. version: the log position of the user's last accepted event, so that it
    grows with each one and never repeats, not even after `erase`; 0 for a user without events.
    tokens: what `write_tokens` stored for this bundle, made from the history as it was at tokens_version.
    """

    history: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    version: int = 0
    tokens: bytes | None = None
    tokens_version: int | None = None


class Store(Protocol):
    """Every method but `close` raises StoreUnavailable when the store cannot be reached or refuses."""

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
        """The n items with the most events and their counts, most first, equal counts in order of id."""
        ...

    def events(self, after: int | None = None) -> AsyncIterator[tuple[int, Event]]:
        """The log in order of arrival, each event with its position; `after` continues behind a position."""
        ...

    async def erase(self, user_id: str) -> int:
        """Forgets the user wholly: log, history, seen set, tokens, and their share in the counts.

        Returns how many events that removed.
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


def check_batch(events: Sequence[Event]) -> None:
    """Raises ValueError when `append` was handed more than one transaction should hold."""
    if len(events) > MAX_APPEND:
        raise ValueError(f"{len(events)} events in one append, at most {MAX_APPEND}; use append_all")
