"""Half an hour of ordinary load on the real server: does its memory stay flat, does anything fail?

    python -m bench.serving.soak --minutes 30 --rate 20 --out bench/serving/results/nightly.json

One event to three requests, open loop, Redis. Memory is the process's resident size; what it holds after a third of the
time is compared with what it holds at the end, medians of a tenth each. Exit code 1 when memory moved by more than 2 %
or a request failed. Whatever failed or was degraded is named with its second, beside what the server and Redis said at
the time and how late this process itself was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.serving.__main__ import USERS, degraded, mixed, store_of, warm
from bench.serving.load import Answer, Result, open_loop, run
from bench.serving.machine import machine
from bench.serving.subject import Server, fill_store, make_bundle, serving

ITEMS = 10_000
FLAT = 0.02
EVERY_S = 5.0
NAMED = 100  # failures, degraded answers and complaints that are told one by one


async def soak(server: Server, rate: float, seconds: float) -> tuple[Result, list[tuple[float, float]]]:
    """The load, and (seconds since the beginning, MiB) every few seconds beside it."""
    sizes: list[tuple[float, float]] = []
    begun = time.monotonic()

    async def watch() -> None:
        while True:
            sizes.append((round(time.monotonic() - begun, 1), round(server.memory_mib(), 2)))
            await asyncio.sleep(EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        result = await open_loop(server.host, server.port, mixed(ITEMS), rate=rate, seconds=seconds)
    finally:
        watching.cancel()
    return result, sizes


def wrong(result: Result) -> list[dict[str, Any]]:
    """What was not answered as it should, in order: second, kind, status, milliseconds and what the answer said."""
    begun = min((answer.started for answer in result.answers), default=0.0)
    found = []
    for answer in sorted(result.answers, key=lambda answer: answer.started):
        if (what := complaint(answer)) is not None:
            ms = round(1000 * (answer.ended - answer.started), 1)
            found.append(
                {"second": round(answer.started - begun, 1), "kind": answer.kind, "status": answer.status, "ms": ms}
                | {"what": what}
            )
    return found[:NAMED]


def complaint(answer: Answer) -> str | None:
    """What is wrong with an answer, or None."""
    if answer.status != 200:
        return json.loads(answer.body)["error"]["code"] if answer.body else "no answer"
    if answer.kind != "recommend":
        return None
    said = json.loads(answer.body)
    degradation: str | None = said.get("degraded")
    return degradation or (None if said["source"] == "model" else said["source"])


def complaints(log: Path, *signs: str) -> list[str]:
    """Lines of a log that hold one of these signs. Those that send one to a page on the net are left out: advice."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return [line for line in lines if any(sign in line for sign in signs) and "://" not in line][:NAMED]


def told(result: Result, sizes: list[tuple[float, float]], rate: float) -> dict[str, Any]:
    """The verdict and what it rests on."""
    mib = [size for _, size in sizes]
    tenth = max(1, len(mib) // 10)
    early = statistics.median(mib[len(mib) // 3 : len(mib) // 3 + tenth])
    late = statistics.median(mib[-tenth:])
    return {
        "machine": machine(),
        "rate": rate,
        "minutes": round(result.seconds / 60, 1),
        "requests": len(result.answers),
        "errors": result.errors,
        "statuses": result.statuses,
        "degraded": degraded(result),
        "p50_ms": round(result.latency_ms(50), 2),
        "p99_ms": round(result.latency_ms(99), 2),
        "memory_mib_after_a_third": early,
        "memory_mib_at_the_end": late,
        "memory_moved": round(late / early - 1, 5),
        "flat_within": FLAT,
        "generator_late_ms": round(result.late_ms, 1),
        "wrong": wrong(result),
        "sizes": sizes[:: max(1, len(sizes) // 60)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="contrec-soak-") as name:
        folder = Path(name)
        bundles = make_bundle(folder, items=ITEMS, weight=0.0)
        with store_of("redis", folder) as address:
            fill_store(address, users=USERS, items=ITEMS)
            with serving(folder, bundles=bundles, store=address) as server:
                warm(server)
                result, sizes = run(soak(server, given.rate, 60 * given.minutes))
        verdict = told(result, sizes, given.rate)
        verdict["server_said"] = complaints(server.log, " WARNING ", " ERROR ", "Traceback")
        verdict["redis_said"] = complaints(folder / "redis" / "redis.log", " # ", "slow", "fsync")
    text = json.dumps(verdict, indent=1) + "\n"
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return int(verdict["errors"] > 0 or abs(verdict["memory_moved"]) > FLAT)


if __name__ == "__main__":
    sys.exit(main())
