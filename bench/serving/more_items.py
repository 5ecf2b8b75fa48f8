"""What more items cost a request: two servers side by side, asked in turns, so that the machine's moods hit both.

    .venv/bin/python -m bench.serving.more_items --items 10000 100000

Requests of either kind, cached and uncached (a history of 50), at a low rate, open loop, as in `bench.serving`; the
median of each turn, and the median over the turns of what the second catalogue adds to the first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.serving.__main__ import cached, uncached
from bench.serving.load import open_loop, run
from bench.serving.machine import ROOT
from bench.serving.subject import HISTORY
from bench.serving.two_commits import ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    kinds = {f"uncached, history of {HISTORY}": uncached, "cached": lambda _: cached}
    medians: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="contrec-bench-")))
        servers = [(ready(stack, ROOT, folder / str(n), items), items) for n, items in enumerate(given.items)]
        for _ in range(given.turns):
            for kind, ask in kinds.items():
                asked = (
                    open_loop(server.host, server.port, ask(items), rate=given.rate, seconds=given.seconds)
                    for server, items in servers
                )
                first, second = (run(load).latency_ms(50) for load in asked)
                medians[kind].append((first, second))
    for kind, found in medians.items():
        for items, of in zip(given.items, zip(*found, strict=True), strict=True):
            sys.stdout.write(f"{kind}, {items} items: p50 {statistics.median(of):.1f} ms, median of {len(of)} turns\n")
        more = sorted(second - first for first, second in found)
        sys.stdout.write(f"{kind}, added: {statistics.median(more):.1f} ms ({more[0]:.1f} to {more[-1]:.1f})\n")


if __name__ == "__main__":
    main()
