"""The embedded store: the contract, and what is its own: files, durability, foreign and older files."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from service.stores import open_store, schema
from service.stores import sqlite as sqlite_store
from service.stores.contract import (
    Appended,
    Event,
    Store,
    StoredItem,
    StoreIncompatible,
    StoreUnavailable,
    append_all,
)
from service.stores.sqlite import SqliteStore
from tests.contracts.store_contract import BUNDLE, StoreContract, event

opened = partial(SqliteStore.open, timeout=10.0)  # seconds: this machine may be busy with other things


class TestSqliteInMemory(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        store = await opened(":memory:")
        yield store
        await store.close()


class TestSqliteFile(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await opened(tmp_path / "store.db")
        yield store
        await store.close()

    async def test_a_second_opening_finds_everything(self, store: Store, tmp_path: Path) -> None:
        await store.append([Event("e", "ann", "a", time=1.0)])
        before = await store.read_user("ann", "b/1")
        await store.close()
        again = await opened(tmp_path / "store.db")
        assert await again.read_user("ann", "b/1") == before
        await again.close()


async def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    service = await opened(tmp_path / "store.db")
    importer = await opened(tmp_path / "store.db")
    await importer.append([event("ann", "a", 1.0)])
    assert (await service.read_user("ann", "b/1")).history == ("a",)
    await importer.close()
    await service.close()


async def test_an_acknowledged_event_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "from service.stores.contract import Event\n"
        "from service.stores.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = await SqliteStore.open(sys.argv[1], timeout=10.0)\n"
        "    await store.append([Event(str(n), 'ann', str(n), time=n) for n in range(10)])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "store.db"
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=False)
    assert result.returncode == -9, result.stderr.decode()
    store = await opened(path)
    assert len((await store.read_user("ann", "b/1")).history) == 10
    await store.close()


async def test_fifteen_thousand_events_are_imported_in_two_seconds(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    events = [event(f"u{n % 500}", f"i{n % 300}", float(n)) for n in range(15_000)]
    start = time.process_time()  # of this process: other people's load on the machine does not count
    assert await append_all(store, events) == Appended(15_000, 0)
    assert time.process_time() - start < 2.0
    await store.close()


async def test_a_full_disk_refuses_the_whole_append_and_forgives(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    await store.append([event("ann", "first", 1.0)])
    pages = await store._run(lambda: store._db.execute("PRAGMA page_count").fetchone()[0])
    await store._run(lambda: store._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    big = [event("ann", "x" * 250 + str(n), 2.0) for n in range(500)]
    with pytest.raises(StoreUnavailable, match="full"):
        await store.append(big)
    assert (await store.read_user("ann", "b/1")).history == ("first",)
    assert await store.popular(5) == [("first", 1)]
    await store._run(lambda: store._db.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await store.append(big) == Appended(500, 0)
    await store.close()


async def test_to_read_a_user_costs_their_items_and_the_tail_and_not_their_events(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: every event was read at every request, and who waited behind waited too."""
    store = await opened(tmp_path / "store.db")
    await append_all(store, [event("ann", f"i{n % 5}", float(n)) for n in range(15_000)])
    await append_all(store, [event("ann", f"i{5 + n % 5}", 1e6 + n, type="dislike") for n in range(15_000)])
    thousands = 0

    def count() -> None:
        nonlocal thousands
        thousands += 1

    await store._read(lambda db: db.set_progress_handler(count, 1000))
    record = await store.read_user("ann", BUNDLE)
    page = await store.user_events("ann", after=record.version - 10)
    await store._read(lambda db: db.set_progress_handler(None, 0))
    assert (len(record.history), len(record.seen), len(record.disliked), len(page)) == (1000, 10, 5, 10)
    assert thousands < 30, "one step an event would be 30 alone"
    await store.close()


async def test_while_another_process_holds_the_lock_reads_go_on_and_writes_give_up(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", timeout=0.5)
    await store.append([event("ann", "a", 1.0)])
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writes = [asyncio.create_task(store.append([event("ann", f"w{n}", 2.0)])) for n in range(8)]
    await asyncio.sleep(0.01)
    assert (await store.read_user("ann", BUNDLE)).history == ("a",)
    assert await store.popular(5) == [("a", 1)]
    assert not any(write.done() for write in writes), "nobody who reads waited for who writes"
    for write in writes:
        with pytest.raises(StoreUnavailable):
            await write
    other.execute("ROLLBACK")
    other.close()
    assert await store.append([event("ann", "b", 3.0)]) == Appended(1, 0)
    kept = (await store.read_user("ann", BUNDLE)).seen - {"a", "b"}
    assert len(kept) <= 4, "a write that was under way may be kept; who had given up before it began was dropped"
    await store.close()


@pytest.mark.parametrize("lane", ["_reads", "_writes"])
async def test_what_waits_until_its_time_is_over_is_never_begun(tmp_path: Path, lane: str) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", timeout=0.05)
    run = getattr(store, lane).run
    release, begun = threading.Event(), []
    stuck = asyncio.create_task(run(release.wait))
    await asyncio.sleep(0.01)
    for n in range(3):
        with pytest.raises(StoreUnavailable, match=r"did not answer within (50|250) ms"):
            await run(lambda n=n: begun.append(n))
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await stuck
    release.set()
    await store.close()
    assert begun == []


async def test_an_erasure_has_more_time_than_other_writes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", timeout=0.1)
    await store._writes.run(lambda: store._append([event("ann", "a")]), 10)
    release = threading.Event()
    stuck = asyncio.create_task(store._run(release.wait))
    await asyncio.sleep(0.01)
    erasing = asyncio.create_task(store.erase("ann"))
    for late in (stuck, asyncio.create_task(store.append([event("bob", "a")]))):
        with pytest.raises(StoreUnavailable, match="did not answer within 500 ms"):
            await late
    release.set()
    assert await erasing == 1
    await store.close()


async def test_nothing_of_who_was_erased_is_left_in_any_file(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    await store.append([event("erased-user", f"item-{n}") for n in range(50)])
    await store.append([event("bob", "a")])

    def found() -> int:
        return sum(path.read_bytes().count(b"erased-user") for path in tmp_path.iterdir())

    assert found() > 0
    assert await store.erase("erased-user") == 50
    assert found() == 0
    assert (await store.read_user("bob", BUNDLE)).seen == {"a"}
    await store.close()


async def test_closing_waits_for_what_runs(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    release = threading.Event()

    def slow() -> None:
        release.wait()
        store._append([event("ann", "a")])

    write = asyncio.create_task(store._run(slow))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    release.set()
    await asyncio.gather(write, closing)
    again = await opened(tmp_path / "store.db")
    assert (await again.read_user("ann", BUNDLE)).seen == {"a"}
    await again.close()


async def test_files_of_others_are_refused_with_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("This is no database at all. " * 100)
    with pytest.raises(StoreIncompatible, match=r"notes\.txt is not a contrec store"):
        await opened(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(StoreIncompatible, match="another program"):
        await opened(other)


async def test_another_schema_version_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StoreIncompatible, match="schema 7, this version reads 4"):
        await opened(path)


async def test_a_store_of_the_first_version_is_brought_up_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as db:  # as version 1 made it, with a dislike that it took for a view
        db.executescript(schema._FIRST)
        columns = f"INSERT INTO event ({sqlite_store._COLUMNS}) VALUES (?, 'ann', ?, ?, ?, ?, NULL)"
        told = [("e1", "a", "view", None, 1.0), ("e2", "b", "dislike", None, 2.0), ("e3", "c", "rating", 1.0, 3.0)]
        told += [("e4", "d", "view", None, 5.0), ("e5", "d", "dislike", None, 4.0)]
        told += [("e6", "e", "dislike", None, 6.0), ("e7", "e", "view", None, 6.0)]
        db.executemany(columns, told)
        db.executemany("INSERT INTO popularity VALUES (?, 1)", [("a",), ("b",), ("c",)])
        db.execute("INSERT INTO tokens VALUES ('ann', 'b/1', 3, x'00', 1e12)")
        db.executescript(f"PRAGMA application_id = {schema._APPLICATION_ID}; PRAGMA user_version = 1;")
    db.close()
    one, other = await asyncio.gather(opened(path), opened(path))
    record = await one.read_user("ann", "b/1")
    assert record.history == ("a", "d")
    assert record.seen == set("abcde")
    assert record.disliked == {"b", "c", "e"}
    assert record.version == 7
    assert record.tokens is None, "made from a history that held the dislikes"
    assert await one.popular(5) == [("a", 1), ("d", 1), ("e", 1)]
    assert [entry.event_id async for _, entry in other.events()] == [f"e{n}" for n in range(1, 8)]
    version = await other.write_items([StoredItem("new")])
    assert await one.read_items(0) == (version, [StoredItem("new")])
    await one.close()
    await other.close()


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot open the store"):
        await opened(tmp_path / "missing" / "store.db")


async def test_a_closed_store_says_so() -> None:
    store = await opened(":memory:")
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.ping()


async def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for address, made in [
        ("sqlite:///here.db", tmp_path / "here.db"),
        (f"sqlite:///{tmp_path}/there.db", tmp_path / "there.db"),
    ]:
        await (await open_store(address)).close()
        assert made.exists()
    for address in ("sqlite://:memory:", "sqlite:///:memory:"):
        await (await open_store(address)).close()
    for address in ("", "contrec.db", "sqlite://", "sqlite:///", "sqlite://host/x.db", "redis://", "mysql://x"):
        with pytest.raises(ValueError, match=r"no store|no file"):
            await open_store(address)
