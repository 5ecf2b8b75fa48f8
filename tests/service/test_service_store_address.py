"""A password that is kept in a file: out of the address, out of the environment, out of every message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.stores import open_store
from service.stores.contract import Event, StoreUnavailable
from tests.redis_server import RedisServer

PASSWORD = "s3cret/with:signs@and%more"


@pytest.fixture
def locked_redis(redis_command: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, "--requirepass", PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.mark.redis
async def test_the_password_is_read_from_its_file(locked_redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    store = await open_store(f"{locked_redis.url}?password_file={file}", timeout=2.0)
    assert (await store.append([Event("a", "ann", "1")])).accepted == 1
    await store.close()


@pytest.mark.redis
async def test_a_wrong_password_is_a_store_out_of_reach_and_is_not_told(
    locked_redis: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("guessed", encoding="utf-8")
    store = await open_store(f"{locked_redis.url}?password_file={file}", timeout=2.0)
    with pytest.raises(StoreUnavailable) as refused:
        await store.ping()
    assert "guessed" not in str(refused.value)
    await store.close()


async def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"password_file .*nowhere cannot be read: No such file"):
        await open_store(f"redis://127.0.0.1:1/0?password_file={tmp_path}/nowhere")
