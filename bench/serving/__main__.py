"""Measures the real server over the loopback and prints one table; `make bench-serving`.

    python -m bench.serving                       # every configuration, about four minutes
    python -m bench.serving --only 10000:0:redis --seconds 4

A configuration is items:lambda:store. Load generator and server share the machine, as the table's head says. Every
phase is open loop (Poisson arrivals at a fixed mean rate, latency from the intended start) but the two named
"saturation", where 32 clients ask again as soon as they are answered. The whole result goes to --out as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.serving.load import RequestOf, Result, closed_loop, open_loop, post, run
from bench.serving.machine import machine
from bench.serving.server import CONSTANT
from bench.serving.subject import HISTORY, Server, fill_store, make_bundle, serving
from tests.redis_server import RedisServer

CONFIGURATIONS = ("10000:0:redis", "10000:0:sqlite", "10000:0.25:redis", "100000:0:redis", "100000:0.25:redis")
USERS = 500
CLIENTS = 32


@dataclass
class Row:
    """One line of the table. *_ms: milliseconds; cpu_ms: CPU time of the server's process for each answer.
    memory_mib: resident, after the phase."""

    configuration: str
    phase: str
    offered: float | None
    answered: float
    errors: int
    degraded: int  # recommendations from another rung than the model, or without the stored history
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    late_ms: float
    memory_mib: float
    stages: dict[str, float]


def constant(draw: random.Random) -> tuple[str, bytes]:
    return "constant", post(CONSTANT, {"user_id": f"u{draw.randrange(USERS)}", "k": 10})


def cached(draw: random.Random) -> tuple[str, bytes]:
    """A user who was here before: head and search alone."""
    return "recommend", post("/recommend", {"user_id": f"u{draw.randrange(USERS)}", "k": 10})


def uncached(items: int) -> RequestOf:
    def ask(draw: random.Random) -> tuple[str, bytes]:
        history = [f"i{draw.randrange(items)}" for _ in range(HISTORY)]
        return "recommend", post("/recommend", {"history": history, "k": 10})

    return ask


def mixed(items: int) -> RequestOf:
    """One event to three requests; the request after an event reads the history anew."""
    numbers = itertools.count()

    def ask(draw: random.Random) -> tuple[str, bytes]:
        number = next(numbers)
        if number % 4:
            return cached(draw)
        user, item = f"u{draw.randrange(USERS)}", f"i{draw.randrange(items)}"
        return "event", post("/events", {"event_id": f"mixed-{number}", "user_id": user, "item_id": item})

    return ask


def warm(server: Server) -> None:
    """Every user once, so that their tokens are kept; and both routes, so that nothing is first."""
    numbers = itertools.count()

    def ask(draw: random.Random) -> tuple[str, bytes]:
        return "recommend", post("/recommend", {"user_id": f"u{next(numbers) % USERS}", "k": 10})

    while next(numbers) < 2 * USERS:
        run(closed_loop(server.host, server.port, ask, clients=4, seconds=1))
    run(closed_loop(server.host, server.port, constant, clients=4, seconds=0.5))


def stages(result: Result) -> dict[str, float]:
    """Median milliseconds by stage, as the answers tell; `around` is what the client waited beside `total`."""
    told = [
        (json.loads(answer.body)["timings_ms"], 1000 * (answer.ended - answer.started))
        for answer in result.answers[::5]
        if answer.status == 200 and answer.kind == "recommend"
    ]
    if not told:
        return {}
    found = {stage: statistics.median(timings[stage] for timings, _ in told) for stage in told[0][0]}
    found["around"] = statistics.median(waited - timings["total"] for timings, waited in told)
    return {stage: round(value, 3) for stage, value in found.items()}


def degraded(result: Result) -> int:
    told = [json.loads(a.body) for a in result.answers if a.status == 200 and a.kind == "recommend"]
    return sum(answer["source"] != "model" or "degraded" in answer for answer in told)


def measure(configuration: str, server: Server, items: int, seconds: float, ceiling: bool) -> Iterator[Row]:
    """The phases of one configuration, each beginning with a warm server."""

    def row(phase: str, offered: float | None, load: Callable[[], Result]) -> Row:
        before = server.cpu_seconds()
        result = load()
        spent = server.cpu_seconds() - before
        return Row(
            configuration=configuration,
            phase=phase,
            offered=offered,
            answered=round(result.rate, 1),
            errors=result.errors,
            degraded=degraded(result),
            **{f"p{p}_ms": round(result.latency_ms(p), 2) for p in (50, 95, 99)},
            cpu_ms=round(1000 * spent / max(1, len(result.answers)), 3),
            late_ms=round(result.late_ms, 1),
            memory_mib=round(server.memory_mib(), 1),
            stages=stages(result),
        )

    host, port = server.host, server.port

    def opened(phase: str, ask: RequestOf, rate: float) -> Row:
        return row(phase, rate, lambda: run(open_loop(host, port, ask, rate=rate, seconds=seconds)))

    def saturated(phase: str, ask: RequestOf) -> Row:
        return row(phase, None, lambda: run(closed_loop(host, port, ask, clients=CLIENTS, seconds=seconds)))

    warm(server)
    if ceiling:
        yield opened("constant", constant, 200)
    yield saturated("constant, saturation", constant)
    yield opened("cached", cached, 200)
    yield saturated("cached, saturation", cached)
    yield opened(f"uncached, history of {HISTORY}", uncached(items), 20)
    yield opened("one event to three requests", mixed(items), 100)


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty store of this kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis")
    redis.start()
    try:
        yield redis.url
    finally:
        redis.stop()


def table(rows: list[Row]) -> str:
    """Markdown."""
    columns = (
        "configuration",
        "load",
        "offered/s",
        "answered/s",
        "errors",
        "degraded",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "CPU ms",
        "MiB",
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        offered = "as many as it can" if row.offered is None else f"{row.offered:g}"
        counts = f"{row.answered:.0f} | {row.errors} | {row.degraded}"
        times = f"{row.p50_ms:.1f} | {row.p95_ms:.1f} | {row.p99_ms:.1f} | {row.cpu_ms:.2f} | {row.memory_mib:.0f}"
        lines.append(f"| {row.configuration} | {row.phase} | {offered} | {counts} | {times} |")
    shown = ("around", "store", "queue", "encode", "generate", "retrieve", "total")
    lines += ["", "Where the milliseconds of a recommendation go (medians):", ""]
    lines += ["| configuration | load | " + " | ".join(shown) + " |", "|" + "---|" * (len(shown) + 2)]
    for row in rows:
        if row.stages and not row.phase.startswith("constant"):
            values = " | ".join(f"{row.stages[stage]:.2f}" for stage in shown)
            lines.append(f"| {row.configuration} | {row.phase} | {values} |")
    return "\n".join(lines)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="ITEMS:LAMBDA:STORE", help="measure only these")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase")
    parser.add_argument("--out", type=Path, help="where the whole result goes, as JSON")
    given = parser.parse_args()
    rows: list[Row] = []
    for number, configuration in enumerate(given.only or CONFIGURATIONS):
        items, weight, kind = configuration.split(":")
        if kind == "redis" and shutil.which("redis-server") is None:
            say(f"{configuration} is left out: there is no redis-server on the PATH")
            continue
        folder = Path(tempfile.mkdtemp(prefix="contrec-bench-"))
        try:
            bundles = make_bundle(folder, items=int(items), weight=float(weight))
            with store_of(kind, folder) as address:
                fill_store(address, users=USERS, items=int(items))
                with serving(folder, bundles=bundles, store=address) as server:
                    for row in measure(configuration, server, int(items), given.seconds, ceiling=number == 0):
                        rows.append(row)
                        said = f"{row.answered:8.0f}/s  p50 {row.p50_ms:8.2f} ms  p99 {row.p99_ms:8.2f} ms"
                        wrong = f"{row.errors} errors, {row.degraded} degraded"
                        say(f"{row.configuration:18s} {row.phase:30s} {said}  {wrong}")
        finally:
            shutil.rmtree(folder)
    whole = {"machine": machine(), "seconds": given.seconds, "rows": [asdict(row) for row in rows]}
    if given.out is not None:
        given.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    described = whole["machine"]
    head = f"{described['cpu']}, {described['cores']} cores shared by server, store and load generator"
    sys.stdout.write(f"{head}\n\n{table(rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
