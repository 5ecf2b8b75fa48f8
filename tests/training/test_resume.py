"""An interrupted run goes on as if nothing had happened: 2N steps equal N, a cut and N, to the bit."""

from __future__ import annotations

import fcntl
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.manifest import MANIFEST
from training.collaborative import spectral
from training.data.prepared import Prepared
from training.recipe import load_recipe
from training.run import identity, run_folder
from training.stages.head import fit_head
from training.stages.loop import Loop, numbers_of, read, write
from training.stages.tokenizer import fit_tokenizer
from training.stages.trunk import fit_trunk
from training.train import train

QUICK = (
    "signals.spectral_dim=8",
    "signals.text_dim=8",
    "signals.text_buckets=256",
    "tokenizer.token_dim=8",
    "tokenizer.hidden=16",
    "tokenizer.epochs=4",
    "trunk.width=32",
    "trunk.layers=1",
    "trunk.heads=2",
    "trunk.feed_forward=32",
    "trunk.max_history=20",
    "trunk.tokens_per_step=512",
    "trunk.epochs=3",
    "trunk.warmup_steps=5",
    "trunk.dropout=0.2",
    "trunk.validation_users=100",
    "head.hidden=32",
    "head.epochs=2",
    "head.steps_per_epoch=10",
)
RECIPE = load_recipe("contrec", "tiny", QUICK)


class Cut(Exception):
    """What interrupts a loop here; the file that it left behind is all that the next attempt has."""


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes the n-th call of a Loop's method the last one; 0 lets everything pass again."""

    def arm(method: str, calls: int) -> None:
        monkeypatch.undo()
        if calls == 0:
            return
        original, count = getattr(Loop, method), 0

        def counted(self: Loop, *given: dict[str, float]) -> None:
            nonlocal count
            original(self, *given)
            count += 1
            if count == calls:
                raise Cut

        monkeypatch.setattr(Loop, method, counted)

    return arm


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def tokens_of(prepared: Prepared) -> Tensor:
    return torch.randn(len(prepared.catalogue), 2, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("epoch", [1, 3])
def test_the_tokenizer_goes_on_to_the_bit(demo: Prepared, tmp_path: Path, cut_after: Callable, epoch: int) -> None:
    collaborative, known = spectral(*demo.train_histories(), len(demo.catalogue), 8)
    text = np.random.default_rng(0).normal(size=(len(demo.catalogue), 4)).astype(np.float32)

    def fit(**where: object) -> tuple:
        return fit_tokenizer(collaborative, known, text, RECIPE.tokenizer, seed=0, **where)

    whole, tokens, health = fit()
    kept = {"checkpoint": tmp_path / "tokenizer.safetensors", "keep_every": 0.0}
    cut_after("next_epoch", epoch)
    with pytest.raises(Cut):
        fit(**kept)
    cut_after("next_epoch", 0)
    torch.randn(5)
    again, tokens_again, health_again = fit(**kept)
    assert equal(whole.state_dict(), again.state_dict())
    assert torch.equal(tokens, tokens_again)
    assert health == health_again


@pytest.mark.parametrize(("method", "calls"), [("step", 3), ("step", 12), ("next_epoch", 1), ("next_epoch", 3)])
def test_the_trunk_goes_on_to_the_bit(
    demo: Prepared, tmp_path: Path, cut_after: Callable, method: str, calls: int
) -> None:
    """Cut inside the first epoch, inside a later one, between two, and after the last but before it is done."""
    tokens = tokens_of(demo)
    whole = fit_trunk(demo, tokens, RECIPE.trunk, seed=0)
    kept = {"checkpoint": tmp_path / "trunk.safetensors", "keep_every": 0.0}
    cut_after(method, calls)
    with pytest.raises(Cut):
        fit_trunk(demo, tokens, RECIPE.trunk, seed=0, **kept)
    place = numbers_of(kept["checkpoint"])["place"]
    assert (place["batch"] > 0) == (method == "step"), "the cut lies where the test says"
    cut_after(method, 0)
    torch.manual_seed(99)
    told: list[int] = []
    again = fit_trunk(
        demo, tokens, RECIPE.trunk, seed=0, progress=lambda stage, epoch, of, values: told.append(epoch), **kept
    )
    assert equal(whole.trunk.state_dict(), again.trunk.state_dict())
    assert equal(whole.space.state_dict(), again.space.state_dict())
    assert (whole.epochs, whole.best_epoch) == (again.epochs, again.best_epoch)
    assert told == list(range(place["epoch"] + 1, 4)), "an epoch that was done is not done again"
    third = fit_trunk(demo, tokens, RECIPE.trunk, seed=0, progress=lambda *_: pytest.fail("it was done"), **kept)
    assert equal(whole.trunk.state_dict(), third.trunk.state_dict())


def test_patience_holds_over_a_cut(demo: Prepared, tmp_path: Path, cut_after: Callable) -> None:
    """Killed right after the epoch that ends the run: the run is over, and not one epoch longer."""
    part = load_recipe("contrec", "tiny", [*QUICK, "trunk.patience=1", "trunk.epochs=9", "trunk.learning_rate=3e-2"])
    whole = fit_trunk(demo, tokens_of(demo), part.trunk, seed=0)
    assert len(whole.epochs) < 9, "this run must have ended early, or the test holds nothing"
    kept = {"checkpoint": tmp_path / "trunk.safetensors", "keep_every": 0.0}
    cut_after("next_epoch", len(whole.epochs))
    with pytest.raises(Cut):
        fit_trunk(demo, tokens_of(demo), part.trunk, seed=0, **kept)
    cut_after("next_epoch", 0)
    again = fit_trunk(demo, tokens_of(demo), part.trunk, seed=0, **kept)
    assert again.epochs == whole.epochs
    assert equal(whole.trunk.state_dict(), again.trunk.state_dict())


@pytest.mark.parametrize(("method", "calls"), [("step", 4), ("step", 14), ("next_epoch", 1), ("next_epoch", 2)])
def test_the_head_goes_on_to_the_bit(
    demo: Prepared, tmp_path: Path, cut_after: Callable, method: str, calls: int
) -> None:
    trunk = fit_trunk(demo, tokens_of(demo), RECIPE.trunk, seed=0)
    anchor = trunk.recommender(demo, RECIPE.trunk.max_profile)

    def fit(**where: object):
        return fit_head(demo, anchor, RECIPE.head, RECIPE.trunk, seed=0, **where)

    whole = fit()
    kept = {"checkpoint": tmp_path / "head.safetensors", "keep_every": 0.0}
    cut_after(method, calls)
    with pytest.raises(Cut):
        fit(**kept)
    cut_after(method, 0)
    again = fit(**kept)
    assert equal(whole.head.state_dict(), again.head.state_dict())
    assert (whole.mixture, whole.lead, whole.epochs) == (again.mixture, again.lead, again.epochs)


# ----------------------------------------------------------------------------------------------------------------
# A whole run


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.train import train
data, bundles, runs, overrides = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
print(train(Path(data), "contrec", "tiny", bundles=Path(bundles), name="toy", overrides=overrides, runs=Path(runs),
            keep_every=0.0))
"""


def contents(bundle: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(bundle)): path.read_bytes()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != MANIFEST  # it holds the time
    }


def test_a_checkpoint_is_whole_whenever_it_is_looked_at(tmp_path: Path) -> None:
    """By a process that watches another one train."""
    path, over = tmp_path / "checkpoint", threading.Event()

    def keep_writing() -> None:
        for turn in itertools.count():
            write(path, {"weight": torch.zeros(10 + 1000 * (turn % 2))}, {"turn": turn})
            if over.is_set():
                return

    write(path, {}, {"turn": -1})
    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        turns, deadline = [-1], time.monotonic() + 60
        while turns[-1] < 200:
            assert time.monotonic() < deadline
            turns.append(numbers_of(path)["turn"])
    finally:
        over.set()
        writer.join()
    assert turns == sorted(turns)


def test_a_process_that_is_killed_within_an_epoch_goes_on_to_the_same_bundle(
    demo: Prepared, tmp_path: Path, repository: Path
) -> None:
    demo.write(tmp_path / "data")
    whole = train(tmp_path / "data", "contrec", "tiny", bundles=tmp_path / "whole", name="toy", overrides=QUICK)
    command = [sys.executable, "-c", KILLED, *(str(tmp_path / name) for name in ("data", "bundles", "runs")), *QUICK]
    for stage in ("trunk", "head"):
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            (checkpoint,) = [*(tmp_path / "runs").glob(f"*/{stage}.safetensors")] or [None]
            if checkpoint and numbers_of(checkpoint)["place"]["batch"] > 2:
                break
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()
        assert not list((tmp_path / "bundles").rglob("*")), "a killed run publishes nothing"
    (folder,) = (tmp_path / "runs").iterdir()
    before = numbers_of(folder / "trunk.safetensors")
    assert before["place"]["finished"]
    resumed = train(
        tmp_path / "data",
        "contrec",
        "tiny",
        bundles=tmp_path / "bundles",
        name="toy",
        overrides=QUICK,
        runs=tmp_path / "runs",
        progress=lambda stage, *_: stage in ("head", "text half") or pytest.fail(f"{stage} was done"),
    )
    assert resumed.name == whole.name
    assert contents(resumed) == contents(whole)
    report = json.loads((resumed.parent / f"{resumed.name}.report.json").read_text(encoding="utf-8"))
    assert report["seconds"]["trunk"] >= round(before["seconds"], 2), "the seconds of the first process count"
    assert not folder.exists(), "what is published needs no checkpoint"


def test_fresh_starts_over_and_another_seed_recipe_or_device_is_another_run(demo: Prepared, tmp_path: Path) -> None:
    what = identity(demo, RECIPE, 0, "cpu")
    with run_folder(tmp_path, what) as folder:
        write(folder / "trunk.safetensors", {"x": torch.zeros(1)}, {})
    with run_folder(tmp_path, what) as again:
        assert again == folder
        assert (again / "trunk.safetensors").exists()
        assert json.loads((again / "run.json").read_text(encoding="utf-8")) == what
    with run_folder(tmp_path, what, fresh=True) as again:
        assert sorted(path.name for path in again.iterdir()) == ["lock", "run.json"]
    assert identity(demo, RECIPE, 0, "cuda:1") == identity(demo, RECIPE, 0, "cuda:0"), "of a kind"
    for other in (
        identity(demo, RECIPE, 1, "cpu"),
        identity(demo, load_recipe("contrec", "tiny"), 0, "cpu"),
        identity(demo, RECIPE, 0, "cuda"),
    ):
        with run_folder(tmp_path, other) as another:
            assert another != folder


def test_two_processes_do_not_train_the_same_run(demo: Prepared, tmp_path: Path) -> None:
    what = identity(demo, RECIPE, 0, "cpu")
    with run_folder(tmp_path, what) as folder:
        with pytest.raises(ValueError, match="another process is training this already"), run_folder(tmp_path, what):
            pytest.fail("two hold one folder")
        with (folder / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ----------------------------------------------------------------------------------------------------------------
# The file


def test_a_checkpoint_is_whole_or_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stage.safetensors"
    write(path, {"x": torch.arange(3)}, {"step": 1, "loss": 0.1 + 0.2})
    monkeypatch.setattr("training.stages.loop.os.replace", lambda *_: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        write(path, {"x": torch.arange(4)}, {"step": 2})
    tensors, numbers = read(path)
    assert torch.equal(tensors["x"], torch.arange(3))
    assert numbers == {"step": 1, "loss": 0.1 + 0.2}


def test_weights_that_share_memory_are_kept(tmp_path: Path) -> None:
    tied = torch.randn(3, 2)
    write(tmp_path / "x.safetensors", {"a": tied, "b": tied.T}, {})
    assert torch.equal(read(tmp_path / "x.safetensors")[0]["b"], tied.T)


def test_a_checkpoint_that_is_damaged_or_of_another_model_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "stage.safetensors"
    network = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    Loop(path, {"x": network}, optimiser, every=0.0).next_epoch({})
    for damage in (b"", b"\xff" * 40, path.read_bytes()[:-3]):
        (tmp_path / "damaged.safetensors").write_bytes(damage)
        with pytest.raises(ValueError, match=r"^\S+ is damaged .*: start over with --fresh$"):
            Loop(tmp_path / "damaged.safetensors", {"x": network}, optimiser)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="start over with --fresh"):
        Loop(tmp_path / "foreign.safetensors", {"x": network}, optimiser)
    other = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"does not fit this run .*: start over with --fresh"):
        Loop(path, {"x": other}, torch.optim.AdamW(other.parameters()))
