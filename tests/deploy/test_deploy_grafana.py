"""The dashboards by Grafana's own schema, of the very version that docker-compose.yml runs.

grafana-foundation-sdk is generated from that schema. It reads whatever it is given, so both ways are held here: nothing
of ours is lost when it is read and written again (it knows every key), and every value is of its declared kind (an
enumeration, a number). No test has a running Grafana; tests/compose asks one where its image is to be had.
"""

from __future__ import annotations

import copy
import json
import re
import typing
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
OF_THE_DATA_SOURCE = {"annotations.list.0.titleFormat"}
"""Prometheus' own keys of an annotation, which the dashboard's schema leaves open."""

register_default_plugins()


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Places of ours that theirs does not have, or has otherwise."""
    if isinstance(ours, dict):
        there = theirs if isinstance(theirs, dict) else {}
        return [place for key, value in ours.items() for place in lost(value, there.get(key), f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [place for at, (one, other) in pairs for place in lost(one, other, f"{path}.{at}")]
    return [] if ours == theirs else [path.removeprefix(".")]


def of_another_kind(value: Any, declared: Any, path: str = "") -> list[str]:
    """Places whose value is not what the schema declares."""
    kind, parts = typing.get_origin(declared), typing.get_args(declared)
    if kind in (typing.Union, UnionType):
        faults = [of_another_kind(value, part, path) for part in parts]
        return min(faults, key=len)
    if declared is NoneType:
        return [] if value is None else [path]
    if kind is list:
        if not isinstance(value, list):
            return [path]
        return [place for at, one in enumerate(value) for place in of_another_kind(one, parts[0], f"{path}.{at}")]
    if not isinstance(declared, type) or declared is object:
        return within(value, path)
    if issubclass(declared, Enum):
        return [] if value in {one.value for one in declared} else [path]
    if declared is float:
        return [] if isinstance(value, int | float) and not isinstance(value, bool) else [path]
    return within(value, path) if isinstance(value, declared) else [path]


def within(value: Any, path: str) -> list[str]:
    """The same of the attributes of an object of the schema."""
    if not type(value).__module__.startswith("grafana_foundation_sdk"):
        return []
    hints = typing.get_type_hints(type(value))
    return [
        place
        for name, declared in hints.items()
        for place in of_another_kind(getattr(value, name), declared, f"{path}.{name}")
        if not name.startswith("_")
    ]


def faults(board: dict[str, Any]) -> set[str]:
    read = dashboard.Dashboard.from_json(board)
    kinds = {place.removeprefix(".") for place in within(read, "")}
    return (set(lost(board, json.loads(json.dumps(read, cls=JSONEncoder)))) | kinds) - OF_THE_DATA_SOURCE


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_obeys_grafanas_schema(path: Path) -> None:
    assert faults(json.loads(path.read_text(encoding="utf-8"))) == set()


def test_the_schema_is_of_the_version_that_runs() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    (version,) = re.findall(r"grafana/grafana:([\d.]+)", text)
    assert metadata.version("grafana-foundation-sdk").partition("!")[2] == version


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("panels.1.gridPosition", {"x": 0}),
        ("panels.1.options.colourMode", "value"),
        ("panels.1.options.graphMode", "areas"),
        ("panels.1.fieldConfig.defaults.unit", 5),
        ("panels.8.options.tooltip.mode", "mutli"),
        ("panels.8.targets.0.exprr", "up"),
        ("panels.8.fieldConfig.defaults.custom.stacking", {"mode": "nrmal"}),
        ("timezone", 1),
    ],
)
def test_a_slip_is_found(place: str, value: Any) -> None:
    board = copy.deepcopy(json.loads(BOARDS[0].read_text(encoding="utf-8")))
    inner: Any = board
    *path, last = place.split(".")
    for word in path:
        inner = inner[int(word) if word.isdigit() else word]
    inner[last] = value
    assert faults(board) != set()
