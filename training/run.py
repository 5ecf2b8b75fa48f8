"""One training run, whatever the system: what it is given, what it notes on the way, and what it leaves to publish.

    with Run.at(folder, ...) as run:
        with run.stage("trunk") as checkpoint:
            fitted = fit_trunk(..., checkpoint=checkpoint)
            run.report["trunk"] = ...
    return Built(recommender, fill=..., beside={"trunk_alone": anchor})

A system (training/systems) is a function from a Run to a Built. It knows nothing of bundles or of where they lie.

    runs/<key>/run.json            what is trained: data fingerprint, recipe, seed, libraries; the key is its hash
    runs/<key>/<stage>.safetensors where a stage is, or what it came to (training/stages/loop.py)
    runs/<key>/lock                held by the process that trains it
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.bundle import sync
from model.manifest import libraries
from model.recommender import Recommender
from training.data.prepared import Prepared
from training.progress import Progress
from training.recipe import Recipe
from training.stages.loop import EVERY, numbers_of, peak_rss_mib


@dataclass(frozen=True)
class Run:
    """report: what <version>.report.json will hold; a system adds a key for each of its stages.

    folder: where stages keep what a resumed run needs; None keeps nothing.
    """

    prepared: Prepared
    seed: int
    device: str
    progress: Progress
    folder: Path | None = None
    keep_every: float = EVERY
    report: dict[str, Any] = field(default_factory=lambda: {"seconds": {}, "peak_rss_mib": {}})

    @contextmanager
    def stage(self, name: str) -> Iterator[Path | None]:
        """Gives the stage's checkpoint, and records its seconds and the process's peak memory.

        Both count what an interrupted run had spent on the stage when it last wrote its checkpoint.
        """
        checkpoint = None if self.folder is None else self.folder / f"{name}.safetensors"
        earlier: Mapping[str, Any] = {}
        if checkpoint is not None and checkpoint.exists():
            earlier = numbers_of(checkpoint)
        started = time.monotonic()
        yield checkpoint
        spent = earlier.get("seconds", 0.0) + time.monotonic() - started
        self.report["seconds"][name] = round(spent, 2)
        self.report["peak_rss_mib"][name] = max(earlier.get("peak_rss_mib", 0), peak_rss_mib())


@dataclass(frozen=True)
class Built:
    """What a system made.

    fill: writes every file of the bundle into the folder it is given. beside: parts of the recommender, or what it
    might have been, whose test metrics the report shows under these names.
    """

    recommender: Recommender
    fill: Callable[[Path], None]
    beside: Mapping[str, Recommender] = field(default_factory=dict)


def identity(prepared: Prepared, recipe: Recipe, seed: int, device: str) -> dict[str, Any]:
    """Everything that the result hangs on, ready for JSON: two runs that agree here are one run."""
    return {
        "data_fingerprint": prepared.fingerprint,
        "recipe": f"{recipe.name}/{recipe.size}",
        "recipe_config": recipe.model_dump(mode="json"),
        "seed": seed,
        "device": device.partition(":")[0],
        "libraries": libraries(),
    }


@contextmanager
def run_folder(runs: Path, what: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Path]:
    """The folder of this run under runs, locked while it is used. fresh: forget what an earlier one left there.

    Raises ValueError where another process is training the very same thing.
    """
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = runs / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training this already (it holds {folder / 'lock'})") from None
        if fresh:
            for checkpoint in folder.glob("*.safetensors*"):
                checkpoint.unlink()
        (folder / "run.json").write_text(json.dumps(what, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(folder / "run.json")
        sync(folder)
        yield folder
