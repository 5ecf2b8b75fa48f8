"""The embedded store: one SQLite file, no server to run. One thread reads and another writes, each with a connection.

The event table is the truth. Histories are read from it through one covering index, seen sets and dislikes from `met`,
which changes in the same transaction, so they cannot disagree with it. Write-ahead log with synchronous=FULL: an
acknowledged event has reached the disk, and reads do not wait for writes, this process's or another's. Knows nothing
of bundles and HTTP.

    store = await SqliteStore.open("contrec.db", timeout=0.1)      # ":memory:" for tests
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from service.stores.contract import (
    HISTORY_TAIL,
    WRITES_WAIT,
    Appended,
    Event,
    Pointer,
    StoredItem,
    StoreUnavailable,
    UserRecord,
    check_batch,
    next_version,
)
from service.stores.gather import Gather
from service.stores.schema import MEET, connect
from service.stores.waiting import within

T = TypeVar("T")

_COLUMNS: Final = "event_id, user_id, item_id, type, value, time, recommendation_id"
_PAGE: Final = 2000
_TOGETHER: Final = 8  # users read at once: few enough that long histories are read in time as well
_MEMORY: Final = ":memory:"
_ERASE_WAITS: Final = 10  # times as long as other writes: one transaction for all that a user ever did


class _Lane:
    """One connection, the thread to which it belongs, and how long a call may take with its wait for those before it.

    Open with `_Lane.open`. timeout: seconds.
    """

    def __init__(self, db: sqlite3.Connection, thread: ThreadPoolExecutor, timeout: float) -> None:
        self.db = db
        self._thread = thread
        self._timeout = timeout

    @classmethod
    async def open(cls, path: str, timeout: float, name: str) -> _Lane:
        """Raises StoreIncompatible and StoreUnavailable, see `SqliteStore.open`."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        try:
            db = await asyncio.get_running_loop().run_in_executor(thread, connect, path, timeout)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(db, thread, timeout)

    async def run(self, work: Callable[[], T], patience: int = 1) -> T:
        """What work() returns. patience: how many times as long as others it may take. Raises StoreUnavailable.

        Where the time is over, or the caller gone, before work has begun, it never begins; else it comes to its end.
        """
        seconds = patience * self._timeout
        try:
            return await within(seconds, asyncio.wrap_future(self._thread.submit(work)))
        except TimeoutError as error:
            raise StoreUnavailable(f"SQLite did not answer within {1000 * seconds:g} ms") from error
        except sqlite3.Error as error:
            raise StoreUnavailable(f"SQLite refused: {error}") from error

    async def close(self) -> None:
        """Returns when everything that was begun or waits is done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.db.close)
        self._thread.shutdown(wait=True)


class SqliteStore:
    """A `Store` in one file. Statements run on the threads of its two lanes; open with `SqliteStore.open`."""

    def __init__(self, reads: _Lane, writes: _Lane) -> None:
        self._reads = reads
        self._writes = writes
        self._db = writes.db
        self._users: Gather[tuple[str, str], UserRecord] = Gather(self._read_many, most=_TOGETHER)
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path, *, timeout: float = 0.1) -> SqliteStore:
        """Opens or creates the file. timeout: seconds for a read; a write has WRITES_WAIT times as long.

        Raises StoreIncompatible when it is something else or of another schema version, StoreUnavailable when
        it cannot be opened.
        """
        writes = await _Lane.open(str(path), timeout * WRITES_WAIT, "store-write")
        if str(path) == _MEMORY:  # each connection would have a memory of its own
            return cls(writes, writes)
        try:
            return cls(await _Lane.open(str(path), timeout, "store-read"), writes)
        except BaseException:
            await writes.close()
            raise

    async def _run(self, work: Callable[[], T], patience: int = 1) -> T:
        """work() where writes run, one after the other."""
        self._check_open()
        return await self._writes.run(work, patience)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """work(connection) where reads run, beside the writes."""
        self._check_open()
        return await self._reads.run(lambda: work(self._reads.db))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def append(self, events: Sequence[Event]) -> Appended:
        check_batch(events)
        return await self._run(lambda: self._append(events))

    def _append(self, events: Sequence[Event]) -> Appended:
        columns = f"event ({_COLUMNS}, negative)"
        insert = f"INSERT INTO {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
        counts: Counter[str] = Counter()
        new: list[int] = []
        met: list[tuple[str, str, float, bool]] = []
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for place, event in enumerate(events):
                row = (event.event_id, event.user_id, event.item_id, event.type)
                row += (event.value, event.time, event.recommendation_id, event.negative)  # type: ignore[assignment]
                if self._db.execute(insert, row).rowcount:
                    new.append(place)
                    met.append((event.user_id, event.item_id, event.time, event.negative))
                    counts[event.item_id] += not event.negative
            self._db.executemany(f"INSERT INTO met VALUES (?, ?, ?, ?) {MEET}", met)
            self._db.executemany(
                "INSERT INTO popularity VALUES (?, ?)"
                " ON CONFLICT (item_id) DO UPDATE SET count = count + excluded.count",
                [(item_id, count) for item_id, count in counts.items() if count],
            )
        return Appended(accepted=len(new), repeated=len(events) - len(new), new=tuple(new))

    async def read_user(self, user_id: str, bundle: str) -> UserRecord:
        return await self._users.ask((user_id, bundle))

    async def _read_many(self, asked: Sequence[tuple[str, str]]) -> list[UserRecord]:
        def read(db: sqlite3.Connection) -> list[UserRecord]:
            with db:  # others write meanwhile: a transaction makes it one moment
                db.execute("BEGIN")
                return [_read_user(db, *one) for one in asked]

        return await self._read(read)

    async def write_tokens(self, user_id: str, bundle: str, version: int, data: bytes, ttl: float) -> None:
        now = time.time()

        def write() -> None:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("DELETE FROM tokens WHERE expires <= ?", (now,))
                self._db.execute(
                    "INSERT INTO tokens SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM event WHERE user_id = ?)"
                    " ON CONFLICT (user_id, bundle) DO UPDATE SET version = excluded.version, data = excluded.data,"
                    " expires = excluded.expires WHERE excluded.version >= tokens.version",
                    (user_id, bundle, version, data, now + ttl, user_id),
                )

        await self._run(write)

    async def popular(self, n: int) -> list[tuple[str, int]]:
        query = "SELECT item_id, count FROM popularity ORDER BY count DESC, item_id LIMIT ?"
        return await self._read(lambda db: db.execute(query, (n,)).fetchall())

    async def events(self, after: int | None = None) -> AsyncIterator[tuple[int, Event]]:
        query = f"SELECT position, {_COLUMNS} FROM event WHERE position > ? ORDER BY position LIMIT {_PAGE}"
        position = after or 0
        while True:
            page = await self._read(lambda db, start=position: db.execute(query, (start,)).fetchall())  # type: ignore[misc]
            for position, *columns in page:
                yield position, Event(*columns)
            if len(page) < _PAGE:
                return

    async def user_events(self, user_id: str, after: int = 0, n: int = 1000) -> list[tuple[int, Event]]:
        query = f"SELECT position, {_COLUMNS} FROM event WHERE user_id = ? AND position > ? ORDER BY position LIMIT ?"
        found = await self._read(lambda db: db.execute(query, (user_id, after, n)).fetchall())
        return [(position, Event(*columns)) for position, *columns in found]

    async def write_items(self, items: Sequence[StoredItem]) -> int:
        def write() -> int:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                version = _catalogue_version(self._db)
                for item in items:
                    version = next_version(version, time.time())
                    categories = json.dumps(item.categories, ensure_ascii=False)
                    self._db.execute(
                        "REPLACE INTO item VALUES (?, ?, ?, ?, ?, ?)",
                        (item.item_id, version, item.title, categories, item.text, item.withdrawn),
                    )
                return version

        return await self._run(write)

    async def read_items(self, after: int) -> tuple[int, list[StoredItem]]:
        query = "SELECT item_id, title, categories, text, withdrawn FROM item WHERE version > ? ORDER BY version"

        def read(db: sqlite3.Connection) -> tuple[int, list[StoredItem]]:
            with db:
                db.execute("BEGIN")
                version = _catalogue_version(db)
                rows = db.execute(query, (after,)).fetchall() if version > after else []
            return version, [
                StoredItem(item_id, title, tuple(json.loads(categories)), text, bool(withdrawn))
                for item_id, title, categories, text, withdrawn in rows
            ]

        return await self._read(read)

    async def read_pointer(self, name: str) -> Pointer | None:
        return await self._read(lambda db: _pointer(db, name))

    async def write_pointer(self, name: str, pointer: Pointer) -> Pointer:
        def write() -> Pointer:
            with self._db:
                self._db.execute(
                    "INSERT INTO pointer (name, version, previous, moved) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET version = excluded.version, previous = excluded.previous,"
                    " moved = excluded.moved WHERE excluded.moved >= moved",
                    (name, pointer.version, pointer.previous, pointer.moved),
                )
                kept = _pointer(self._db, name)
            return kept or pointer

        return await self._run(write)

    async def erase(self, user_id: str) -> int:
        def erase() -> int:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                counts = self._db.execute(
                    "SELECT count(*), item_id FROM event WHERE user_id = ? AND NOT negative GROUP BY item_id",
                    (user_id,),
                ).fetchall()
                self._db.executemany("UPDATE popularity SET count = count - ? WHERE item_id = ?", counts)
                self._db.execute("DELETE FROM popularity WHERE count <= 0")
                self._db.execute("DELETE FROM tokens WHERE user_id = ?", (user_id,))
                self._db.execute("DELETE FROM met WHERE user_id = ?", (user_id,))
                erased = self._db.execute("DELETE FROM event WHERE user_id = ?", (user_id,)).rowcount
            # The log of writes still holds the pages as they were: it goes into the file, and is cut to nothing.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return erased

        return await self._run(erase, _ERASE_WAITS)

    async def ping(self) -> None:
        await self._read(lambda db: db.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._reads is not self._writes:
            await self._reads.close()
        await self._writes.close()


def _read_user(db: sqlite3.Connection, user_id: str, bundle: str) -> UserRecord:
    met = db.execute("SELECT item_id, negative FROM met WHERE user_id = ?", (user_id,)).fetchall()
    if not met:
        return UserRecord()
    disliked = frozenset(item_id for item_id, negative in met if negative)
    tail = db.execute(
        "SELECT item_id FROM event WHERE user_id = ? AND NOT negative ORDER BY time DESC, position DESC LIMIT ?",
        (user_id, HISTORY_TAIL),
    ).fetchall()
    newest = "SELECT position FROM event WHERE user_id = ? ORDER BY position DESC LIMIT 1"
    (version,) = db.execute(newest, (user_id,)).fetchone()
    tokens = db.execute(
        "SELECT data, version FROM tokens WHERE user_id = ? AND bundle = ? AND expires > ?",
        (user_id, bundle, time.time()),
    ).fetchone()
    data, made_at = tokens or (None, None)
    return UserRecord(
        history=tuple(item_id for (item_id,) in reversed(tail) if item_id not in disliked),
        seen=frozenset(item_id for item_id, _ in met),
        disliked=disliked,
        version=version,
        tokens=data,
        tokens_version=made_at,
    )


def _catalogue_version(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(version), 0) FROM item").fetchone()[0])


def _pointer(db: sqlite3.Connection, name: str) -> Pointer | None:
    found = db.execute("SELECT version, previous, moved FROM pointer WHERE name = ?", (name,)).fetchone()
    return None if found is None else Pointer(*found)
