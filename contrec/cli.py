"""The command line. Each command is thin: it names what it needs, calls one function of a room, and says what came.

Every import of a room lies inside its command, so that `contrec --help` answers at once. A user's mistake is told in
one sentence on stderr with exit status 2; a traceback means a fault of ours (or CONTREC_DEBUG=1, which shows them all).

    contrec --help
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    help="Train generative recommenders and serve them online.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Read interactions and items.", no_args_is_help=True)
events_app = typer.Typer(help="Bring events into a store and out of it.", no_args_is_help=True)
bundles_app = typer.Typer(help="The published recommenders.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(events_app, name="events")
app.add_typer(bundles_app, name="bundles")

# Errors that are told and not traced, by where they are defined: only rooms that are loaded can have raised one.
TOLD = {
    "model.bundle": ("BundleError",),
    "service.stores.contract": ("StoreUnavailable", "StoreIncompatible"),
    "service.settings": ("SettingsError",),
    "contrec.serving": ("Unready",),
}
EXTRAS = {
    "train": ("polars", "scipy"),
    "serve": ("fastapi", "uvicorn", "pydantic", "pydantic_settings", "redis", "prometheus_client"),
}


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Tells a user's mistake in one sentence; lets everything else through."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None or os.environ.get("CONTREC_DEBUG"):
                raise
            typer.echo(f"contrec: {sentence}", err=True)
            raise typer.Exit(2) from None

    return run


def _sentence(error: Exception) -> str | None:
    """What to tell the user, or None when the error is no mistake of theirs."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if missing in modules), None)
        return extra and f"this command needs {missing}, which is not installed: pip install 'contrec[{extra}]'"
    known = [
        getattr(sys.modules[module], name) for module, names in TOLD.items() if module in sys.modules for name in names
    ]
    if isinstance(error, (ValueError, OSError, *known)):
        return " ".join(str(error).split()) or type(error).__name__
    return None


Prepared = Annotated[Path, typer.Argument(help="A folder that `contrec data prepare` wrote.")]
Bundles = Annotated[Path, typer.Option("--bundles", envvar="CONTREC_BUNDLES", help="The folder of all bundles.")]
Name = Annotated[str, typer.Option("--name", envvar="CONTREC_BUNDLE", help="The bundle's name.")]
Store = Annotated[str, typer.Option("--store", envvar="CONTREC_STORE", help="sqlite:///FILE or redis://HOST:PORT/DB")]
Version = Annotated[str | None, typer.Option(help="A version of the bundle; default: the active one.")]
BUNDLES, NAME, STORE = Path("bundles"), "contrec", "sqlite:///contrec.db"  # as in service.settings; a test says so

# ---------------------------------------------------------------------------------------------------- data

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


# ---------------------------------------------------------------------------------------------------- bundles


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


def _chosen(bundles: Path, name: str, version: str | None) -> Path:
    """The folder of a version, or of the active one."""
    from model.bundle import active

    if version is not None:
        return bundles / name / version
    path = active(bundles, name)
    if path is None:
        raise ValueError(f"no version of bundle {name!r} is active in {bundles}; train one, or give --version")
    return path


# ---------------------------------------------------------------------------------------------------- training


@app.command()
@told
def train(
    prepared: Prepared,
    recipe: Annotated[str, typer.Option(help="A named configuration: training/recipes/<recipe>.toml.")] = "contrec",
    size: Annotated[str | None, typer.Option(help="tiny, small, base or llm; default: the recipe's own.")] = None,
    name: Name = NAME,
    bundles: Bundles = BUNDLES,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bundle.")] = 0,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, cuda:1.")] = "cpu",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="part.key=value over the recipe's own.")] = None,
) -> None:
    """Train a recipe on prepared data, publish the bundle and make it the active one."""
    from contrec.progress import Epochs, telling
    from model.bundle import activate, read_manifest
    from training.recipe import load_recipe

    load_recipe(recipe, size, overrides or [])  # a slip is told now, before torch takes its seconds to load
    from training.train import train as fit

    with telling() as tell, Epochs(tell) as progress:
        path = fit(
            prepared,
            recipe,
            size,
            bundles=bundles,
            name=name,
            seed=seed,
            overrides=overrides or [],
            device=device,
            progress=progress,
        )
    activate(bundles, name, path.name)
    for part, metrics in read_manifest(path).metrics.items():
        typer.echo(
            f"{part}: NDCG@10 {metrics['ndcg@10']:.4f}  HR@10 {metrics['hr@10']:.4f}  ({metrics['users']} users)"
        )
    typer.echo(f"active: {name}/{path.name}")


@app.command()
@told
def evaluate(
    prepared: Prepared,
    name: Name = NAME,
    version: Version = None,
    bundles: Bundles = BUNDLES,
    part: Annotated[str, typer.Option(help="validation or test.")] = "test",
    baselines: Annotated[bool, typer.Option(help="Popularity, transition kNN and EASE in the same table.")] = True,
    users: Annotated[int | None, typer.Option(min=1, help="Ask that many users only, drawn with --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of users.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as JSON, instead of a Markdown table.")] = False,
) -> None:
    """Rank the whole catalogue for every user of a part: HR and NDCG, seen items masked and unmasked."""
    from model import load_recommender
    from training.data.prepared import PARTS
    from training.data.prepared import Prepared as Data
    from training.evaluate import lead, markdown, measure, recommender_scorer, rows_of

    asked = next((known for known in PARTS if known == part), None)
    if asked is None:
        raise ValueError(f"--part must be one of {', '.join(PARTS)}, not {part!r}")
    data = Data.read(prepared)
    path = _chosen(bundles, name, version)
    recommender = load_recommender(path)
    if [item.item_id for item in recommender.catalogue] != [item.item_id for item in data.catalogue]:
        raise ValueError(f"the bundle {path} was trained on another catalogue than the one in {prepared}")
    scorers = {f"{name}/{path.name}": recommender_scorer(recommender)}
    if baselines:
        from training.baselines import fit_baselines

        scorers |= fit_baselines(data)
    measured = measure(scorers, data, asked, users=users, seed=seed)
    rows = rows_of(measured)
    typer.echo(json.dumps(rows, indent=2) if as_json else markdown(rows))
    if len(measured) > 1 and not as_json:
        typer.echo(f"\n{lead(measured)}")


# ---------------------------------------------------------------------------------------------------- recommend


@app.command()
@told
def recommend(
    history: Annotated[list[str] | None, typer.Argument(help="Item ids, oldest first.")] = None,
    name: Name = NAME,
    version: Version = None,
    bundles: Bundles = BUNDLES,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="How many items.")] = 10,
    explore: Annotated[float, typer.Option(min=0, max=1, help="0: the best list, always the same.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the noise when exploring.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Recommend for one history."""
    from model import load_recommender
    from model.recommender import Dials

    recommender = load_recommender(_chosen(bundles, name, version))
    catalogue = recommender.catalogue
    given = history or []
    if unknown := [item_id for item_id in given if catalogue.row(item_id) is None]:
        typer.echo(f"ignored {len(unknown)} of {len(given)} ids that the catalogue lacks: {unknown[0]!r} ...", err=True)
    rows, scores = recommender.recommend(catalogue.rows(given), k, dials=Dials(explore, seed))
    items = [catalogue[int(row)] for row in rows]
    if as_json:
        answer = [
            {"item_id": item.item_id, "title": item.title, "categories": item.categories, "score": float(score)}
            for item, score in zip(items, scores, strict=True)
        ]
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    for place, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        typer.echo(f"{place:3}  {score:8.4f}  {item.item_id}  {item.title}  [{', '.join(item.categories)}]")


# ---------------------------------------------------------------------------------------------------- events


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
        appended = asyncio.run(import_events(path, store, passing=tell.passing))
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


# ---------------------------------------------------------------------------------------------------- serving


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


def main() -> None:
    """What the `contrec` script calls."""
    app()


if __name__ == "__main__":
    main()
