"""The record of a nightly line, and the shapes of what bench/serving measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.serving import subject
from training.recipe import load_recipe
from training.recipes.continuous import ContinuousRecipe

ROOT = Path(__file__).resolve().parents[2]

SOME = """
import pytest
def test_passes(record_property): record_property("took", "no time")
@pytest.mark.parametrize("n", [7, 5])
def test_sends(n, record_property): record_property("fuzz_cases", n)
@pytest.mark.parametrize("n", [1, 2])
def test_is_skipped(n): pytest.skip("no")
"""
BROKEN = """
@pytest.fixture
def broken(): raise OSError
def test_fails(): assert False
def test_breaks(broken): pass
"""


@pytest.mark.parametrize(
    ("tests", "code", "counts"),
    [
        (SOME, 0, {"passed": 3, "failed": 0, "skipped": 2}),
        (SOME + BROKEN, 1, {"passed": 3, "failed": 2, "skipped": 2}),
        (None, 2, {"passed": 0, "failed": 0, "skipped": 0}),
    ],
    ids=["well", "broken", "no tests"],
)
def test_a_nightly_line_leaves_a_record(tmp_path: Path, tests: str | None, code: int, counts: dict[str, int]) -> None:
    line = [sys.executable, "-c", "raise SystemExit(2)"]
    if tests is not None:
        (tmp_path / "test_some.py").write_text(tests)
        loud = ["-W", "error::pytest.PytestWarning", "-W", "ignore::pytest.PytestDeprecationWarning"]
        line = [sys.executable, "-m", "pytest", "-q", *loud, str(tmp_path / "test_some.py")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving.nightly", "--results", str(tmp_path), "some", *line],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "CONTREC_FUZZ": "20"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "nightly-some.json").read_text())
    assert {name: found[name] for name in counts} == counts
    # What was sent, whatever was asked for.
    assert (found["exit_code"], found.get("fuzz_cases")) == (code, None if tests is None else 12)
    assert found["seconds"] > 0
    assert len(found["machine"]["commit"]) == 40


def test_what_is_measured_has_the_shapes_of_the_small_recipe() -> None:
    recipe = load_recipe("contrec", "small")
    assert isinstance(recipe, ContinuousRecipe)
    trunk, head, followed = recipe.trunk, recipe.head, recipe.transitions
    assert (trunk.width, trunk.layers, trunk.heads) == (subject.WIDTH, subject.LAYERS, subject.HEADS)
    assert (trunk.feed_forward, trunk.kernel) == (subject.FEED_FORWARD, subject.KERNEL)
    assert (trunk.max_history, trunk.max_profile) == (subject.MAX_HISTORY, subject.MAX_PROFILE)
    assert (head.hidden, head.blocks, head.norm) == (subject.HEAD_HIDDEN, subject.HEAD_BLOCKS, subject.HEAD_NORM)
    assert (head.samples, head.times) == (subject.SAMPLES, subject.TIMES)
    assert (followed.window, followed.decay, followed.floor) == (subject.WINDOW, subject.DECAY, subject.FLOOR)
    assert followed.keep >= subject.FOLLOWERS, "as many as are kept, at most"
