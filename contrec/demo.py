"""The demo: invented films and their viewers, from nothing to a recommendation over HTTP, in one process.

    prepare -> train the smallest contrec recipe -> publish -> import the histories -> serve -> ask

Everything lies under one folder (.demo). All but the last two steps are `contrec.bootstrap`'s: one that is done is
skipped the next time; what is damaged there is told, and removing the folder begins anew.

    built = build(Path(".demo"), tell)
    show(built, host="127.0.0.1", port=8000, tell)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx

from contrec.bootstrap import Target, bootstrap
from contrec.progress import Teller
from contrec.serving import Unready, address_of, free_port, serve
from training.data.prepared import Prepared

NAME = "demo"
SIZE = "tiny"
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
    target = Target(folder, folder / "bundles", NAME, f"sqlite:///{folder / 'contrec.db'}", SIZE)
    bundle = bootstrap(None, target, tell)
    prepared = Prepared.read(folder / "prepared")
    watched = tuple(prepared.catalogue[int(row)].title for row in prepared.history(0)[-SHOWN:])
    return Built(target.bundles, bundle, target.store, prepared.users[0], watched)


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
        tell(f"ready: {address}  (open it in a browser; Ctrl-C ends it)")
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
