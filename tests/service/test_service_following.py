"""Which version should be served: what the file of the folder and the pointer of the store say, and what moved last."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from model.bundle import Current, activate, current, rollback
from service import core, following
from service.schemas import BundleState
from service.stores.contract import Pointer, StoreUnavailable
from tests.redis_server import RedisServer
from tests.service.test_service_swap import publish, read_no_more, serving, top, until_top


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "FOLLOW_S", 0.05)


@pytest.fixture
def store(tmp_path: Path) -> dict[str, str]:
    """The setting of one store for all who are served in a test."""
    return {"store": f"sqlite:///{tmp_path / 'shared.db'}"}


@pytest.fixture
def versions(tmp_path: Path) -> tuple[str, str, str]:
    """Three versions; the file names the first."""
    one, two, three = (publish(tmp_path, n) for n in (1, 2, 3))
    activate(tmp_path, "movies", one)
    return one, two, three


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the containers, where only the trainer may write to the folder."""

    def refuse(*_: object) -> None:
        raise PermissionError("Read-only file system")

    monkeypatch.setattr(following, "set_current", refuse)


async def test_the_admin_activates_and_rolls_back_and_every_replica_follows(
    tmp_path: Path, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas with one store and folders of their own, as on two machines."""
    names = [(publish(tmp_path / folder, 1), publish(tmp_path / folder, 2)) for folder in ("a", "b")]
    assert names[0] == names[1]
    one, two = names[0]
    for folder in ("a", "b"):
        activate(tmp_path / folder, "movies", one)
    async with serving(tmp_path / "a", **store) as here, serving(tmp_path / "b", **store) as there:
        await here.service.following.activate(two)
        assert await top(here) == "i2"
        await until_top(there, "i2")
        with monkeypatch.context() as patch:
            read_no_more(patch)
            await here.service.following.rollback()
            assert await top(here) == "i1"
        await until_top(there, "i1")
        await there.service.following.rollback()  # twice is where one began, whoever asks
        await until_top(here, "i2")
    async with serving(tmp_path / "b", **store) as late:
        assert await top(late) == "i2"


async def test_a_version_that_was_activated_while_nobody_looked_counts(
    tmp_path: Path, versions: tuple[str, str, str], store: dict[str, str]
) -> None:
    _, two, three = versions
    async with serving(tmp_path, **store) as run:
        await run.service.following.activate(two)
    activate(tmp_path, "movies", three)
    async with serving(tmp_path, **store) as run:
        assert await top(run) == "i3"


FILE = Current("v3", 30.0, "v1", 10.0)


@pytest.mark.parametrize(
    ("file", "pointer", "counts"),
    [
        (None, None, None),
        (None, Pointer("v2", "v1", 20.0), Pointer("v2", "v1", 20.0)),
        (FILE, None, Pointer("v3", "v1", 30.0)),
        (FILE, Pointer("v2", "v1", 40.0), Pointer("v2", "v1", 40.0)),
        (FILE, Pointer("v3", "v2", 30.0), Pointer("v3", "v2", 30.0)),
        (FILE, Pointer("v2", "v0", 20.0), Pointer("v3", "v2", 30.0)),
        (FILE, Pointer("v2", "v0", 5.0), Pointer("v3", "v1", 30.0)),  # the file had moved since
        (FILE, Pointer("v3", "v2", 20.0), Pointer("v3", "v2", 30.0)),  # the file said again what the pointer had said
        (Current("v3", 30.0), Pointer("v3", "v2", 20.0), Pointer("v3", "v2", 30.0)),
        (Current("v3", 30.0), None, Pointer("v3", None, 30.0)),
    ],
)
def test_what_moved_last_counts_and_what_counted_before_is_the_way_back(
    file: Current | None, pointer: Pointer | None, counts: Pointer | None
) -> None:
    assert following.latest(file, pointer) == counts


async def test_the_admin_goes_back_to_what_was_served_before_whoever_moved_it(
    tmp_path: Path, versions: tuple[str, str, str]
) -> None:
    _, two, three = versions
    async with serving(tmp_path) as run:
        await run.service.following.activate(two)
        activate(tmp_path, "movies", three)
        await until_top(run, "i3")
        await run.service.following.rollback()
        assert await top(run) == "i2"
        await run.service.following.rollback()
        assert await top(run) == "i3"


async def test_a_rollback_in_the_folder_holds_for_a_replica_that_starts_later(
    tmp_path: Path, store: dict[str, str]
) -> None:
    one, two = publish(tmp_path, 1), publish(tmp_path, 2)
    activate(tmp_path, "movies", one)
    async with serving(tmp_path, **store) as run:
        await run.service.following.activate(two)
        rollback(tmp_path, "movies")
        await until_top(run, "i1")
        async with serving(tmp_path, **store) as late:
            assert await top(late) == "i1"
            await asyncio.sleep(0.3)  # several looks later, too
            assert [await top(late), await top(run)] == ["i1", "i1"]


@pytest.mark.usefixtures("read_only")
async def test_a_folder_that_is_not_ours_to_write_follows_the_pointer_and_then_the_folder(
    tmp_path: Path, versions: tuple[str, str, str], store: dict[str, str]
) -> None:
    one, two, three = versions
    async with serving(tmp_path, **store) as run:
        await run.service.following.activate(two)
        async with serving(tmp_path, **store) as late:
            assert await top(late) == "i2"
        activate(tmp_path, "movies", one)  # what the folder said all the time, said again
        await until_top(run, "i1")
        activate(tmp_path, "movies", three)
        await until_top(run, "i3")
        await run.service.following.activate(two)
        activate(tmp_path, "movies", one)
        await until_top(run, "i1")
        await run.service.following.rollback()
        assert await top(run) == "i2"


async def test_what_the_store_would_not_keep_holds_for_this_replica(tmp_path: Path, own_redis: RedisServer) -> None:
    one, two = publish(tmp_path, 1), publish(tmp_path, 2)
    activate(tmp_path, "movies", one)
    async with serving(tmp_path, store=own_redis.url) as run:
        own_redis.stop()
        with pytest.raises(StoreUnavailable):
            await run.service.following.activate(two)
        await asyncio.sleep(0.3)
        assert await top(run) == "i2"
        own_redis.start()
        while not run.service.guard.reads.ok:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert await top(run) == "i2"


@pytest.mark.usefixtures("read_only")
async def test_what_the_folder_said_before_may_be_gone(
    tmp_path: Path, versions: tuple[str, str, str], store: dict[str, str]
) -> None:
    """The file says one, the admin went on to two and three; then one was deleted to save space."""
    one, two, three = versions
    async with serving(tmp_path, **store) as run:
        await run.service.following.activate(two)
        shutil.rmtree(tmp_path / "movies" / one)
        await run.service.following.activate(three)
        assert await top(run) == "i3"
        await asyncio.sleep(0.3)
        assert (await run.client.get("/bundle")).json()["reason"] is None
        await run.service.following.rollback()
        assert await top(run) == "i2"
    async with serving(tmp_path, **store) as late:
        assert await top(late) == "i2"


async def test_a_file_that_cannot_be_read_is_a_reason_and_is_read_once_it_can_be(tmp_path: Path) -> None:
    one = publish(tmp_path, 1)
    unreadable = tmp_path / "movies" / "current"
    unreadable.mkdir()  # root reads what anybody may not, but nobody reads a folder
    async with serving(tmp_path) as run:
        ready = await run.client.get("/readyz")
        assert (ready.status_code, run.service.bundles.state) == (200, BundleState.REFUSED)
        assert "current cannot be read: Is a directory" in (await run.client.get("/bundle")).json()["reason"]
        unreadable.rmdir()
        activate(tmp_path, "movies", one)
        async with asyncio.timeout(30):
            while run.service.bundles.state is not BundleState.SERVING:
                await asyncio.sleep(0.02)
        assert await top(run) == "i1"


async def test_a_folder_that_hangs_holds_up_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a network does whose server is away."""
    activate(tmp_path, "movies", publish(tmp_path, 1))
    async with serving(tmp_path) as run:
        back, asked = threading.Event(), threading.Event()

        def hang(root: Path, name: str) -> Current | None:
            asked.set()
            assert back.wait(30)
            return current(root, name)

        monkeypatch.setattr(following, "current", hang)
        try:
            assert await asyncio.to_thread(asked.wait, 30)
            assert await asyncio.wait_for(top(run), 10) == "i1"
        finally:
            back.set()
