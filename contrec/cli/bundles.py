"""contrec bundles: list, verify, activate, roll back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrec.cli.common import BUNDLES, Bundles, app, told

bundles_app = typer.Typer(help="The published recommenders.", no_args_is_help=True)
app.add_typer(bundles_app, name="bundles")


@bundles_app.command("list")
@told
def bundles_list(name: Annotated[str, typer.Argument(help="The bundle's name.")], bundles: Bundles = BUNDLES) -> None:
    """The versions of a bundle, oldest first; * marks the active one."""
    from model.bundle import list_bundles

    found = list_bundles(bundles, name)
    if not found:
        raise ValueError(f"there is no bundle {name!r} in {bundles}")
    for entry in found:
        manifest = entry.manifest
        measured = manifest.metrics.get("test", manifest.metrics)
        quality = f"  NDCG@10 {measured['ndcg@10']:.4f}" if "ndcg@10" in measured else ""
        mark = "*" if entry.active else " "
        typer.echo(f"{mark} {entry.version}  {manifest.created}  {manifest.kind}  {manifest.recipe}{quality}")


@bundles_app.command("verify")
@told
def bundles_verify(path: Annotated[Path, typer.Argument(help="The folder of one version.")]) -> None:
    """Check every file of a bundle against its manifest: that it is whole, not who made it."""
    from model.bundle import verify

    manifest = verify(path)
    typer.echo(f"{manifest.name}/{manifest.version} is whole: {len(manifest.files)} files")


@bundles_app.command("activate")
@told
def bundles_activate(
    name: Annotated[str, typer.Argument(help="The bundle's name.")],
    version: Annotated[str, typer.Argument(help="The version to serve from now on.")],
    bundles: Bundles = BUNDLES,
) -> None:
    """Make a version the active one."""
    from model.bundle import activate

    typer.echo(f"active: {name}/{activate(bundles, name, version).name}")


@bundles_app.command("rollback")
@told
def bundles_rollback(
    name: Annotated[str, typer.Argument(help="The bundle's name.")], bundles: Bundles = BUNDLES
) -> None:
    """Make the version that was active before the active one again."""
    from model.bundle import rollback

    typer.echo(f"active: {name}/{rollback(bundles, name).name}")
