"""bootstrap and retrain on a real store: what a container runs at every start does its work once, and only once."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from contrec.bootstrap import DONE, Target, bootstrap, retrain
from contrec.events import import_events
from contrec.progress import Teller
from model import load_recommender
from model.bundle import BundleError, active, list_bundles, read_manifest
from service.stores import open_store
from service.stores.contract import Event, StoredItem
from tests.redis_server import RedisServer
from training.data.synthetic import Sizes, generate


def write_table(folder: Path, users: int = 30) -> Path:
    """Invented films as somebody's two CSV files."""
    folder.mkdir(exist_ok=True)
    world = generate(Sizes(users=users, items=40, events=6))
    lines = ["user_id,item_id,timestamp"]
    for user, (rows, times) in enumerate(zip(world.histories, world.times, strict=True)):
        lines += [f"u{user},{row + 1},{time}" for row, time in zip(rows, times, strict=True)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = ["item_id,title,categories", *(f"{row + 1},Film {row + 1},Drama" for row in range(40))]
    (folder / "items.csv").write_text("\n".join(items) + "\n", encoding="utf-8")
    return folder


def told(source: Path | None, target: Target) -> str:
    out = io.StringIO()
    bootstrap(source, target, Teller(out))
    return out.getvalue()


async def history(store: str, user_id: str) -> tuple[str, ...]:
    opened = await open_store(store)
    try:
        return (await opened.read_user(user_id, "none")).history
    finally:
        await opened.close()


async def append(store: str, *events: Event) -> None:
    opened = await open_store(store)
    try:
        await opened.append(events)
    finally:
        await opened.close()


def target_in(folder: Path, store: str | None = None) -> Target:
    return Target(folder / "work", folder / "bundles", "shop", store or f"sqlite:///{folder / 'shop.db'}", "tiny")


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that was bootstrapped once; training is what costs, so every test begins with a copy."""
    folder = tmp_path_factory.mktemp("first-day")
    out = told(write_table(folder / "data"), target_in(folder))
    assert "training" in out
    assert "events imported, 0 were already there" in out
    return folder


@pytest.fixture
def shop(first_day: Path, tmp_path: Path) -> Path:
    shutil.copytree(first_day, tmp_path, dirs_exist_ok=True)
    assert "training" not in told(tmp_path / "data", target_in(tmp_path))
    return tmp_path


def served(folder: Path) -> Path:
    bundle = active(folder / "bundles", "shop")
    assert bundle is not None
    return bundle


def test_files_become_a_bundle_and_histories_once(shop: Path) -> None:
    target = target_in(shop)
    assert len(asyncio.run(history(target.store, "u0"))) > 1
    assert load_recommender(served(shop)).catalogue[0].title == "Film 1"
    again = told(shop / "data", target)
    assert again == f"active: shop/{served(shop).name}\n", "the second time there is nothing to do"


def test_a_start_that_forgets_to_name_the_data_does_not_put_the_demo_over_it(shop: Path) -> None:
    """DATA=./my-data docker compose up, and the next day docker compose up."""
    target, before = target_in(shop), served(shop)
    known = asyncio.run(history(target.store, "u0"))
    for nothing in (None, shop / "empty"):
        (shop / "empty").mkdir(exist_ok=True)
        said = told(nothing, target)
        assert "no data is named: what was made of yours stays" in said
        assert f"active: shop/{before.name}\n" in said
        assert "training" not in said
        assert "imported" not in said
    assert asyncio.run(history(target.store, "u0")) == known
    assert told(shop / "data", target) == f"active: shop/{before.name}\n", "and named again it is known"
    (shop / "shop.db").unlink()
    assert "events imported, 0 were already there" in told(None, target)
    assert asyncio.run(history(target.store, "u0")) == known, "an empty store is filled from the same data"


@pytest.mark.redis
def test_an_empty_store_is_filled_again_without_training(shop: Path, own_redis: RedisServer) -> None:
    target = target_in(shop, own_redis.url)
    again = told(shop / "data", target)
    assert "training" not in again
    assert "events imported, 0 were already there" in again
    assert "imported" not in told(shop / "data", target)
    with redis.Redis(port=own_redis.port) as plain:
        plain.flushall()
    assert "events imported, 0 were already there" in told(shop / "data", target)


@pytest.mark.slow
def test_what_was_published_since_stays_active_and_new_files_train_again(shop: Path) -> None:
    target, first = target_in(shop), served(shop)
    asyncio.run(append(target.store, *(Event(f"new{n}", "u0", str(n), time=2e9 + n) for n in range(1, 9))))
    second = retrain(target, None, Teller(io.StringIO()))
    assert served(shop) == second != first
    assert load_recommender(second).catalogue[0].title == "Film 1", "items are described as before"
    told(shop / "data", target)
    assert served(shop) == second, "a restart does not take the shop back to its first day"

    write_table(shop / "data", users=31)
    assert "training" in told(shop / "data", target)
    assert served(shop) not in (first, second)
    assert len(list_bundles(target.bundles, "shop")) == 3


def test_an_erased_user_does_not_come_back_with_a_restart(shop: Path) -> None:
    target = target_in(shop)

    async def erase() -> None:
        store = await open_store(target.store)
        await store.erase("u0")
        await store.close()

    asyncio.run(erase())
    told(shop / "data", target)
    assert asyncio.run(history(target.store, "u0")) == ()


def test_what_was_left_out_is_told_and_a_folder_of_folders_is_no_invitation_to_the_demo(tmp_path: Path) -> None:
    target = target_in(tmp_path)
    (tmp_path / "data" / "ml-1m").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no interactions table"):
        told(tmp_path / "data", target)
    write_table(tmp_path / "data")
    with (tmp_path / "data" / "interactions.csv").open("a", encoding="utf-8") as file:
        file.write("u0,1,03/01/2025\n")
    few = replace(target, overrides=("trunk.epochs=1", "tokenizer.epochs=1", "head.epochs=0", "text_half.epochs=0"))
    assert "rows were rejected: line" in told(tmp_path / "data", few)


def test_types_of_a_table_come_into_the_store_as_an_import_brings_them(tmp_path: Path) -> None:
    data = write_table(tmp_path / "data")
    lines = (data / "interactions.csv").read_text(encoding="utf-8").splitlines()
    typed = [f"{lines[0]},rating,type", f"{lines[1]},1,rating", *(f"{line},,click" for line in lines[2:])]
    (data / "interactions.csv").write_text("\n".join(typed) + "\n", encoding="utf-8")
    few = ("trunk.epochs=1", "tokenizer.epochs=1", "head.epochs=0", "text_half.epochs=0")
    target = replace(target_in(tmp_path), overrides=few)
    told(data, target)

    async def read() -> tuple[frozenset[str], int]:
        store = await open_store(target.store)
        disliked = (await store.read_user("u0", "none")).disliked
        count = len([event async for _, event in store.events()])
        await store.close()
        return disliked, count

    assert asyncio.run(read()) == ({lines[1].split(",")[1]}, len(lines) - 1)
    again = asyncio.run(import_events(data, target.store))
    assert (again.accepted, again.repeated) == (0, len(lines) - 1), "and the same file is nothing new"


def test_files_that_cannot_be_read_change_nothing(shop: Path) -> None:
    before, note = served(shop), (shop / "work" / DONE).read_text(encoding="utf-8")
    (shop / "data" / "interactions.csv").write_text("user,thing\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"interactions\.csv"):
        told(shop / "data", target_in(shop))
    assert served(shop) == before
    assert json.loads((shop / "work" / DONE).read_text(encoding="utf-8")) == json.loads(note)


def test_a_bundle_that_was_damaged_is_told(shop: Path) -> None:
    (served(shop) / "catalogue.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(BundleError, match=r"catalogue\.jsonl"):
        told(shop / "data", target_in(shop))


def test_the_first_bundle_may_come_of_events_and_items_that_were_sent_to_the_service(tmp_path: Path) -> None:
    target = target_in(tmp_path)
    events = [
        Event(f"{user}-{n}", f"u{user}", f"i{(user + n) % 9}", time=2e9 + n) for user in range(12) for n in range(5)
    ]

    async def send() -> None:
        store = await open_store(target.store)
        await store.append(events)
        third = StoredItem("i3", title="The Third", categories=("Drama",))
        long = StoredItem("i5", title="The Fifth", text="word " * 40_000)
        await store.write_items([third, StoredItem("i4", withdrawn=True), StoredItem(" ", title="Blank"), long])
        await store.close()

    asyncio.run(send())
    catalogue = load_recommender(retrain(target, None, Teller(io.StringIO()))).catalogue
    titles = {f"i{n}": "" for n in range(9)} | {"i3": "The Third", "i5": "The Fifth"}
    assert {item.item_id: item.title for item in catalogue} == titles


@pytest.mark.slow
def test_settings_of_the_recipe_are_taken_and_others_train_again(shop: Path) -> None:
    target, first = target_in(shop), served(shop)
    asyncio.run(append(target.store, Event("new", "u0", "1", time=2e9)))
    few = replace(target, overrides=("trunk.epochs=1", "head.epochs=0"))
    second = retrain(few, None, Teller(io.StringIO()))
    assert second != first
    config = read_manifest(second).recipe_config
    assert (config["trunk"]["epochs"], config["head"]["epochs"]) == (1, 0)
    out = io.StringIO()
    assert retrain(few, None, Teller(out)) == second
    assert "training" not in out.getvalue(), "the same events by the same recipe are the same bundle"
    assert retrain(replace(few, overrides=("trunk.epochs=2", "head.epochs=0")), None, Teller(out)) != second
    assert "training" in out.getvalue()
    with pytest.raises(ValueError, match=r"no setting trunk\.depth"):
        retrain(replace(few, overrides=("trunk.depth=3",)), None, Teller(out))


@pytest.mark.slow
def test_training_that_was_interrupted_goes_on(shop: Path) -> None:
    """A container that is stopped in its first hour of training."""
    write_table(shop / "data", users=32)
    target = target_in(shop)

    class Stopped(Teller):
        def passing(self, event: object) -> None:
            if str(event).startswith("  trunk: epoch 2 "):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bootstrap(shop / "data", target, Stopped(io.StringIO()))
    runs = shop / "work" / "prepared.runs"
    assert len(list(runs.glob("*/tokenizer.safetensors"))) == 1
    first = next(runs.glob("*/tokenizer.safetensors")).stat().st_mtime_ns
    out = io.StringIO()
    seen: list[str] = []

    class Watching(Teller):
        def passing(self, event: object) -> None:
            seen.append(str(event))
            assert next(runs.glob("*/tokenizer.safetensors")).stat().st_mtime_ns == first

    bootstrap(shop / "data", target, Watching(out))
    assert "training" in out.getvalue()
    assert seen
    assert not any(line.startswith("  tokenizer") for line in seen), "it was fitted before the interruption"
    assert not runs.exists()
