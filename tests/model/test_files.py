"""What was read from a bundle outlives its files: cut short in place, they would end a process that has them mapped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from model.bundle import write_bundle
from model.files import read_arrays, read_tensors
from model.popular import save_popular
from model.recommender import Popular, Recommender
from model.semantic.decoding import Decoding
from tests.contracts.recommender_contract import ITEMS, toy_catalogue
from tests.model import fitted_semantic
from tests.model.test_continuous_transitions import with_transitions

# Run apart: what it looks for is the end of a process, and garbage that nobody else makes. A network whose hooks hold
# it would be such garbage, which only the collector finds, and the collector stops every thread.
ASK = """
import gc
import sys
from pathlib import Path
import numpy as np
from model import load_recommender

bundle = Path(sys.argv[1])
recommender = load_recommender(bundle)
for file in bundle.rglob("*"):
    if file.is_file():
        file.write_bytes(b"")
rows, scores = recommender.recommend(np.array([0, 1, 2, 3]), k=3)
assert len(rows) == 3 and np.isfinite(scores).all(), (rows, scores)
recommender.neighbours(np.array([3]), np.ones(len(recommender.catalogue), dtype=bool), 3)
gc.collect()
del recommender
held = gc.collect()
assert held == 0, f"{held} objects hold themselves"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.int64)}, path)
    return path


def test_what_was_read_is_what_was_written_and_ours(file: Path) -> None:
    tensors, arrays = read_tensors(file), read_arrays(file)
    assert torch.equal(tensors["a"], torch.arange(1000.0))
    assert torch.equal(tensors["b"], torch.ones(3, dtype=torch.int64))
    np.testing.assert_array_equal(arrays["a"], np.arange(1000, dtype=np.float32))
    tensors["a"] += 1
    arrays["b"] += 1


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_file_that_is_cut_short_is_an_error(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SafetensorError):
        read_tensors(file)
    with pytest.raises(SafetensorError):
        read_arrays(file)


def popular() -> Popular:
    return Popular(toy_catalogue(), np.arange(ITEMS))


@pytest.mark.parametrize(
    "make",
    [popular, with_transitions, lambda: fitted_semantic.fitted().recommender(Decoding())],
    ids=["popular", "contrec", "semantic"],
)
def test_a_recommender_needs_no_file_once_loaded_and_no_collector_at_its_end(
    tmp_path: Path, make: Callable[[], Recommender]
) -> None:
    outlives_its_files(tmp_path, make())


def outlives_its_files(root: Path, recommender: Recommender) -> None:
    fill = (lambda folder: save_popular(recommender, folder)) if isinstance(recommender, Popular) else recommender.save
    bundle = write_bundle(
        root, "toy", kind=recommender.kind, recipe="toy", config={}, data_fingerprint="f", metrics={}, fill=fill
    )
    asked = subprocess.run([sys.executable, "-c", ASK, str(bundle)], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, (asked.returncode, asked.stderr[-2000:])
