"""contrec serve, contrec demo: what answers over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from contrec.cli.common import app, told


@app.command()
@told
def serve(
    host: Annotated[str | None, typer.Option(help="CONTREC_HOST; only this machine until you say otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="CONTREC_PORT; 0 takes any free one.")] = None,
    bundles: Annotated[Path | None, typer.Option(help="CONTREC_BUNDLES: the folder of all bundles.")] = None,
    name: Annotated[str | None, typer.Option(help="CONTREC_BUNDLE: the bundle to serve.")] = None,
    store: Annotated[str | None, typer.Option(help="CONTREC_STORE: where events live.")] = None,
) -> None:
    """Serve the active bundle over HTTP. Every other setting is a CONTREC_* variable (docs/settings.md)."""
    from contrec.serving import free_port
    from contrec.serving import serve as run
    from service.settings import load_settings

    given = {"host": host, "port": port, "bundles": bundles, "bundle": name, "store": store}
    settings = load_settings(**{key: value for key, value in given.items() if value is not None})
    settings = settings.model_copy(update={"port": free_port(settings.host, settings.port)})
    raise typer.Exit(run(settings, lambda client: typer.echo(f"ready: {client.base_url}")))


@app.command()
@told
def demo(
    port: Annotated[int, typer.Option(envvar="CONTREC_PORT", min=0, max=65535, help="0 takes any free one.")] = 8000,
    folder: Annotated[Path, typer.Option(help="Where everything of the demo lies.")] = Path(".demo"),
    serve: Annotated[bool, typer.Option(help="Serve, or stop before it.")] = True,
) -> None:
    """Train a small recommender on invented films, serve it, and ask it: everything in one command."""
    from contrec.demo import build, show
    from contrec.progress import Teller, telling
    from contrec.serving import free_port

    host = "127.0.0.1"
    if serve:
        port = free_port(host, port)  # one that is taken is told now, not after the training
    with telling() as tell:
        built = build(folder, tell)
    if serve:
        raise typer.Exit(show(built, host, port, Teller(sys.stdout)))
