"""Everybody at once: the plain recommendation of each, in one file, the same whether or not it was interrupted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contrec.everyone import Audience, Plan, Viewer, of_prepared, of_store, recommend_all
from model import load_recommender
from model.bundle import activate
from model.catalogue import Catalogue, Item
from model.recommender import Popular
from service.stores import open_store
from service.stores.contract import Event, StoredItem, append_all
from tests.service.toy import Circle, running
from training.data.clean import Cleaning
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.synthetic import Sizes
from training.train import train

PLAN = Plan(bundle="toy/1", k=5, shard=40, batch=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prepared folder of 150 users and the folder of bundles with one small contrec bundle, `toy`."""
    folder = tmp_path_factory.mktemp("everyone")
    prepare("synthetic", None, folder / "prepared", sizes=Sizes(users=150, items=100, events=12))
    epochs = ["tokenizer.epochs=1", "trunk.epochs=1", "head.epochs=1"]
    path = train(folder / "prepared", "contrec", "tiny", bundles=folder / "bundles", name="toy", overrides=epochs)
    activate(folder / "bundles", "toy", path.name)
    return folder / "prepared", path


@pytest.fixture(scope="module")
def audience(world: tuple[Path, Path]) -> Audience:
    return of_prepared(Prepared.read(world[0]), load_recommender(world[1]))


def test_everybody_gets_what_they_would_get_alone(audience: Audience, tmp_path: Path) -> None:
    told = recommend_all(audience, tmp_path / "a.parquet", PLAN)
    assert (told.users, told.already, told.rows) == (150, 0, 750)
    assert re.fullmatch(r"750 recommendations for 150 users in \d+\.\d s, \d+ users/s", str(told))
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame.schema == {"user_id": pl.String, "rank": pl.UInt16, "item_id": pl.String, "score": pl.Float32}
    assert frame["user_id"].unique(maintain_order=True).to_list() == [viewer.user_id for viewer in audience.viewers]
    for viewer, (_, own) in zip(audience.viewers, frame.group_by("user_id", maintain_order=True), strict=True):
        rows, scores = audience.recommender.recommend(viewer.history, 5)
        assert own["item_id"].to_list() == audience.recommender.catalogue.ids(rows)
        assert own["rank"].to_list() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(
            own["score"].to_numpy(), scores, rtol=1e-4, atol=1e-5
        )  # a sum of logarithms may lie near 0
        assert not set(own["item_id"]) & set(audience.recommender.catalogue.ids(viewer.seen))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_exploring_is_each_users_own_and_repeats(audience: Audience, tmp_path: Path) -> None:
    twins = [replace(audience.viewers[0], user_id=name) for name in ("a", "b")]
    plan = replace(PLAN, explore=1.0, seed=3)
    for name in ("x", "y"):
        recommend_all(replace(audience, viewers=twins), tmp_path / f"{name}.parquet", plan)
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()
    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert frame.filter(user_id="a")["score"].to_list() != frame.filter(user_id="b")["score"].to_list()
    recommend_all(audience, tmp_path / "exploring.parquet", plan)
    recommend_all(audience, tmp_path / "plain.parquet", PLAN)
    exploring, plain = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("exploring", "plain"))
    assert exploring["user_id"].to_list() == plain["user_id"].to_list()
    assert exploring["item_id"].to_list() != plain["item_id"].to_list(), "nobody of 150 got another list"


def test_an_interrupted_run_goes_on_and_gives_the_same_file(audience: Audience, tmp_path: Path) -> None:
    recommend_all(audience, tmp_path / "whole.parquet", PLAN)

    def interrupt(sentence: str) -> None:
        if sentence.startswith("96 of 150"):  # in the middle of the third shard
            raise KeyboardInterrupt

    out = tmp_path / "broken.parquet"
    with pytest.raises(KeyboardInterrupt):
        recommend_all(audience, out, PLAN, passing=interrupt)
    assert not out.exists()
    with pytest.raises(ValueError, match="was begun with another bundle, other users, other items or other settings"):
        recommend_all(audience, out, replace(PLAN, k=6))
    with pytest.raises(ValueError, match="other users"):
        recommend_all(replace(audience, viewers=audience.viewers[1:]), out, PLAN)
    put = audience.recommender.with_items([replace(audience.recommender.catalogue[0], categories=("Denied",))])
    with pytest.raises(ValueError, match="other items"):
        recommend_all(replace(audience, recommender=put), out, PLAN)
    told = recommend_all(audience, out, PLAN)
    assert told.already == 80
    assert "(80 of them by an earlier run)" in str(told)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "broken.parquet.parts").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_gives_the_same_file(world: tuple[Path, Path], tmp_path: Path) -> None:
    prepared, bundle = world
    common = ("--name", "toy", "--bundles", str(bundle.parents[1]), "--prepared", str(prepared), "--shard", "2")

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "contrec.cli", "recommend", "--all-users", *common, "--out", str(tmp_path / out)]

    done = subprocess.run(command("whole.parquet"), capture_output=True, text=True, check=True)
    assert re.search(r"1500 recommendations for 150 users in .* users/s, in .*whole\.parquet", done.stdout)
    child = subprocess.Popen(command("killed.parquet"), start_new_session=True, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed.parquet.parts"
    while child.poll() is None and len(list(parts.glob("[0-9]*.parquet"))) < 3:
        time.sleep(0.001)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.parquet").exists()
    done = subprocess.run(command("killed.parquet"), capture_output=True, text=True, check=True)
    assert "of them by an earlier run" in done.stdout
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    lacking = subprocess.run([*command("x")[:5], "--name", "toy", *common[2:4]], capture_output=True, text=True)
    assert (lacking.returncode, lacking.stderr) == (
        2,
        "contrec: --all-users needs --out FILE.parquet, and takes no history\n",
    )


@pytest.fixture
def popular() -> Popular:
    """Four items, the first the most popular, in categories a and b."""
    items = [Item(f"i{n}", categories=("a",) if n < 2 else ("b",)) for n in range(4)]
    return Popular(Catalogue(items), np.array([4, 3, 2, 1]))


def _lists(path: Path) -> dict[str, list[str]]:
    return dict(pl.read_parquet(path).group_by("user_id", maintain_order=True).agg("item_id").iter_rows())


def test_categories_are_allowed_and_denied(popular: Popular, tmp_path: Path) -> None:
    nobody = np.zeros(0, dtype=np.int64)
    audience = Audience(popular, [Viewer("u", nobody, np.array([2])), Viewer("v", nobody, np.arange(4))])
    out = tmp_path / "x.parquet"
    recommend_all(audience, out, Plan(bundle="p/1", allow=("b",)))
    assert _lists(out) == {"u": ["i3"]}  # v has seen everything
    recommend_all(audience, out, Plan(bundle="p/1", deny=("b",)))
    assert _lists(out) == {"u": ["i0", "i1"]}
    with pytest.raises(ValueError, match="no item has the category 'c'"):
        recommend_all(audience, out, Plan(bundle="p/1", deny=("c",)))
    with pytest.raises(ValueError, match=r"x.csv must end in .parquet"):
        recommend_all(audience, tmp_path / "x.csv", Plan(bundle="p/1"))
    recommend_all(replace(audience, viewers=()), out, Plan(bundle="p/1"))
    assert len(pl.read_parquet(out)) == 0


async def test_the_users_of_a_store_are_those_that_the_service_would_answer(popular: Popular, tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/a.db")
    try:
        told = [
            ("v", "i1", "view"),
            ("u", "i2", "view"),
            ("u", "i0", "dislike"),
            ("u", "new", "view"),
            ("u", "?", "like"),
        ]
        events = [Event(f"e{n}", user, item, type=kind, time=float(n)) for n, (user, item, kind) in enumerate(told)]
        await append_all(store, events)
        await store.write_items([StoredItem("new", "New", ("b",)), StoredItem("i3", withdrawn=True)])
        audience = await of_store(store, popular)
    finally:
        await store.close()
    assert audience.unknown == 1
    ids = audience.recommender.catalogue.ids
    assert [(v.user_id, ids(v.history), sorted(ids(v.seen))) for v in audience.viewers] == [
        ("u", ["i2", "new"], ["i0", "i2", "new"]),
        ("v", ["i1"], ["i1"]),
    ]
    await asyncio.to_thread(recommend_all, audience, tmp_path / "x.parquet", Plan(bundle="p/1"))
    assert _lists(tmp_path / "x.parquet") == {"u": ["i1"], "v": ["i0", "i2", "new"]}


async def test_the_users_of_a_store_get_the_lists_that_the_service_gives_them(tmp_path: Path) -> None:
    """One who likes and dislikes, one who likes, one who only dislikes, and one of whose items none is known."""
    circle = Circle()
    told = {
        "ann": [("i3", "like"), ("i9", "dislike"), ("i20", "view"), ("i22", "dislike")],
        "bob": [("i3", "like"), ("i20", "view")],
        "cid": [("i0", "dislike")],
        "dee": [("?", "view")],
    }
    async with running(circle, store=f"sqlite:///{tmp_path}/a.db") as run:
        events = [
            {"event_id": f"{user}{n}", "user_id": user, "item_id": item, "type": kind, "time": n}
            for user, own in told.items()
            for n, (item, kind) in enumerate(own)
        ]
        assert (await run.client.post("/events", json={"events": events})).json()["accepted"] == len(events)
        alone = {user: await run.ids(user_id=user, k=8) for user in told}
        audience = await of_store(run.service.store, circle)
    await asyncio.to_thread(recommend_all, audience, tmp_path / "x.parquet", Plan(bundle="circle/1", k=8))
    assert _lists(tmp_path / "x.parquet") == alone
    assert alone["ann"] != alone["bob"]
    assert alone["ann"][:2] != ["i21", "i23"], "the nearest are like what ann dislikes"


def test_what_a_user_did_not_like_is_seen(tmp_path: Path, popular: Popular) -> None:
    rows = ["u,i1,1,5", "u,i2,2,5", "u,i0,3,1", "v,i0,1,5", "v,gone,2,5"]
    (tmp_path / "x.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]) + "\n")
    prepared = prepare("table", tmp_path / "x.csv", tmp_path / "out", cleaning=Cleaning(threshold=3))
    audience = of_prepared(prepared, popular)
    assert audience.unknown == 1
    recommend_all(audience, tmp_path / "x.parquet", Plan(bundle="p/1"))
    assert _lists(tmp_path / "x.parquet") == {"u": ["i3"], "v": ["i1", "i2", "i3"]}
