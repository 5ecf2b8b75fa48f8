"""What a user costs a store: bytes on disk (SQLite) and in memory (Redis, a real server of its own), by events.

    .venv/bin/python bench/serving/bytes_per_user.py --users 2000 --events 50

Prints bytes a user with that many events, bytes an event, and what cached user tokens add: by default those of the
`small` recipe, a condition of width 128 of either half and the last ten items.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import redis

from model.recommender import UserTokens
from service.stores.contract import Event, Store, append_all
from service.stores.redis import RedisStore
from service.stores.sqlite import SqliteStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--floats", type=int, default=128 + 128 + 10, help="of the tokens")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_sqlite(given, Path(folder) / "store.db"))
        if shutil.which("redis-server") is None:
            sys.stdout.write("redis-server is not on the PATH: Redis was left out\n")
        else:
            asyncio.run(_redis(given, Path(folder)))


def _events(given: argparse.Namespace) -> Iterator[Event]:
    """Ids as shops have them: a number for users and items, a UUID for events."""
    draw = np.random.default_rng(0)
    for event in range(given.events):
        for user in range(given.users):
            item = f"B{int(draw.integers(given.items)):09d}"
            yield Event(f"{draw.bytes(16).hex()}", f"user-{user:07d}", item, "click", None, 1.76e9 + event * 3600.5)


async def _tokens(given: argparse.Namespace, store: Store) -> None:
    nothing = np.zeros(0, dtype=np.float32)
    data = UserTokens(np.zeros(given.floats, dtype=np.float32), nothing).to_bytes()
    for user in range(given.users):
        await store.write_tokens(f"user-{user:07d}", "shop/3f2a90c11d7e", 1, data, ttl=3600)


async def _sqlite(given: argparse.Namespace, path: Path) -> None:
    store = await SqliteStore.open(path, timeout=10)
    sizes = []
    for step in (lambda: append_all(store, _events(given)), lambda: _tokens(given, store)):
        await step()
        await store._run(lambda: store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        sizes.append(path.stat().st_size)
    await store.close()
    _tell(given, "SQLite, on disk", 0, *sizes)


async def _redis(given: argparse.Namespace, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as plain:
            while True:
                try:
                    empty = int(plain.info("memory")["used_memory"])
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            store = RedisStore.connect(f"redis://127.0.0.1:{port}/0", timeout=10)
            sizes = []
            for step in (lambda: append_all(store, _events(given)), lambda: _tokens(given, store)):
                await step()
                sizes.append(int(plain.info("memory")["used_memory"]))
            await store.close()
        _tell(given, "Redis, in memory", empty, *sizes)
    finally:
        server.terminate()
        server.wait()


def _tell(given: argparse.Namespace, name: str, empty: int, events: int, tokens: int) -> None:
    user = (events - empty) / given.users
    sys.stdout.write(
        f"{name:17} {user:8.0f} bytes a user with {given.events} events, {user / given.events:5.0f} an event, "
        f"{(tokens - events) / given.users:6.0f} more for tokens of {given.floats} numbers\n"
    )


if __name__ == "__main__":
    main()
