"""One training run, whatever the system: what it is given, what it notes on the way, and what it leaves to publish.

    with run.stage("trunk"):
        run.report["trunk"] = ...
    return Built(recommender, fill=..., beside={"trunk_alone": anchor})

A system (training/systems) is a function from a Run to a Built. It knows nothing of bundles or of where they lie.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.recommender import Recommender
from training.data.prepared import Prepared
from training.progress import Progress


@dataclass(frozen=True)
class Run:
    """report: what <version>.report.json will hold; a system adds a key for each of its stages."""

    prepared: Prepared
    seed: int
    device: str
    progress: Progress
    report: dict[str, Any] = field(default_factory=lambda: {"seconds": {}, "peak_rss_mib": {}})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Records the seconds of a stage and the process's peak memory after it."""
        started = time.perf_counter()
        yield
        self.report["seconds"][name] = round(time.perf_counter() - started, 2)
        self.report["peak_rss_mib"][name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@dataclass(frozen=True)
class Built:
    """What a system made.

    fill: writes every file of the bundle into the folder it is given. beside: parts of the recommender, or what it
    might have been, whose test metrics the report shows under these names.
    """

    recommender: Recommender
    fill: Callable[[Path], None]
    beside: Mapping[str, Recommender] = field(default_factory=dict)
