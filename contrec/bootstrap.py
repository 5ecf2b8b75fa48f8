"""From somebody's files, or from nothing, to a published bundle and a store that knows every history: each step once.

    prepare -> train -> publish -> import the histories          bootstrap: what a fresh installation runs
    export the events -> prepare -> train -> publish             retrain: what a nightly job runs

A step that is done is skipped the next time, so that a container may run this at every start. What was done is kept
in the work folder, by a digest of the source: other files train again, the same ones never do, whatever was published
since. Knows no step from the inside: each is one call into a room.

    built = bootstrap(Path("my-data"), Target(work, bundles, "contrec", "redis://redis:6379/0"), tell)
    path = retrain(target, None, tell)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from contrec.events import export_events, import_events
from contrec.progress import Epochs, Teller, timed
from model.bundle import activate, active, verify
from model.catalogue import Catalogue, Item
from service.stores import open_store
from service.stores.contract import StoredItem
from training.data.prepare import overlooked, prepare
from training.data.prepared import Prepared
from training.data.table import ITEM_COLUMNS
from training.recipe import load_recipe

RECIPE = "contrec"
SIZE_OF_DEMO, SIZE = "tiny", "small"
SEED = 0
TIMEOUT = 10.0  # seconds: nobody waits for an answer here
DONE = "bootstrap.json"

# By the files it holds: the sources that are told apart without being named. Anything else is a table.
KNOWN = {"u.data": "ml-100k", "movies.csv": "ml-latest-small"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where things go. work: prepared data and notes. name: the bundle's. store: its address.

    size: of the recipe; None chooses. overrides: part.key=value over its own.
    """

    work: Path
    bundles: Path
    name: str
    store: str
    size: str | None = None
    overrides: tuple[str, ...] = ()


def bootstrap(source: Path | None, target: Target, tell: Teller) -> Path:
    """Returns the folder of the version that came of the source, or of the active one if that is older news.

    source: a folder or file as docs/data.md describes it; None, or an empty folder, invents the demo's, but never over
    somebody's own: what was made of those stays. Raises the rooms' errors, each one sentence, and then whatever was
    served before still is.
    """
    target.work.mkdir(parents=True, exist_ok=True)
    if source is not None and source.is_dir() and all(path.name.startswith(".") for path in source.iterdir()):
        source = None
    note, done = target.work / DONE, _done(target.work)
    forgotten = source is None and done.get("demo") is False
    size = target.size or (SIZE_OF_DEMO if source is None and not forgotten else SIZE)
    if forgotten:
        tell("no data is named: what was made of yours stays, since the demo is only for where there is nothing")
    elif done.get("source") != (digest := _digest(source, target.name, size, target.overrides)):
        done = {"source": digest, "demo": source is None}
    folder = target.work / "prepared"

    version = done.get("version")
    bundle = active(target.bundles, target.name)
    if version is None or bundle is None:
        if forgotten:
            prepared = Prepared.read(folder)
        else:
            with timed(tell, "inventing the demo's films and viewers" if source is None else f"reading {source}"):
                prepared = prepare(_kind(source), source, folder)
            _warn(prepared, tell)
        bundle = _trained(folder, prepared, target, size, tell)
        done["version"] = bundle.name
        _keep(note, done)
    else:
        verify(bundle)  # what is damaged is told now, not by a service that answers popular items
    if done.get("store") != target.store or asyncio.run(_is_empty(target.store)):
        with timed(tell, "importing the histories"):
            # The table itself, where there is one: it says of each event which type it is.
            known = folder if source is None or _kind(source) != "table" else source
            appended = asyncio.run(import_events(known, target.store, passing=tell.passing))
            tell(f"  {appended.accepted} events imported, {appended.repeated} were already there")
        done["store"] = target.store
        _keep(note, done)
    tell(f"active: {target.name}/{bundle.name}")
    return bundle


def _trained(folder: Path, prepared: Prepared, target: Target, size: str, tell: Teller) -> Path:
    """The active version if it was trained on this very data by this recipe, else a new one, trained and published.

    Training that was interrupted goes on where it was, as long as the data is the same.
    """
    wanted = load_recipe(RECIPE, size, target.overrides).model_dump(mode="json")  # a slip is told before torch loads
    found = active(target.bundles, target.name)
    if found is not None:
        manifest = verify(found)
        if (manifest.recipe_config, manifest.data_fingerprint) == ({"seed": SEED, **wanted}, prepared.fingerprint):
            return found
    import torch

    from training.train import train

    runs = folder.with_name(f"{folder.name}.runs")
    threads = torch.get_num_threads()
    if size == "tiny":
        # Matrices this small gain nothing from a second thread; on a machine that is busy they wait for it, sevenfold.
        torch.set_num_threads(1)
    try:
        with timed(tell, f"training the {size} {RECIPE} recipe"), Epochs(tell) as progress:
            path = train(
                folder,
                RECIPE,
                size,
                bundles=target.bundles,
                name=target.name,
                seed=SEED,
                overrides=target.overrides,
                progress=progress,
                runs=runs,
            )
            activate(target.bundles, target.name, path.name)
            shutil.rmtree(runs)  # and with it what runs on earlier data have left
    finally:
        torch.set_num_threads(threads)
    return path


def retrain(target: Target, items: Path | None, tell: Teller) -> Path:
    """Trains on every event that the store holds, publishes the bundle and returns its folder.

    items: an items table; None describes the items as the active bundle does, and as they were changed since (PUT
    /items); what neither knows has its id alone. Raises the rooms' errors.
    """
    folder = target.work / "retrain"
    folder.mkdir(parents=True, exist_ok=True)
    events = folder / "interactions.csv"
    with timed(tell, "exporting the store's events"):
        tell(f"  {asyncio.run(export_events(target.store, events, passing=tell.passing))} events")
    if items is None and (known := _known_items(target)):
        items = folder / "items.parquet"  # takes a text of any length
        _write_items(known, items)
    prepared = prepare("table", events, target.work / "retrained", items=items)
    _warn(prepared, tell)
    size = target.size or (SIZE_OF_DEMO if _done(target.work).get("demo") else SIZE)
    return _trained(target.work / "retrained", prepared, target, size, tell)


def _warn(prepared: Prepared, tell: Teller) -> None:
    for sentence in overlooked(prepared.facts):
        tell(f"  {sentence}")


def _kind(source: Path | None) -> str:
    if source is None:
        return "synthetic"
    return next((kind for name, kind in KNOWN.items() if (source / name).is_file()), "table")


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))


def _digest(source: Path | None, name: str, size: str, overrides: tuple[str, ...]) -> str:
    """Of the names and bytes of the source's files and of how they are trained."""
    digest = hashlib.sha256(json.dumps([name, RECIPE, size, SEED, *overrides]).encode())
    for path in [] if source is None else _files(source) if source.is_dir() else [source]:
        digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _done(work: Path) -> dict[str, Any]:
    """What bootstrap has done in this folder. source: a digest; demo: whether it was the demo's; version, store."""
    note = work / DONE
    return dict(json.loads(note.read_text(encoding="utf-8"))) if note.is_file() else {}


def _keep(note: Path, done: dict[str, Any]) -> None:
    unfinished = note.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(done), encoding="utf-8")
    unfinished.replace(note)


async def _is_empty(address: str) -> bool:
    store = await open_store(address, timeout=TIMEOUT)
    try:
        return not await store.popular(1)
    finally:
        await store.close()


def _known_items(target: Target) -> list[Item]:
    """The active bundle's items, with what was said of them since. One that was withdrawn stays: the store hides it."""
    bundle = active(target.bundles, target.name)
    found: dict[str, Item] = {}
    if bundle is not None:
        found = {item.item_id: item for item in Catalogue.read(bundle / "catalogue.jsonl")}
    for one in asyncio.run(_said_since(target.store)):
        if not one.withdrawn and one.item_id.strip():  # a blank id can be put, and no table has it
            found[one.item_id] = Item(one.item_id, one.title, one.categories, one.text)
    return list(found.values())


async def _said_since(address: str) -> list[StoredItem]:
    store = await open_store(address, timeout=TIMEOUT)
    try:
        return (await store.read_items(0))[1]
    finally:
        await store.close()


def _write_items(items: Iterable[Item], out: Path) -> None:
    rows = [(item.item_id, item.title, list(item.categories), item.text) for item in items]
    schema = dict.fromkeys(ITEM_COLUMNS, pl.String()) | {"categories": pl.List(pl.String)}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(out)
