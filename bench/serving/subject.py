"""What is measured: a bundle of the `small` recipe's shapes, users with histories, and a server of our own.

The weights are random (a seed makes them): speed does not depend on what was learnt, only on shapes. The head's output
layer is scaled so that its samples lie near the trunk's vector, as a trained head's do.

    bundles = make_bundle(folder, items=10_000, weight=0.25)
    with serving(folder, bundles, store) as server: ...
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch

from bench.serving.machine import ROOT
from model.bundle import activate, active, write_bundle
from model.catalogue import Catalogue, Item
from model.continuous.backbone import BackboneShape, Trunk
from model.continuous.head import Head, HeadShape
from model.continuous.hybrid import Hybrid
from model.continuous.mixture import Mixture
from model.continuous.recommender import ContinuousRecommender
from model.continuous.transitions import Transitions, WithTransitions
from service.stores import open_store
from service.stores.contract import Event, append_all
from tests.redis_server import free_port

NAME = "bench"
HISTORY = 50

# The `small` size of training/recipes/contrec.toml; tests/bench holds the two together.
WIDTH, LAYERS, HEADS, FEED_FORWARD, MAX_HISTORY, KERNEL, MAX_PROFILE = 128, 2, 2, 256, 200, 4, 500
HEAD_HIDDEN, HEAD_BLOCKS, HEAD_NORM, SAMPLES, TIMES = 256, 3, 2.0, 8, (0.7,)
ALPHA = 0.5
FOLLOWERS, WINDOW, DECAY, FLOOR = 100, 10, 0.8, 1e-3  # items known to have followed one: 41 on Sports, 217 on ML-1M


def make_recommender(items: int, weight: float, seed: int = 0) -> WithTransitions:
    """Random weights of the `small` shapes, every expert. weight: lambda of the mixture; 0 is the trunk alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = Trunk(BackboneShape(WIDTH, LAYERS, HEADS, FEED_FORWARD, MAX_HISTORY, KERNEL))
        head = Head(HeadShape(WIDTH, HEAD_HIDDEN, HEAD_BLOCKS, HEAD_NORM))
        torch.nn.init.normal_(head.outputs.weight, std=0.1)
        for block in head.blocks:
            torch.nn.init.normal_(block.modulation.weight, std=0.02)
        vectors = torch.nn.functional.normalize(torch.randn(items, WIDTH), dim=1)
        bias = 0.1 * torch.randn(items)
        counts = torch.randint(1, 1000, (items,))
        words = Trunk(BackboneShape(WIDTH, LAYERS, HEADS, FEED_FORWARD, MAX_HISTORY, KERNEL))
        places = torch.nn.functional.normalize(torch.randn(items, WIDTH), dim=1)
    names = ("red", "small", "winter", "garden", "night", "paper", "river", "stone")
    catalogue = Catalogue(
        Item(
            item_id=f"i{n}",
            title=f"The {names[n % 8]} {names[n // 8 % 8]} book, volume {n}",
            categories=(f"genre-{n % 20}", f"shelf-{n % 7}"),
        )
        for n in range(items)
    )
    mixture = Mixture(samples=SAMPLES, times=TIMES, weight=weight)
    behaviour = ContinuousRecommender(catalogue, trunk, head, vectors, bias, counts, mixture, max_profile=MAX_PROFILE)
    alone = Mixture(samples=1, times=TIMES, weight=0.0)
    text = ContinuousRecommender(catalogue, words, head, places, bias, counts, alone, max_profile=MAX_PROFILE)
    return WithTransitions(Hybrid(behaviour, text, ALPHA), _transitions(items, seed), 0.5, FLOOR)


def _transitions(items: int, seed: int) -> Transitions:
    draw, each = np.random.default_rng(seed), min(FOLLOWERS, items)
    rows = np.sort((draw.integers(items, size=(items, 1)) + np.arange(each)) % items, axis=1)
    counts = draw.random(rows.size, dtype=np.float32)
    starts = np.arange(items + 1, dtype=np.int64) * each
    return Transitions(starts, rows.ravel().astype(np.int32), counts, WINDOW, DECAY)


def make_bundle(folder: Path, *, items: int, weight: float, seed: int = 0, name: str = NAME) -> Path:
    """Publishes and activates a bundle; returns the folder of bundles."""
    root = folder / f"bundles-{items}-{weight:g}"
    path = write_bundle(
        root,
        name,
        kind="continuous",
        recipe="contrec",
        config={"size": "small", "weights": "random"},
        data_fingerprint=f"none: random weights of seed {seed}",
        metrics={},
        fill=make_recommender(items, weight, seed).save,
    )
    activate(root, name, path.name)
    return root


def make_versions(folder: Path, count: int, *, items: int, weight: float) -> tuple[Path, list[str]]:
    """So many versions in one folder of bundles, alike but for their weights, the first active; folder and names."""
    root, *others = [make_bundle(folder / str(seed), items=items, weight=weight, seed=seed) for seed in range(count)]
    return root, [version_of(root), *(put_beside(root, other) for other in others)]


def put_beside(root: Path, other: Path) -> str:
    """Moves the active version of another folder of bundles into this one, not active there; its name."""
    version = version_of(other)
    shutil.move(other / NAME / version, root / NAME / version)
    return version


def version_of(root: Path) -> str:
    """The active version in a folder of bundles."""
    path = active(root, NAME)
    assert path is not None
    return path.name


def fill_store(address: str, *, users: int, items: int, seed: int = 0) -> None:
    """`users` users u0, u1, ... with a history of 50 events each."""
    draw = random.Random(seed)

    def events() -> Iterator[Event]:
        for user in range(users):
            for n in range(HISTORY):
                yield Event(f"{user}-{n}", f"u{user}", f"i{draw.randrange(items)}", time=float(n))

    async def fill() -> None:
        store = await open_store(address, timeout=5.0)
        try:
            await append_all(store, events())
        finally:
            await store.close()

    asyncio.run(fill())


@dataclass
class Server:
    """A running server. pid: for its CPU time and memory."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """Of all its threads, since it began."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """Resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20


def start(folder: Path, module: str = "bench.serving.server", *, root: Path = ROOT, **settings: object) -> Server:
    """Starts a server of the code in `root` that works in this folder; the settings are CONTREC_ variables."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONTREC_")}
    given: dict[str, object] = {"port": port, "metrics_port": 0, "bundle": NAME, "drain_wait_s": 0} | settings
    environment |= {f"CONTREC_{name.upper()}": str(value) for name, value in given.items()}
    environment["PYTHONPATH"] = str(root)
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return Server(process, "127.0.0.1", int(str(given["port"])), log)


def wait_ready(server: Server, seconds: float = 240.0) -> None:
    """Returns once /readyz says yes. Raises RuntimeError with the log when it does not."""
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=server.url, timeout=5, trust_env=False) as client:
        while server.process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get("/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise RuntimeError(f"the server is not ready:\n{server.log.read_text()}")


@contextmanager
def serving(
    folder: Path, module: str = "bench.serving.server", *, root: Path = ROOT, **settings: object
) -> Iterator[Server]:
    """A ready server, ended with SIGTERM when the block is left."""
    server = start(folder, module, root=root, **settings)
    try:
        wait_ready(server)
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
