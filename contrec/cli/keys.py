"""contrec keys: make one. Only its hash is kept; the key itself is shown once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrec.cli.common import app, told

keys_app = typer.Typer(help="API keys of the service.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command("new")
@told
def keys_new(
    name: Annotated[str, typer.Argument(help="Who will hold it; the service's log calls them so.")],
    scope: Annotated[list[str], typer.Option(help="recommend, write, users or admin; give it again for more.")],
    file: Annotated[
        Path | None, typer.Option(help="Append the line to this CONTREC_KEYS_FILE and print the key alone.")
    ] = None,
) -> None:
    """Make a key, and the line for CONTREC_KEYS_FILE that lets it in."""
    from service.keys import Scope, add_to_file, key_line, new_key

    if unknown := [one for one in scope if one not in set(Scope)]:
        raise ValueError(f"{unknown[0]!r} is no scope; there are {', '.join(Scope)}")
    key = new_key()
    line = key_line(name, [Scope(one) for one in scope], key)
    if file is not None:
        add_to_file(file, line)
        typer.echo(key)
        return
    typer.echo(f"key, shown this once:       {key}")
    typer.echo(f"line for CONTREC_KEYS_FILE: {line}")
