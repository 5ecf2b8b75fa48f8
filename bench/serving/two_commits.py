"""Whether this code answers as cheaply as an earlier commit: a server of each side by side, asked in turns by one
client, so that the machine's moods hit both alike.

    .venv/bin/python -m bench.serving.two_commits 199ec69

What is compared is CPU time of the server's process for each answer and the median latency, phase by phase: the ratio
of either in every turn, and the median of those. *constant* asks neither store nor model: what it differs by, nothing
that recommends is to blame for. The earlier commit works in a worktree of its own, which is removed afterwards; it
makes its own bundle and fills its own store, so that only what is asked must be alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving.__main__ import USERS, cached, constant, mixed, uncached, warm
from bench.serving.load import RequestOf, closed_loop, run
from bench.serving.machine import ROOT
from bench.serving.subject import Server, serving

_MAKE = """
import sys
from pathlib import Path
from bench.serving.subject import fill_store, make_bundle
folder, store, users, items = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
fill_store(store, users=users, items=items)
print(make_bundle(folder, items=items, weight=0.0))
"""


@dataclass
class Phase:
    """What one phase took, in every turn, of both: pairs (earlier, now). Milliseconds."""

    asks: tuple[RequestOf, RequestOf]
    cpu: list[tuple[float, float]] = field(default_factory=list)
    median: list[tuple[float, float]] = field(default_factory=list)


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit while the block lasts. Raises CalledProcessError where git knows no such commit."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def ready(stack: ExitStack, root: Path, folder: Path, items: int) -> Server:
    """A warm server of the code in `root`, with a bundle and a store of its own in `folder`."""
    folder.mkdir()
    store = f"sqlite:///{folder / 'bench.db'}"
    made = subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder), store, str(USERS), str(items)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    server = stack.enter_context(serving(folder, root=root, bundles=made.stdout.strip(), store=store))
    warm(server)
    return server


def turn(server: Server, ask: RequestOf, seconds: float) -> tuple[float, float]:
    """CPU milliseconds for each answer, and the median latency."""
    before = server.cpu_seconds()
    result = run(closed_loop(server.host, server.port, ask, clients=1, seconds=seconds))
    if result.errors:
        raise RuntimeError(f"{result.errors} of {len(result.answers)} answers failed: {server.log}")
    return 1000 * (server.cpu_seconds() - before) / max(1, len(result.answers)), result.latency_ms(50)


def line(name: str, found: list[tuple[float, float]]) -> str:
    earlier, now = (statistics.median(values) for values in zip(*found, strict=True))
    ratios = sorted(after / before for before, after in found)
    return (
        f"{name:<28} {earlier:8.2f} {now:8.2f} {statistics.median(ratios):8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each phase in each turn")
    parser.add_argument("--turns", type=int, default=15)
    given = parser.parse_args()

    phases = {
        "constant": Phase((constant, constant)),
        "cached": Phase((cached, cached)),
        "event to 3 requests": Phase((mixed(given.items), mixed(given.items))),
        "uncached": Phase((uncached(given.items), uncached(given.items))),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="contrec-bench-")))
        earlier = stack.enter_context(worktree(given.commit, folder / "worktree"))
        servers = [ready(stack, root, folder / name, given.items) for root, name in ((earlier, "old"), (ROOT, "new"))]
        for number in range(given.turns):
            for phase in phases.values():
                order = (0, 1) if number % 2 else (1, 0)
                took = {which: turn(servers[which], phase.asks[which], given.seconds) for which in order}
                phase.cpu.append((took[0][0], took[1][0]))
                phase.median.append((took[0][1], took[1][1]))
    sys.stdout.write(f"{'':<28} {given.commit[:8]:>8} {'now':>8} {'ratio':>8}   of {given.turns} turns\n")
    for name, phase in phases.items():
        sys.stdout.write(line(f"{name}, CPU ms", phase.cpu) + line("  p50 ms", phase.median))


if __name__ == "__main__":
    main()
