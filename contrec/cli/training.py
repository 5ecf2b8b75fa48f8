"""contrec train, contrec evaluate: from prepared data to a published bundle and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrec.cli.common import BUNDLES, NAME, Bundles, Name, Overrides, Prepared, Version, app, chosen, told

if TYPE_CHECKING:
    from model.recommender import Recommender
    from training.data.prepared import Prepared as Data
    from training.evaluate import Metrics


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
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="Where an interrupted run keeps what it needs to go on.")] = Path("runs"),
    baselines: Annotated[bool, typer.Option(help="Fit baselines too, for the table of the report.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, whatever an interrupted run left.")] = False,
) -> None:
    """Train a recipe on prepared data, publish the bundle and make it the active one.

    Interrupted at any point, the same command goes on from there.
    """
    from contrec.progress import Epochs, telling
    from model.bundle import activate, read_manifest
    from training.recipe import load_recipe

    load_recipe(recipe, size, overrides or [])  # a slip is told now, before torch takes its seconds to load
    from training.train import train as fit

    try:
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
                runs=runs,
                fresh=fresh,
                baselines=baselines,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on from here, or starts over with --fresh", err=True)
        raise
    activate(bundles, name, path.name)
    for part, metrics in read_manifest(path).metrics.items():
        typer.echo(
            f"{part}: NDCG@10 {metrics['ndcg@10']:.4f}  HR@10 {metrics['hr@10']:.4f}  ({metrics['users']} users)"
        )
    typer.echo(f"report: {bundles / name / path.name}.report.html")
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
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Ask on data that it was not trained on: it may know the answers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as JSON, instead of a Markdown table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the training report with this table (test part).")] = None,
) -> None:
    """Rank the whole catalogue for every user of a part: HR and NDCG, seen items masked and unmasked."""
    from model import load_recommender
    from model.bundle import read_manifest
    from training.data.prepared import PARTS
    from training.data.prepared import Prepared as Data
    from training.evaluate import lead, markdown, measure, recommender_scorer, rows_of

    asked = next((known for known in PARTS if known == part), None)
    if html is not None and (asked != "test" or users is not None or other_data):
        raise ValueError(
            "--html shows the whole test part of the data that was trained on: leave --part and --users as they are, "
            "and --other-data out"
        )
    if asked is None:
        raise ValueError(f"--part must be one of {', '.join(PARTS)}, not {part!r}")
    data = Data.read(prepared)
    path = chosen(bundles, name, version)
    recommender = load_recommender(path)
    if [item.item_id for item in recommender.catalogue] != [item.item_id for item in data.catalogue]:
        raise ValueError(f"the bundle {path} was trained on another catalogue than the one in {prepared}")
    if not other_data and read_manifest(path).data_fingerprint != data.fingerprint:
        raise ValueError(
            f"the bundle {path} was trained on other data than {prepared}, and may have learnt from what is asked "
            "here; --other-data asks it all the same"
        )
    scorers = {f"{name}/{path.name}": recommender_scorer(recommender)}
    if baselines:
        from training.baselines import fit_baselines

        scorers |= fit_baselines(data)
    measured = measure(scorers, data, asked, users=users, seed=seed)
    rows = rows_of(measured)
    typer.echo(json.dumps(rows, indent=2) if as_json else markdown(rows))
    if len(measured) > 1 and not as_json:
        typer.echo(f"\n{lead(measured)}")
    if html is not None:
        _report(html, path, recommender, measured, data)


def _report(html: Path, bundle: Path, recommender: Recommender, measured: dict[str, Metrics], data: Data) -> None:
    from model.bundle import read_manifest
    from training.report import page, read_report, told_of_baselines, told_of_bundle, told_of_data, told_of_test

    mine, *_ = measured.values()
    told = {**told_of_bundle(read_manifest(bundle)), **told_of_data(data), **read_report(bundle)}
    told |= told_of_test(recommender, mine, data)
    told["metrics"] = told.get("metrics", {}) | {"test": mine.as_dict()}
    if rivals := dict(list(measured.items())[1:]):
        told |= told_of_baselines(mine, rivals)
    html.write_text(page(told), encoding="utf-8")
    typer.echo(f"report: {html}", err=True)
