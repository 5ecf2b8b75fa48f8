"""Cells: what one model reached on one set with one seed, kept as JSON with every user's rank.

The ranks make a cell comparable user by user long after its model is gone: one character a user, `1` to `9` and `A`
for the ranks 1 to 10, `.` beyond. Knows no model and no training.

    write(cell); cells = read_all()
    mean, low, high = compare([cell_a_seed0, cell_a_seed1], [cell_b_seed0, cell_b_seed1])
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import sync
from training.evaluate import Metrics

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "bench" / "quality" / "results"
_MARKS = "123456789A"
_GAIN = {mark: 1 / np.log2(rank + 1) for rank, mark in enumerate(_MARKS, start=1)} | {".": 0.0}


@dataclass(frozen=True, slots=True)
class Cell:
    """metrics: `Metrics.as_dict`. seconds: fitting and evaluating, cached parts included. ranks: of the test part.

    commit: of the code that fitted it; empty in cells from before it was kept. milliseconds: of one request, where the
    scorer is one that could be served (`bench.quality.speed`).
    """

    dataset: str
    model: str
    seed: int
    metrics: dict[str, Any]
    validation: float  # NDCG@10, masked: what choices were made by
    configuration: dict[str, Any]
    parameters: int
    seconds: float
    command: str
    ranks: str
    split: str = "leave-one-out"
    notes: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return RESULTS / self.dataset / self.model / f"{self.seed}.json"

    def user_ndcg(self) -> NDArray[np.float64]:
        """(n,) masked NDCG@10 of each user, in the order of the prepared set."""
        return np.array([_GAIN[mark] for mark in self.ranks])


def marks(metrics: Metrics) -> str:
    """One character a user; see the module."""
    return "".join(_MARKS[rank - 1] if rank <= len(_MARKS) else "." for rank in metrics.ranks.tolist())


def write(cell: Cell) -> Path:
    """Whole or not at all: an interrupted run leaves no half cell."""
    record = asdict(cell)
    metrics = record.pop("metrics")
    record |= metrics
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    new = cell.path.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sync(new)
    new.rename(cell.path)
    return cell.path


def read(path: Path) -> Cell:
    """What `write` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    own = set(Cell.__slots__) - {"metrics"}
    metrics = {key: value for key, value in record.items() if key not in own}
    return Cell(metrics=metrics, **{key: record[key] for key in own if key in record})


def read_all(results: Path = RESULTS) -> list[Cell]:
    """Every cell that is there, by set, model and seed."""
    return [read(path) for path in sorted(results.glob("*/*/*.json"))]


def keep(place: str, found: dict[str, Any], command: str) -> None:
    """What was measured beside the cells, as results/<place>.json with commit and command; it is printed too."""
    path = RESULTS / f"{place}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found | {"commit": commit(), "command": command}, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))  # noqa: T201 - its purpose


def commit() -> str:
    """Of this checkout, `+` behind it where code or recipes were changed since; empty where git has nothing to say."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)

    found = git("rev-parse", "--short", "HEAD")
    if found.returncode:
        return ""
    changed = git("diff", "--quiet", "HEAD", "--", "*.py", "*.toml").returncode
    return found.stdout.strip() + ("+" if changed else "")


def compare(mine: Sequence[Cell], theirs: Sequence[Cell], *, draws: int = 2000) -> tuple[float, float, float]:
    """Mean difference of test NDCG@10 and its 95 % interval, by a bootstrap over users.

    Several seeds of one model are averaged for each user first, so the interval is over users, not over seeds.
    """
    difference = np.mean([c.user_ndcg() for c in mine], axis=0) - np.mean([c.user_ndcg() for c in theirs], axis=0)
    generator = np.random.default_rng(0)
    size = len(difference)
    means = [difference[generator.integers(size, size=size)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
