"""contrec data: from a source to prepared arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contrec.cli.common import app, told

data_app = typer.Typer(help="Read interactions and items.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SourceName = Annotated[str, typer.Argument(help="ml-100k, ml-latest-small, table or synthetic.")]
SourcePath = Annotated[Path | None, typer.Argument(help="The source's folder or file; none for synthetic.")]
Items = Annotated[Path | None, typer.Option(help="An items table (item_id, title, categories, text); source table.")]
Split = Annotated[str, typer.Option(help="leave-one-out, or time.")]
MinUser = Annotated[int, typer.Option(min=1, help="Leave out users with fewer events.")]
OnlyInteracted = Annotated[bool, typer.Option(help="Leave out items without a single event, as published tables do.")]


@data_app.command("prepare")
@told
def data_prepare(
    source: SourceName,
    path: SourcePath = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("prepared"),
    items: Items = None,
    split: Split = "leave-one-out",
    min_user: MinUser = 1,
    only_interacted: OnlyInteracted = False,
) -> None:
    """Read a source, split it and write the arrays that training reads."""
    from training.data.prepare import prepare

    prepared = prepare(source, path, out, items=items, split=split, min_user=min_user, only_interacted=only_interacted)
    typer.echo(_facts(prepared.facts))
    typer.echo(f"prepared data is in {out}")


@data_app.command("validate")
@told
def data_validate(
    source: SourceName,
    path: SourcePath = None,
    items: Items = None,
    split: Split = "leave-one-out",
    min_user: MinUser = 1,
    only_interacted: OnlyInteracted = False,
) -> None:
    """Say what `prepare` would take, reject and leave out, and write nothing."""
    from training.data.prepare import assemble, read

    rows = read(source, path, items=items)
    prepared = assemble(rows, name=source, split=split, min_user=min_user, only_interacted=only_interacted)
    typer.echo(_facts(prepared.facts))


def _facts(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False)
