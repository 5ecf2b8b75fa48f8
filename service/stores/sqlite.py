"""The embedded store: one SQLite file, one thread, no server to run.

The event table is the truth; histories and seen sets are read from it through one covering index, so they
cannot disagree with it. Write-ahead log with synchronous=FULL: an acknowledged event has reached the disk.
Knows nothing of bundles and HTTP.

    store = await SqliteStore.open("contrec.db")      # ":memory:" for tests
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from service.stores.contract import (
    HISTORY_TAIL,
    Appended,
    Event,
    StoreIncompatible,
    StoreUnavailable,
    UserRecord,
    check_batch,
)

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x63747263  # "ctrc": tells our files from other people's

# AUTOINCREMENT, so that a position is never given twice, not even after an erasure: versions rely on it.
_SCHEMA: Final = """
CREATE TABLE event (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    type TEXT NOT NULL,
    value REAL,
    time REAL NOT NULL,
    recommendation_id TEXT
);
CREATE INDEX event_of_user ON event (user_id, time, position, item_id);
CREATE TABLE popularity (item_id TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX popularity_by_count ON popularity (count DESC, item_id);
CREATE TABLE tokens (
    user_id TEXT NOT NULL,
    bundle TEXT NOT NULL,
    version INTEGER NOT NULL,
    data BLOB NOT NULL,
    expires REAL NOT NULL,
    PRIMARY KEY (user_id, bundle)
);
CREATE INDEX tokens_by_expiry ON tokens (expires);
"""

_COLUMNS: Final = "event_id, user_id, item_id, type, value, time, recommendation_id"
_PAGE: Final = 2000


class SqliteStore:
    """A `Store` in one file. All statements run on the store's own thread; open with `SqliteStore.open`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._db = connection
        self._thread = thread
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path) -> SqliteStore:
        """Opens or creates the file.

        Raises StoreIncompatible when it is something else or of another schema version, StoreUnavailable when
        it cannot be opened.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, str(path))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, thread)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"SQLite refused: {error}") from error

    async def append(self, events: Sequence[Event]) -> Appended:
        check_batch(events)
        return await self._run(lambda: self._append(events))

    def _append(self, events: Sequence[Event]) -> Appended:
        insert = f"INSERT INTO event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
        counts: Counter[str] = Counter()
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for event in events:
                row = (event.event_id, event.user_id, event.item_id, event.type)
                row += (event.value, event.time, event.recommendation_id)  # type: ignore[assignment]
                counts[event.item_id] += self._db.execute(insert, row).rowcount
            self._db.executemany(
                "INSERT INTO popularity VALUES (?, ?)"
                " ON CONFLICT (item_id) DO UPDATE SET count = count + excluded.count",
                [(item_id, count) for item_id, count in counts.items() if count],
            )
        accepted = counts.total()
        return Appended(accepted=accepted, repeated=len(events) - accepted)

    async def read_user(self, user_id: str, bundle: str) -> UserRecord:
        return await self._run(lambda: self._read_user(user_id, bundle))

    def _read_user(self, user_id: str, bundle: str) -> UserRecord:
        # One thread and one connection, but another process may write: a transaction makes it one moment.
        with self._db:
            self._db.execute("BEGIN")
            tail = self._db.execute(
                "SELECT item_id FROM event WHERE user_id = ? ORDER BY time DESC, position DESC LIMIT ?",
                (user_id, HISTORY_TAIL),
            ).fetchall()
            if not tail:
                return UserRecord()
            whole = self._db.execute("SELECT item_id, position FROM event WHERE user_id = ?", (user_id,)).fetchall()
            tokens = self._db.execute(
                "SELECT data, version FROM tokens WHERE user_id = ? AND bundle = ? AND expires > ?",
                (user_id, bundle, time.time()),
            ).fetchone()
        data, version = tokens or (None, None)
        return UserRecord(
            history=tuple(item_id for (item_id,) in reversed(tail)),
            seen=frozenset(item_id for item_id, _ in whole),
            version=max(position for _, position in whole),
            tokens=data,
            tokens_version=version,
        )

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
        return await self._run(lambda: self._db.execute(query, (n,)).fetchall())

    async def events(self, after: int | None = None) -> AsyncIterator[tuple[int, Event]]:
        query = f"SELECT position, {_COLUMNS} FROM event WHERE position > ? ORDER BY position LIMIT {_PAGE}"
        position = after or 0
        while True:
            page = await self._run(lambda start=position: self._db.execute(query, (start,)).fetchall())  # type: ignore[misc]
            for position, *columns in page:
                yield position, Event(*columns)
            if len(page) < _PAGE:
                return

    async def erase(self, user_id: str) -> int:
        def erase() -> int:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                counts = self._db.execute(
                    "SELECT count(*), item_id FROM event WHERE user_id = ? GROUP BY item_id", (user_id,)
                ).fetchall()
                self._db.executemany("UPDATE popularity SET count = count - ? WHERE item_id = ?", counts)
                self._db.execute("DELETE FROM popularity WHERE count <= 0")
                self._db.execute("DELETE FROM tokens WHERE user_id = ?", (user_id,))
                return self._db.execute("DELETE FROM event WHERE user_id = ?", (user_id,)).rowcount

        return await self._run(erase)

    async def ping(self) -> None:
        await self._run(lambda: self._db.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown(wait=True)


def _connect(path: str) -> sqlite3.Connection:
    """Opens, checks and where needed creates; runs on the store's thread, to which the connection then belongs."""
    try:
        db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot open the store at {path}: {error}") from error
    try:
        _prepare(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StoreUnavailable(f"cannot open the store at {path}: {error}") from error
        raise StoreIncompatible(f"{path} is not a contrec store: {error}") from error
    except StoreIncompatible:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: str) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION_ID:
        raise StoreIncompatible(f"{path} is a database of another program")
    if tables and version != SCHEMA_VERSION:
        raise StoreIncompatible(f"{path} has store schema {version}, this version reads {SCHEMA_VERSION}")
    db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # an erased user's bytes are overwritten, not only unlinked
    if not tables:
        marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {marks} COMMIT;")
