"""The tables of the embedded store, and a file's way from any older version of them to this one.

Knows SQL and no store: `sqlite.py` reads and writes what is in the tables.

    db = connect("contrec.db", timeout=0.1)      # a connection to a file that is ours and of this version
"""

from __future__ import annotations

import sqlite3
from typing import Final

from service.stores.contract import DISLIKE_BELOW, StoreIncompatible, StoreUnavailable

_APPLICATION_ID: Final = 0x63747263  # "ctrc": tells our files from other people's

# What version 1 was made with. AUTOINCREMENT, so that a position is never given twice, not even after an erasure:
# versions rely on it.
_FIRST: Final = """
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

# Version 2: dislikes are no history and no popularity; the overlay of items; the pointer to the active bundle. An
# item's version is the catalogue's at its writing; rows are never deleted, so the greatest one never falls.
_SECOND: Final = f"""
ALTER TABLE event ADD COLUMN negative INTEGER NOT NULL DEFAULT 0;
UPDATE event SET negative = 1 WHERE type = 'dislike' OR (type = 'rating' AND value < {DISLIKE_BELOW});
DROP INDEX event_of_user;
CREATE INDEX event_of_user ON event (user_id, time, position, item_id, negative);
DELETE FROM popularity;
INSERT INTO popularity SELECT item_id, count(*) FROM event WHERE NOT negative GROUP BY item_id;
DELETE FROM tokens;
CREATE TABLE item (
    item_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    title TEXT NOT NULL,
    categories TEXT NOT NULL,
    text TEXT NOT NULL,
    withdrawn INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX item_by_version ON item (version);
CREATE TABLE pointer (name TEXT PRIMARY KEY, version TEXT NOT NULL, previous TEXT) WITHOUT ROWID;
"""

# Version 3: since when a bundle is active.
_THIRD: Final = "ALTER TABLE pointer ADD COLUMN moved REAL NOT NULL DEFAULT 0;"

MEET: Final = """ON CONFLICT (user_id, item_id) DO UPDATE SET time = excluded.time, negative = excluded.negative
    WHERE (excluded.time, excluded.negative) > (met.time, met.negative)"""
"""Ends an insertion into `met`, a row of which is the newest event of a user with an item, by time; of those at the
same time a negative one."""

# Version 4: to read a user costs their items and the tail of the history, not their events.
_FOURTH: Final = f"""
CREATE TABLE met (
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    time REAL NOT NULL,
    negative INTEGER NOT NULL,
    PRIMARY KEY (user_id, item_id)
) WITHOUT ROWID;
INSERT INTO met SELECT user_id, item_id, time, negative FROM event WHERE true {MEET};
DROP INDEX event_of_user;
CREATE INDEX event_of_user ON event (user_id);
CREATE INDEX positive_of_user ON event (user_id, time, position, item_id) WHERE NOT negative;
"""

_STEPS: Final = (_FIRST, _SECOND, _THIRD, _FOURTH)  # _STEPS[n] makes version n + 1 out of version n
SCHEMA_VERSION: Final = len(_STEPS)

_OPENING_S: Final = 1.0  # how long the opening waits for another process that creates or migrates the file


def connect(path: str, timeout: float) -> sqlite3.Connection:
    """Opens, checks and where needed creates; runs on the thread to which the connection then belongs.

    timeout: seconds that a statement then waits for a lock of another process. Raises StoreIncompatible for a file of
    another program or a later version, StoreUnavailable for one that cannot be opened.
    """
    try:
        db = sqlite3.connect(path, timeout=_OPENING_S, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot open the store at {path}: {error}") from error
    try:
        _prepare(db, path)
        db.execute(f"PRAGMA busy_timeout = {max(1, int(timeout * 1000))}").fetchone()
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
    if tables and not 1 <= version <= SCHEMA_VERSION:
        raise StoreIncompatible(f"{path} has store schema {version}, this version reads {SCHEMA_VERSION} and older")
    db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # an erased user's bytes are overwritten, not only unlinked
    if not tables or version < SCHEMA_VERSION:
        _bring_up(db)


def _bring_up(db: sqlite3.Connection) -> None:
    """Creates the tables or brings those of an older version up to this one: all of it or nothing."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()  # again: another process may have come first
        for step in _STEPS[version:]:
            for statement in step.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
