"""contrec bootstrap and contrec retrain: whole journeys in one command, for containers and nightly jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrec.cli.common import BUNDLES, NAME, STORE, Bundles, Name, Overrides, Store, app, told

Work = Annotated[Path, typer.Option(help="Where prepared data is kept, and what was done already.")]
Size = Annotated[str | None, typer.Option(help="tiny, small, base or llm; default: tiny for the demo, else small.")]
WORK = Path("work")


@app.command()
@told
def bootstrap(
    source: Annotated[Path | None, typer.Argument(help="Your data; none, or an empty folder, is the demo's.")] = None,
    work: Work = WORK,
    bundles: Bundles = BUNDLES,
    name: Name = NAME,
    store: Store = STORE,
    size: Size = None,
    overrides: Overrides = None,
) -> None:
    """Prepare, train, publish and import the histories; what was done already is left alone."""
    from contrec.bootstrap import Target
    from contrec.bootstrap import bootstrap as run
    from contrec.progress import telling

    with telling() as tell:
        run(source, Target(work, bundles, name, store, size, tuple(overrides or ())), tell)


@app.command()
@told
def retrain(
    items: Annotated[
        Path | None, typer.Option(help="An items table; default: as the bundle and the store know them.")
    ] = None,
    work: Work = WORK,
    bundles: Bundles = BUNDLES,
    name: Name = NAME,
    store: Store = STORE,
    size: Size = None,
    overrides: Overrides = None,
) -> None:
    """Train on every event of the store, publish the bundle and make it the active one."""
    from contrec.bootstrap import Target
    from contrec.bootstrap import retrain as run
    from contrec.progress import telling

    with telling() as tell:
        path = run(Target(work, bundles, name, store, size, tuple(overrides or ())), items, tell)
    typer.echo(f"active: {name}/{path.name}")
