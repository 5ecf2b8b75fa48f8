"""The demo: invented films and their viewers, from nothing to a recommendation over HTTP, in one process.

    prepare -> train the smallest contrec recipe -> publish -> import the histories -> serve -> ask

Everything lies under one folder (.demo). A step that is done is skipped the next time; what is damaged there is told,
and removing the folder begins anew. Knows no step from the inside: each is one call into a room.

    built = build(Path(".demo"), tell)
    show(built, host="127.0.0.1", port=8000, tell)
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from contrec.events import import_events
from contrec.progress import Epochs, Teller
from contrec.serving import Unready, address_of, free_port, serve
from model.bundle import activate, active, verify
from training.data.prepare import prepare
from training.data.prepared import Prepared

NAME = "demo"
RECIPE, SIZE = "contrec", "tiny"
SEED = 0
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Built:
    """What the steps before serving leave behind. user: one whose history is in the store; watched: its last titles."""

    bundles: Path
    bundle: Path
    store: str
    user: str
    watched: tuple[str, ...]


def build(folder: Path, tell: Teller) -> Built:
    """Makes the data, the bundle and the store under folder, skipping what is there. Raises the rooms' errors."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared = _prepared(folder / "prepared", tell)
    bundle = _trained(folder / "prepared", prepared.fingerprint, folder / "bundles", tell)
    database = folder / "contrec.db"
    store = f"sqlite:///{database}"
    _imported(folder, prepared.fingerprint, store, database, tell)
    watched = tuple(prepared.catalogue[int(row)].title for row in prepared.history(0)[-SHOWN:])
    return Built(folder / "bundles", bundle, store, prepared.users[0], watched)


@contextmanager
def _step(tell: Teller, what: str) -> Iterator[None]:
    start = time.monotonic()
    tell(what)
    yield
    tell(f"  done in {time.monotonic() - start:.1f} s")


def _prepared(folder: Path, tell: Teller) -> Prepared:
    if folder.is_dir():
        return Prepared.read(folder)
    with _step(tell, "making the demo's data: invented films and what their viewers watched"):
        return prepare("synthetic", None, folder)


def _trained(prepared: Path, fingerprint: str, bundles: Path, tell: Teller) -> Path:
    found = active(bundles, NAME)
    if found is not None:
        manifest = verify(found)
        if (manifest.recipe, manifest.data_fingerprint) == (f"{RECIPE}/{SIZE}", fingerprint):
            return found
    import torch

    from training.train import train

    threads = torch.get_num_threads()
    # Matrices this small gain nothing from a second thread; on a machine that is busy they wait for it, sevenfold.
    torch.set_num_threads(1)
    try:
        with _step(tell, f"training the {SIZE} {RECIPE} recipe (once)"), Epochs(tell) as progress:
            path = train(prepared, RECIPE, SIZE, bundles=bundles, name=NAME, seed=SEED, progress=progress)
            activate(bundles, NAME, path.name)
    finally:
        torch.set_num_threads(threads)
    return path


def _imported(folder: Path, fingerprint: str, store: str, database: Path, tell: Teller) -> None:
    done = folder / "imported"
    if database.exists() and done.is_file() and done.read_text(encoding="utf-8") == fingerprint:
        return
    with _step(tell, "importing the histories into the embedded store"):
        appended = asyncio.run(import_events(folder / "prepared", store, passing=tell.passing))
        tell(f"  {appended.accepted} events imported, {appended.repeated} were already there")
        done.write_text(fingerprint, encoding="utf-8")


def show(built: Built, host: str, port: int, tell: Teller) -> int:
    """Serves the demo until Ctrl-C, and returns the exit status; once ready, shows how to ask it and what it said."""
    from service.settings import load_settings

    settings = load_settings(
        host=host,
        port=port,
        bundles=built.bundles,
        bundle=NAME,
        store=built.store,
        log_level="warning",
        **_metrics(host, tell),
    )
    address = address_of(host, port)

    def ask(client: httpx.Client) -> None:
        request = json.dumps({"user_id": built.user, "k": SHOWN})
        answer = client.post("/recommend", content=request, headers={"content-type": "application/json"})
        if answer.status_code != httpx.codes.OK:
            raise Unready(f"{answer.status_code} {answer.text}")
        tell(f"ready: {address}  (its page: {address}/docs, Ctrl-C ends it)")
        tell(f"{built.user} watched last: {', '.join(built.watched)}")
        tell(f"curl -s {address}/recommend -H 'content-type: application/json' -d '{request}'")
        tell(answer.text)

    status = serve(settings, ask)
    tell("stopped")
    return status


def _metrics(host: str, tell: Teller) -> dict[str, int]:
    """Metrics go to their own port; a demo does without them where something else has it."""
    from service.settings import load_settings

    port = load_settings().metrics_port
    if port == 0:
        return {}
    try:
        free_port(host, port)
    except ValueError:
        tell(f"port {port} is taken; the demo goes without metrics")
        return {"metrics_port": 0}
    return {}
