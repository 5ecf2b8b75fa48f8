"""How long a swap of bundles holds anybody up: the worst /livez around each of a few swaps.

    python -m bench.serving.swap --items 100000 --swaps 12

Three bundles of random weights in turn, and nothing else that is asked. Around the first two swaps nothing is let go;
from the third on every swap lets go of one bundle.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.serving.pulse import Pulse
from bench.serving.subject import NAME, Server, make_versions, serving
from model.bundle import activate

PATIENCE = 60.0  # seconds for a bundle to be served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--swaps", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="contrec-bench-") as parent:
        folder = Path(parent)
        bundles, names = make_versions(folder, 3, items=given.items, weight=0.0)
        with (
            serving(folder, bundles=bundles, store=f"sqlite:///{folder / 'bench.db'}") as server,
            Pulse(server) as pulse,
        ):
            time.sleep(3)
            quiet, worst = pulse.since(0), []
            for turn in range(given.swaps):
                worst.append(_swap(server, pulse, bundles, names[(turn + 1) % len(names)]))
    sys.stdout.write(
        f"{given.items} items: /livez p50 {statistics.median(quiet):.1f} ms, worst {quiet[-1]:.0f} ms before; worst "
        f"around each swap, in ms: {[round(one) for one in worst]}, their median {statistics.median(worst):.0f}\n"
    )


def _swap(server: Server, pulse: Pulse, bundles: Path, version: str) -> float:
    """The worst beat from the moment at which the pointer is moved until a second after the bundle is served."""
    begun = time.monotonic()
    activate(bundles, NAME, version)
    while httpx.get(f"{server.url}/bundle", timeout=20, trust_env=False).json()["bundle"] != f"{NAME}/{version}":
        if time.monotonic() > begun + PATIENCE:
            raise SystemExit(f"{version} is not served after {PATIENCE:.0f} s")
        time.sleep(0.05)
    time.sleep(1)
    return pulse.since(begun)[-1]


if __name__ == "__main__":
    main()
