"""contrec events: into a store and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrec.cli.common import STORE, Store, app, told

events_app = typer.Typer(help="Bring events into a store and out of it.", no_args_is_help=True)
app.add_typer(events_app, name="events")


@events_app.command("import")
@told
def events_import(
    path: Annotated[Path, typer.Argument(help="A table, an export (.jsonl) or a prepared folder.")],
    store: Store = STORE,
) -> None:
    """Append events to a store. What it already holds is counted and left alone."""
    import asyncio

    from contrec.events import import_events
    from contrec.progress import telling

    with telling() as tell:
        appended = asyncio.run(import_events(path, store, tell=tell, passing=tell.passing))
    typer.echo(f"{appended.accepted} events imported, {appended.repeated} were already there")


@events_app.command("export")
@told
def events_export(
    out: Annotated[Path, typer.Argument(help=".jsonl (everything) or .csv (a table to train on).")],
    store: Store = STORE,
) -> None:
    """Write a store's events to a file."""
    import asyncio

    from contrec.events import export_events
    from contrec.progress import telling

    with telling() as tell:
        count = asyncio.run(export_events(store, out, passing=tell.passing))
    typer.echo(f"{count} events exported to {out}")
