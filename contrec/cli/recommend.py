"""contrec recommend: what a bundle recommends, without a server; for one history, or for everybody into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrec.cli.common import BUNDLES, NAME, STORE, Bundles, Name, Store, Version, app, chosen, told

if TYPE_CHECKING:
    from contrec.everyone import Plan


@app.command()
@told
def recommend(
    history: Annotated[list[str] | None, typer.Argument(help="Item ids, oldest first.")] = None,
    name: Name = NAME,
    version: Version = None,
    bundles: Bundles = BUNDLES,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="How many items.")] = 10,
    allow: Annotated[list[str] | None, typer.Option("--allow-category", help="Only these; as often as needed.")] = None,
    deny: Annotated[list[str] | None, typer.Option("--deny-category", help="Never these; as often as needed.")] = None,
    explore: Annotated[float, typer.Option(min=0, max=1, help="0: the best list, always the same.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the noise when exploring.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    all_users: Annotated[bool, typer.Option("--all-users", help="Everybody, into --out; goes on if it broke off.")] = (
        False
    ),
    out: Annotated[Path | None, typer.Option(help="With --all-users: the .parquet file to write.")] = None,
    prepared: Annotated[Path | None, typer.Option(help="With --all-users: users of this folder, not the store's.")] = (
        None
    ),
    store: Store = STORE,
    shard: Annotated[int, typer.Option(min=1, help="With --all-users: so many users are kept at a time.")] = 5000,
) -> None:
    """Recommend for one history, or with --all-users for everybody in a store or a prepared folder."""
    from model import load_recommender
    from model.recommender import Dials

    path = chosen(bundles, name, version)
    if all_users:
        if out is None or history:
            raise ValueError("--all-users needs --out FILE.parquet, and takes no history")
        from contrec.everyone import Plan

        plan = Plan(f"{name}/{path.name}", k, tuple(allow or ()), tuple(deny or ()), explore, seed, shard)
        _everyone(path, plan, prepared, store, out)
        return
    if out is not None or prepared is not None:
        raise ValueError("--out and --prepared go with --all-users")
    recommender = load_recommender(path)
    catalogue = recommender.catalogue
    given = history or []
    if unknown := [item_id for item_id in given if catalogue.row(item_id) is None]:
        typer.echo(f"ignored {len(unknown)} of {len(given)} ids that the catalogue lacks: {unknown[0]!r} ...", err=True)
    eligible = catalogue.within(allow or (), deny or ())
    rows, scores = recommender.recommend(catalogue.rows(given), k, eligible=eligible, dials=Dials(explore, seed))
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


def _everyone(path: Path, plan: Plan, prepared: Path | None, store: str, out: Path) -> None:
    import asyncio

    from contrec.everyone import Audience, of_prepared, of_store, recommend_all
    from contrec.progress import telling
    from model import load_recommender

    recommender = load_recommender(path)

    async def read_store() -> Audience:
        from contrec.events import TIMEOUT
        from service.stores import open_store

        opened = await open_store(store, timeout=TIMEOUT)
        try:
            return await of_store(opened, recommender)
        finally:
            await opened.close()

    with telling() as tell:
        tell.passing("reading the users")
        if prepared is None:
            audience = asyncio.run(read_store())
        else:
            from training.data.prepared import Prepared

            audience = of_prepared(Prepared.read(prepared), recommender)
        if audience.unknown:
            tell(f"left out {audience.unknown} events of items that the bundle does not know")
        done = recommend_all(audience, out, plan, passing=tell.passing)
    typer.echo(f"{done}, in {out}")
