"""contrec recommend: what a bundle recommends, without a server."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from contrec.cli.common import BUNDLES, NAME, Bundles, Name, Version, app, chosen, told


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

    recommender = load_recommender(chosen(bundles, name, version))
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
