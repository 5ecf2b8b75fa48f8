"""How long `contrec data prepare` takes, and how much memory, from one million to 25 million rows.

    python bench/scaling/prepare.py --millions 1 2 5 10 25 --out bench/scaling/prepare.json
    python bench/scaling/prepare.py --table bench/scaling/prepare.json          # the Markdown table again

The rows are synthetic, in the proportions of MovieLens-25M: one user in 154 rows, one item in 424, both with a heavy
tail, unix times, ratings from 0.5 to 5, in random order of time. Each size is prepared by a child process, the command
itself; its peak memory and its seconds of CPU are what the kernel says of that process (wait4), so that other work on
the machine does not enter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

MILLION = 1_000_000
ROWS_OF_A_USER, ROWS_OF_AN_ITEM = 154, 424
START, YEARS = 820_454_400, 25 * 365 * 86_400


def write_table(path: Path, rows: int, seed: int = 0) -> None:
    """A table with `rows` rows, written a million at a time."""
    rng = np.random.default_rng(seed)
    users, items = max(10, rows // ROWS_OF_A_USER), max(10, rows // ROWS_OF_AN_ITEM)
    with path.open("wb") as file:
        for start in range(0, rows, MILLION):
            count = min(MILLION, rows - start)
            pl.DataFrame(
                {
                    "user_id": (users * rng.random(count) ** 1.5).astype(np.int64) + 1,
                    "item_id": (items * rng.random(count) ** 3).astype(np.int64) + 1,
                    "rating": rng.integers(1, 11, count) / 2,
                    "timestamp": START + rng.integers(0, YEARS, count),
                }
            ).write_csv(file, include_header=start == 0)


def measured(command: list[str]) -> tuple[float, int, int]:
    """Seconds of CPU, peak resident bytes and exit status of a command."""
    child = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, 1, 0)])
    _, status, usage = os.wait4(child, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


def measure(millions: float, folder: Path, options: list[str]) -> dict[str, Any]:
    table = folder / "interactions.csv"
    write_table(table, round(millions * MILLION))
    command = [
        sys.executable,
        "-m",
        "contrec.cli",
        "data",
        "prepare",
        "table",
        str(table),
        "--out",
        str(folder / "out"),
    ]
    seconds, peak, status = measured([*command, *options])
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    facts = json.loads((folder / "out" / "facts.json").read_text(encoding="utf-8"))
    row = {
        "millions": millions,
        "users": facts["counts"]["users"],
        "items": facts["counts"]["items"],
        "events": facts["counts"]["events"],
        "file_mib": round(table.stat().st_size / 2**20),
        "cpu_seconds": round(seconds, 1),
        "peak_gib": round(peak / 2**30, 2),
    }
    table.unlink()
    return row


def table_of(result: dict[str, Any]) -> str:
    lines = ["| rows | users | items | file | CPU time | peak memory |", "|---:|---:|---:|---:|---:|---:|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['millions']:g} million | {row['users']:,} | {row['items']:,} | {row['file_mib']:,} MiB "
            f"| {row['cpu_seconds']:.0f} s | {row['peak_gib']:.2f} GiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and peak memory of contrec data prepare.")
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 2, 5, 10, 25])
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    parser.add_argument("--table", type=Path, help="print the table of a result that exists, and measure nothing")
    parser.add_argument("--options", default="--split time", help="of the command, as one string")
    given = parser.parse_args()
    if given.table:
        sys.stdout.write(table_of(json.loads(given.table.read_text(encoding="utf-8"))) + "\n")
        return
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    rows = []
    for millions in given.millions:
        with tempfile.TemporaryDirectory(prefix="contrec-scaling-") as folder:
            rows.append(measure(millions, Path(folder), shlex.split(given.options)))
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
    result = {
        "command": f"contrec data prepare table interactions.csv {given.options}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "polars_threads": os.environ["POLARS_MAX_THREADS"],
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table_of(result) + "\n")


if __name__ == "__main__":
    main()
