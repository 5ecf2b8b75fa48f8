"""The report of a run: one page that stands alone, beside the JSON that it is drawn from.

    write_report(report, bundles / name / version)      # <version>.report.json and <version>.report.html
    page(report)                                        # the HTML alone

The page holds its own style and plots, asks no other host for anything and runs no script. It shows what the report
has: a stage with "epochs" gets its curves, whatever system it belongs to; what is absent is left out. Every text that
came from data is escaped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from model.bundle import sync
from model.manifest import Manifest
from model.recommender import Recommender
from training import plots
from training.breakdown import by_history, by_popularity, exploring
from training.data.prepared import PARTS, Prepared
from training.evaluate import Metrics, paired_bootstrap, rows_of
from training.style import STYLE

LOSSES = ("loss", "direction", "dispersive")
MEANING = {
    "signals": "text and collaborative embeddings",
    "tokenizer": "items to continuous tokens",
    "trunk": "the sequence model",
    "head": "the diffusion head",
    "text_half": "the sequence model that reads words",
    "transitions": "what followed what, counted",
    "codes": "items to semantic ids",
    "network": "the masked diffusion network",
    "decoding": "the mixture that validation wants",
    "evaluation": "validation, test, exploring",
    "baselines": "popularity, transition kNN, EASE",
}


def write_report(report: Mapping[str, Any], bundle: Path) -> Path:
    """Writes both files beside the bundle's folder, durably, and returns the path of the page."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(bundle.with_name(f"{bundle.name}.report.json"), text)
    html = bundle.with_name(f"{bundle.name}.report.html")
    _replace(html, page(report))
    return html


def read_report(bundle: Path) -> dict[str, Any]:
    """What training told of a bundle; empty where no report came along. Raises ValueError where it is damaged."""
    path = bundle.with_name(f"{bundle.name}.report.json")
    if not path.exists():
        return {}
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the training report {path} cannot be read ({error})") from error
    return report


def told_of_bundle(manifest: Manifest) -> dict[str, Any]:
    """What a report says of the bundle itself."""
    seed = manifest.recipe_config.get("seed")
    keys = ("name", "version", "kind", "recipe", "recipe_config", "created", "libraries")
    return {"bundle": {"seed": seed, **{key: getattr(manifest, key) for key in keys}}}


def told_of_data(prepared: Prepared) -> dict[str, Any]:
    """What it says of the data."""
    counts = {"users": len(prepared.users), "items": len(prepared.catalogue), "interactions": len(prepared.items)}
    counts |= {f"{part} targets": len(prepared.evaluation(part)) for part in PARTS}
    return {"data": {"counts": counts, "fingerprint": prepared.fingerprint, "facts": prepared.facts}}


def told_of_test(recommender: Recommender, test: Metrics, prepared: Prepared) -> dict[str, Any]:
    """For whom it is good, and what exploring costs."""
    return {
        "by_history": by_history(test, prepared),
        "by_popularity": by_popularity(test, prepared),
        "exploring": exploring(recommender, prepared),
    }


def told_of_baselines(test: Metrics, rivals: Mapping[str, Metrics]) -> dict[str, Any]:
    """The rows of the baselines, and by how much the recommender leads the best of them in NDCG@10."""
    name, rival = max(rivals.items(), key=lambda pair: pair[1].ndcg(10))
    mean, low, high = paired_bootstrap(test, rival)
    return {"baselines": rows_of(rivals), "lead": {"rival": name, "mean": mean, "low": low, "high": high}}


def page(report: Mapping[str, Any]) -> str:
    """The HTML of a report."""
    bundle = report.get("bundle", {})
    title = f"{bundle.get('name', 'bundle')} {bundle.get('version', '')}".strip()
    sections = (_summary, _beside, _curves, _tokenizer, _who, _exploring, _cost, _data, _recipe)
    body = "".join(section(report) for section in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} – training report</title><style>{STYLE}</style></head><body><main>"
        f"<header><p>contrec training report</p><h1>{escape(title)}</h1>"
        f"<p>recipe {escape(str(bundle.get('recipe', '')))}, seed {escape(str(bundle.get('seed', '')))}, "
        f"{escape(str(bundle.get('created', ''))[:16].replace('T', ' '))} UTC</p></header>{body}</main></body></html>\n"
    )


# ---------------------------------------------------------------------------------------------------- sections


def _summary(report: Mapping[str, Any]) -> str:
    test = report.get("metrics", {}).get("test")
    if not test:
        return ""
    seconds = sum(report.get("seconds", {}).values())
    peak = max(report.get("peak_rss_mib", {}).values(), default=0)
    cards = [
        ("NDCG@10", f"{test['ndcg@10']:.4f}", "on test targets"),
        ("HR@10", f"{test['hr@10']:.4f}", f"{test['users']:,} users"),
        ("coverage@10", f"{test['coverage@10']:.0%}", "of the catalogue is shown to somebody"),
        ("time", _time(seconds), f"at most {peak / 1024:.1f} GiB of memory"),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in cards)
    sentence = (
        f"Of {test['users']:,} users, {test['hr@10']:.1%} took next what is among the first ten of their list. "
        "Every item of the catalogue was ranked for each of them, and what they had taken before was left out."
    )
    lead = report.get("lead")
    if lead:
        sure = "surely" if lead["low"] > 0 else "not surely" if lead["high"] > 0 else "surely not"
        sentence += (
            f" It is {sure} ahead of {lead['rival']}, the best baseline: {lead['mean']:+.4f} in NDCG@10, "
            f"95 % interval {lead['low']:+.4f} to {lead['high']:+.4f}."
        )
    return f'<section><dl class="cards">{shown}</dl><p>{escape(sentence)}</p></section>'


def _beside(report: Mapping[str, Any]) -> str:
    metrics = report.get("metrics", {})
    if "test" not in metrics:
        return ""
    rows = [("this bundle", metrics["test"])]
    rows += [(name.replace("_", " "), report[name]) for name in report.get("beside", ())]
    rows += [(row["scorer"], row) for row in report.get("baselines", ())]
    names = ("hr@10", "ndcg@10", "ndcg@20", "coverage@10")
    best = {name: max(row[name] for _, row in rows) for name in names}
    cells = []
    for label, row in rows:
        numbers = [f"<b>{row[name]:.4f}</b>" if row[name] == best[name] else f"{row[name]:.4f}" for name in names]
        numbers += [f"{row['unmasked'][name]:.4f}" for name in ("hr@10", "ndcg@10")]
        cells.append([escape(label), *numbers])
    table = _table(["", *names, "hr@10 unmasked", "ndcg@10 unmasked"], cells)
    hint = "" if report.get("baselines") else "<p>Baselines join with <code>contrec evaluate --html</code>.</p>"
    return f"<section><h2>Beside others, on the test part</h2>{table}{hint}</section>"


def _curves(report: Mapping[str, Any]) -> str:
    figures = []
    for stage, found in report.items():
        epochs = found.get("epochs") if isinstance(found, dict) else None
        if not isinstance(epochs, list) or not epochs:
            continue
        figures += _stage_curves(stage, found, epochs)
    return f'<section><h2>Learning</h2><div class="figures">{"".join(figures)}</div></section>' if figures else ""


def _stage_curves(stage: str, found: Mapping[str, Any], epochs: Sequence[Mapping[str, float]]) -> list[str]:
    names, words = list(epochs[0]), stage.replace("_", " ").removesuffix(" fit")
    series = {name: [(n + 1, epoch[name]) for n, epoch in enumerate(epochs) if name in epoch] for name in names}
    best = found.get("best_epoch")
    mark = (float(best), f"best: epoch {best}") if best else None
    figures = []
    loss = {"loss": series["loss"]} if "loss" in series else {}
    if loss:
        first, last = epochs[0]["loss"], epochs[-1]["loss"]
        say = f"From {first:.3f} to {last:.3f} in {len(epochs)} epochs."
        figures.append(plots.lines(loss, title=f"{words}: loss", across="epoch", summary=say, mark=mark))
    quality = {name.replace("ndcg@10 ", ""): points for name, points in series.items() if name.startswith("ndcg@10")}
    if quality:
        name, top = max(((n, max(y for _, y in p)) for n, p in quality.items()), key=lambda pair: pair[1])
        say = f"At best {top:.4f}" + (f" with {name}." if len(quality) > 1 else ".")
        if "weight" in found:
            lead = found.get("lead")
            say += f" Served with lambda = {found['weight']:g}"
            say += f"; lead over the trunk alone {lead[0]:+.4f} ({lead[1]:+.4f} to {lead[2]:+.4f})" if lead else ""
            say += ", on the half of the users that chose nothing." if lead and "users" in found else "."
        title = f"{words}: NDCG@10 on validation"
        figures.append(plots.lines(quality, title=title, across="epoch", summary=say, mark=mark))
    return figures


def _tokenizer(report: Mapping[str, Any]) -> str:
    health = report.get("tokenizer")
    if not isinstance(health, dict) or "effective_rank" not in health:
        return ""
    share = health["effective_rank"] / max(1.0, health["dimensions"])
    verdicts = [
        (
            "smallest variance of a dimension",
            f"{health['variance_min']:.3f}",
            health["variance_min"] > 0.05,
            "not dead",
        ),
        (
            "effective rank",
            f"{health['effective_rank']:.1f} of {health['dimensions']:.0f}",
            share > 0.2,
            "spread over many directions",
        ),
        ("variance of the signals explained", f"{health['explained']:.1%}", health["explained"] > 0.3, "reconstructs"),
        (
            "nearest neighbours kept",
            f"{health['neighbours_kept']:.1%}",
            health["neighbours_kept"] > 0.2,
            "like stays beside like",
        ),
    ]
    rows = [[name, value, f"✓ {good}" if well else "✗ look here"] for name, value, well, good in verdicts]
    return (
        "<section><h2>The tokenizer's health</h2>"
        "<p>Where a tokenizer collapses, it shows here: dead dimensions, few directions, neighbours lost.</p>"
        f"{_table(['', 'value', ''], rows)}</section>"
    )


def _who(report: Mapping[str, Any]) -> str:
    figures = []
    mean = report.get("metrics", {}).get("test", {}).get("ndcg@10")
    if rows := report.get("by_history"):
        shown = [(row["history"], row["ndcg@10"], f"{row['users']:,} users") for row in rows]
        say = "The dashed line is the mean of all users. " + _extremes(shown, "a history of {} items")
        title = "NDCG@10 by length of the history"
        figures.append(plots.bars(shown, title=title, across="items in the history", summary=say, rule=mean))
    if rows := report.get("by_popularity"):
        shown = [(str(row["tenth"]), row["ndcg@10"], f"{row['users']:,}") for row in rows]
        say = (
            f"Tenth 1 holds the most popular items and {rows[0]['share']:.0%} of all interactions. Below each number: "
            "users whose next item was of that tenth."
        )
        title = "NDCG@10 by popularity of the item to be found"
        figures.append(plots.bars(shown, title=title, across="tenth of the catalogue", summary=say, rule=mean))
    return f'<section><h2>For whom</h2><div class="figures">{"".join(figures)}</div></section>' if figures else ""


def _extremes(rows: Sequence[tuple[str, float | None, str]], phrase: str) -> str:
    known = [(value, label) for label, value, _ in rows if value is not None]
    if len(known) < 2:
        return ""
    (low, worst), (high, best) = min(known), max(known)
    return f"Best with {phrase.format(best)} ({high:.3f}), weakest with {phrase.format(worst)} ({low:.3f})."


def _exploring(report: Mapping[str, Any]) -> str:
    rows = report.get("exploring")
    if not rows:
        return ""
    first, last = rows[0], rows[-1]
    names = [name for name in ("ndcg@10", "coverage@10", "diversity@10", "changed@10") if name in first]
    if all(math.isclose(first[name], last[name]) for name in names):
        return ""  # a recommender without the dial
    say = (
        f"Turned up fully, NDCG@10 goes from {first['ndcg@10']:.3f} to {last['ndcg@10']:.3f}, the share of the "
        f"catalogue shown from {first['coverage@10']:.0%} to {last['coverage@10']:.0%}, the mean distance within a "
        f"list from {first['diversity@10']:.2f} to {last['diversity@10']:.2f}. "
        + (f"Another seed then replaces {last['changed@10']:.0%} of a list. " if "changed@10" in last else "")
        + f"{first['users']:.0f} users."
    )
    series = {name: [(row["explore"], 100 * row[name] / first[name]) for row in rows] for name in names if first[name]}
    figure = plots.lines(series, title="In percent of explore 0", across="explore", summary=say)
    cells = [[f"{row['explore']:g}", *(f"{row[name]:.4f}" for name in names)] for row in rows]
    return (
        f'<section><h2>What exploring costs</h2><div class="figures">{figure}'
        f"<div>{_table(['explore', *names], cells)}</div></div></section>"
    )


def _cost(report: Mapping[str, Any]) -> str:
    seconds, peak = report.get("seconds", {}), report.get("peak_rss_mib", {})
    if not seconds:
        return ""
    rows = [(stage, value, f"{_time(value)}, {peak.get(stage, 0) / 1024:.1f} GiB") for stage, value in seconds.items()]
    longest = max(seconds, key=lambda stage: seconds[stage])
    say = f"{_time(sum(seconds.values()))} in all, most of it in {longest}. Memory is the process's peak until then."
    figure = plots.shares(rows, title="Time and memory by stage", summary=say)
    cells = [[stage, _time(seconds[stage]), f"{peak.get(stage, 0):,}", MEANING.get(stage, "")] for stage in seconds]
    table = _table(["stage", "time", "MiB", ""], cells)
    return f'<section><h2>What it cost</h2><div class="figures">{figure}<div>{table}</div></div></section>'


def _data(report: Mapping[str, Any]) -> str:
    data = report.get("data")
    if not data:
        return ""
    counts = [[escape(name), f"{value:,}"] for name, value in data["counts"].items()]
    facts = escape(json.dumps(data.get("facts", {}), indent=2, ensure_ascii=False))
    return (
        f"<section><h2>Data</h2>{_table(['', ''], counts)}"
        f"<p>Fingerprint <code>{escape(data['fingerprint'])}</code></p>"
        f"<details><summary>Where it came from and how it was cleaned and split</summary><pre>{facts}</pre></details>"
        "</section>"
    )


def _recipe(report: Mapping[str, Any]) -> str:
    config = report.get("bundle", {}).get("recipe_config")
    if not config:
        return ""
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return f"<section><details><summary>Every setting of the recipe</summary><pre>{text}</pre></details></section>"


# ---------------------------------------------------------------------------------------------------- parts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """head is text, the cells are HTML."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = (f'<tr><th scope="row">{row[0]}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(cell: str) -> str:
    return f"<td>{cell}</td>" if not cell or cell[0] in "0123456789<-+" else f'<td class="words">{cell}</td>'


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    sync(new)
    os.replace(new, path)
