"""The loop closes: what a day of events is worth, to the bundle of yesterday and to one that is trained again.

    python bench/loop/loop.py --data ../shared/data/ml-100k-raw --out bench/loop/ml-100k.json

MovieLens-100K is cut at a moment: the first nine tenths of its ratings are yesterday, the rest is today. Every step is
the command or the route that a user has:

    data prepare, train         yesterday's bundle, ratings below 3 as true negatives
    events import, serve        yesterday's histories in the embedded store; the real server
    POST /recommend             (a) what yesterday's bundle answers when nothing of today is known
    POST /events                today, but for the last liked film of each user: that is what is asked for
    POST /recommend             (b) what it answers now that it has read today's events
    events export, data prepare, train, serve, POST /recommend
                                (c) what a bundle answers that was trained on the store's log, yesterday and today

Asked are all users who liked a film today. HR@10 and NDCG@10 are over the whole catalogue, as the service answers.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from training.data.sources import read

CUT = 0.9
LIKED = 3.0
K = 10
Row = tuple[str, str, int, float]  # user, item, seconds, rating


def contrec(*arguments: str | Path) -> str:
    """Runs the command; its output, or the end of everything."""
    command = [sys.executable, "-m", "contrec.cli", *map(str, arguments)]
    sys.stderr.write(f"contrec {' '.join(map(str, arguments))}\n")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"contrec {arguments[0]} ended with {done.returncode}")
    return done.stdout


@contextmanager
def served(bundles: Path, store: str) -> Iterator[httpx.Client]:
    """The real server on a free port, until the end of the block."""
    command = [sys.executable, "-m", "contrec.cli", "serve", "--name", "loop", "--bundles", str(bundles)]
    environment = os.environ | {"CONTREC_METRICS_PORT": "0", "CONTREC_LOG_LEVEL": "warning"}
    command += ["--store", store, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith("ready: "):
            raise SystemExit("the server did not come up")
        with httpx.Client(base_url=ready.removeprefix("ready: ").strip(), timeout=60, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def cut(rows: Sequence[Row]) -> tuple[list[Row], list[Row], dict[str, Row]]:
    """Yesterday; today's events that are sent; and of each user who liked something today, the last such event.

    What a user did after that event is not sent: it would be known only later.
    """
    ordered = sorted(rows, key=lambda row: row[2])
    moment = ordered[int(CUT * len(ordered))][2]
    yesterday = [row for row in ordered if row[2] < moment]
    today = [row for row in ordered if row[2] >= moment]
    places = {user: place for place, (user, _, _, rating) in enumerate(today) if rating >= LIKED}
    sent = [row for place, row in enumerate(today) if place < places.get(row[0], len(today))]
    return yesterday, sent, {user: today[place] for user, place in places.items()}


def ask(client: httpx.Client, targets: dict[str, Row], known: set[str]) -> dict[str, Any]:
    """HR and NDCG at K of the service's answers, over everybody and over those who were there yesterday."""
    gains: dict[str, float] = {}
    sources: dict[str, int] = {}
    for user, (_, item, _, _) in targets.items():
        answer = client.post("/recommend", json={"user_id": user, "k": K}).raise_for_status().json()
        ids = [found["item_id"] for found in answer["items"]]
        gains[user] = 1 / math.log2(ids.index(item) + 2) if item in ids else 0.0
        sources[answer["source"]] = sources.get(answer["source"], 0) + 1
    told: dict[str, Any] = {"sources": sources, "gains": gains}
    for name, users in (
        ("everybody", set(gains)),
        ("known yesterday", set(gains) & known),
        ("new", set(gains) - known),
    ):
        own = [gains[user] for user in users]
        told[name] = {
            "users": len(own),
            "hr@10": round(sum(gain > 0 for gain in own) / max(1, len(own)), 4),
            "ndcg@10": round(sum(own) / max(1, len(own)), 4),
        }
    return told


def lead(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """By how much the second is better in NDCG, and the 95 % interval of a paired bootstrap over users."""
    differences = np.array([second[user] - gain for user, gain in first.items()])
    drawn = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return {"ndcg@10": round(float(differences.mean()), 4), "from": round(float(low), 4), "to": round(float(high), 4)}


def send(client: httpx.Client, rows: Sequence[Row]) -> int:
    """Today's events, a thousand at a time, as ratings."""
    accepted = 0
    for start in range(0, len(rows), 1000):
        events = [
            {"event_id": f"{user}-{item}-{at}", "user_id": user, "item_id": item, "type": "rating"}
            | {"value": value, "time": float(at)}
            for user, item, at, value in rows[start : start + 1000]
        ]
        accepted += client.post("/events", json={"events": events}).raise_for_status().json()["accepted"]
    return accepted


def write_tables(folder: Path, rows: Sequence[Row], items: Sequence[Any]) -> None:
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id", "rating", "timestamp"))
        writer.writerows((user, item, value, at) for user, item, at, value in rows)
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "title", "categories"))
        writer.writerows((item.item_id, item.title, "|".join(item.categories)) for item in items)


def run(data: Path, folder: Path, options: list[str]) -> dict[str, Any]:
    source = read("ml-100k", data)
    rows = [(user, item, at, value) for user, item, at, value, _ in source.interactions.oldest_first()]
    yesterday, sent, targets = cut(rows)
    known = {row[0] for row in yesterday}
    write_tables(folder / "yesterday", yesterday, source.items)
    bundles, store = folder / "bundles", f"sqlite:///{folder}/events.db"
    publish = ("--bundles", bundles, "--name", "loop", *options)
    threshold = ("--threshold", f"{LIKED:g}")
    result: dict[str, Any] = {"yesterday": len(yesterday), "sent": len(sent), "asked": len(targets)}

    contrec("data", "prepare", "table", folder / "yesterday", *threshold, "--out", folder / "prepared-yesterday")
    contrec("train", folder / "prepared-yesterday", *publish)
    contrec("events", "import", folder / "prepared-yesterday", "--store", store)
    with served(bundles, store) as client:
        result["a"] = ask(client, targets, known)
        result["accepted"] = send(client, sent)
        result["b"] = ask(client, targets, known)

    contrec("events", "export", folder / "events.csv", "--store", store)
    items = ("--items", folder / "yesterday" / "items.csv")
    contrec("data", "prepare", "table", folder / "events.csv", *items, *threshold, "--out", folder / "prepared-today")
    facts = json.loads((folder / "prepared-today" / "facts.json").read_text(encoding="utf-8"))
    result["trained_again_on"] = facts["counts"]
    contrec("train", folder / "prepared-today", *publish)
    with served(bundles, store) as client:
        result["c"] = ask(client, targets, known)
    gains = {letter: result[letter].pop("gains") for letter in NAMES}
    result["b less a"], result["c less b"] = lead(gains["a"], gains["b"]), lead(gains["b"], gains["c"])
    return result


NAMES = {
    "a": "yesterday's bundle, nothing of today known",
    "b": "yesterday's bundle, today's events sent",
    "c": "trained again on the exported log",
}


def table_of(result: dict[str, Any]) -> str:
    groups = ("everybody", "known yesterday", "new")
    head = " | ".join(f"{name} ({result['a'][name]['users']})" for name in groups)
    lines = [f"| NDCG@10 / HR@10 | {head} |", "|---|---:|---:|---:|"]
    for letter, name in NAMES.items():
        cells = (f"{result[letter][group]['ndcg@10']:.4f} / {result[letter][group]['hr@10']:.4f}" for group in groups)
        lines.append(f"| ({letter}) {name} | {' | '.join(cells)} |")
    for pair in ("b less a", "c less b"):
        found = result[pair]
        lines.append(
            f"\n({pair[0]}) less ({pair[-1]}): {found['ndcg@10']:+.4f} ({found['from']:+.4f} to {found['to']:+.4f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Yesterday's bundle, today's events, and what training again gains.")
    parser.add_argument("--data", type=Path, help="the folder with u.data and u.item")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    parser.add_argument("--table", type=Path, help="print the table of a result that exists, and measure nothing")
    parser.add_argument("--train", default="--set head.epochs=0", help="options of contrec train, as one string")
    given = parser.parse_args()
    if given.table:
        result = json.loads(given.table.read_text(encoding="utf-8"))
    else:
        started = time.time()
        with tempfile.TemporaryDirectory(prefix="contrec-loop-") as folder:
            result = run(given.data, Path(folder), shlex.split(given.train))
        result |= {"train": given.train, "seconds": round(time.time() - started)}
        result["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        if given.out:
            given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table_of(result) + "\n")


if __name__ == "__main__":
    main()
