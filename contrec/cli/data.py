"""contrec data: from a source to prepared arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrec.cli.common import app, told

if TYPE_CHECKING:
    from training.data.clean import Cleaning

data_app = typer.Typer(help="Read interactions and items.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SourceName = Annotated[
    str,
    typer.Argument(
        help="table, synthetic, or a public set: ml-100k, ml-1m, ml-25m, ml-32m, ml-latest-small, amazon-2014, "
        "amazon-2018, lastfm."
    ),
]
SourcePath = Annotated[
    Path | None, typer.Argument(help="The source's folder or file; none for synthetic, or to download a public set.")
]
Items = Annotated[Path | None, typer.Option(help="An items table (item_id, title, categories, text); source table.")]
Split = Annotated[str, typer.Option(help="leave-one-out, or time.")]
Threshold = Annotated[float | None, typer.Option(help="A lower rating is a true negative, no part of a history.")]
MinUser = Annotated[int, typer.Option(min=1, help="Leave out users with fewer events.")]
MinItem = Annotated[int, typer.Option(min=1, help="Leave out items with fewer events; both at 5 are the 5-core.")]
Once = Annotated[bool, typer.Option("--once", help="Only the first event of each user with each item.")]
Ties = Annotated[str, typer.Option(help="Events of one user at the same time: file (as they stand), or shuffle.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the shuffled ties.")]
Category = Annotated[str | None, typer.Option(help="Which of Amazon's to download: Beauty, Sports_and_Outdoors, ...")]
Cache = Annotated[Path | None, typer.Option(envvar="CONTREC_CACHE", help="For downloads; default ~/.cache/contrec.")]
Mirror = Annotated[str | None, typer.Option(envvar="CONTREC_MIRROR", help="Where the originals lie by host and path.")]
OnlyInteracted = Annotated[bool, typer.Option(help="Leave out items without a single event, as published tables do.")]


@data_app.command("prepare")
@told
def data_prepare(
    source: SourceName,
    path: SourcePath = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("prepared"),
    items: Items = None,
    split: Split = "leave-one-out",
    threshold: Threshold = None,
    min_user: MinUser = 1,
    min_item: MinItem = 1,
    once: Once = False,
    ties: Ties = "file",
    seed: Seed = 0,
    only_interacted: OnlyInteracted = False,
    category: Category = None,
    cache: Cache = None,
    mirror: Mirror = None,
) -> None:
    """Read a source, clean it, split it and write the arrays that training reads."""
    from contrec.progress import telling
    from training.data.prepare import prepare
    from training.data.sources import Download

    with telling() as tell:
        prepared = prepare(
            source,
            path,
            out,
            items=items,
            split=split,
            cleaning=_cleaning(threshold, min_user, min_item, once, ties, seed),
            only_interacted=only_interacted,
            download=Download(category, cache, mirror, tell.passing),
        )
    _tell(prepared.facts)
    typer.echo(f"prepared data is in {out}", err=True)


@data_app.command("validate")
@told
def data_validate(
    source: SourceName,
    path: SourcePath = None,
    items: Items = None,
    split: Split = "leave-one-out",
    threshold: Threshold = None,
    min_user: MinUser = 1,
    min_item: MinItem = 1,
    once: Once = False,
    ties: Ties = "file",
    seed: Seed = 0,
    only_interacted: OnlyInteracted = False,
    category: Category = None,
    cache: Cache = None,
    mirror: Mirror = None,
) -> None:
    """Say what `prepare` would take, reject and leave out, and write nothing."""
    from contrec.progress import telling
    from training.data.prepare import assemble, read
    from training.data.sources import Download

    cleaning = _cleaning(threshold, min_user, min_item, once, ties, seed)
    with telling() as tell:
        rows = read(source, path, items=items, download=Download(category, cache, mirror, tell.passing))
    _tell(assemble(rows, name=source, split=split, cleaning=cleaning, only_interacted=only_interacted).facts)


def _cleaning(threshold: float | None, min_user: int, min_item: int, once: bool, ties: str, seed: int) -> Cleaning:
    from training.data.clean import Cleaning

    return Cleaning(threshold, min_user, min_item, once, ties, seed)


def _tell(facts: dict[str, Any]) -> None:
    """The facts on stdout, and on stderr what a person should not overlook."""
    from training.data.prepare import overlooked

    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    for sentence in overlooked(facts):
        typer.echo(sentence, err=True)
