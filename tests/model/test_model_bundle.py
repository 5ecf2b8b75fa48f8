"""Bundles: the same content is the same version, a reader sees a whole one or none, and damage is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model import load_recommender
from model.bundle import (
    BundleError,
    Current,
    activate,
    active,
    current,
    list_bundles,
    read_manifest,
    rollback,
    verify,
    write_bundle,
)
from model.catalogue import Catalogue, Item
from model.popular import save_popular
from model.recommender import Popular


def popular(counts: list[int]) -> Popular:
    catalogue = Catalogue(Item(f"id{n}", title=f"Title {n}", categories=("c",)) for n in range(len(counts)))
    return Popular(catalogue, np.array(counts, dtype=np.int64))


def publish(root: Path, counts: list[int], report: Callable[[str], None] = lambda sentence: None) -> Path:
    return write_bundle(
        root,
        "toy",
        kind="popular",
        recipe="popular",
        config={"seed": 1},
        data_fingerprint="f00d",
        metrics={"ndcg@10": 0.25},
        fill=lambda folder: save_popular(popular(counts), folder),
        report=report,
    )


def test_what_was_published_is_what_is_loaded(tmp_path: Path) -> None:
    path = publish(tmp_path, [3, 9, 5])
    manifest = verify(path)
    assert (manifest.name, manifest.version, manifest.kind) == ("toy", path.name, "popular")
    assert manifest.metrics == {"ndcg@10": 0.25}
    assert manifest.recipe_config == {"seed": 1}
    assert manifest.libraries["numpy"] == np.__version__
    assert set(manifest.files) == {"catalogue.jsonl", "items.safetensors"}
    recommender = load_recommender(path)
    rows, scores = recommender.recommend(np.array([1]), k=5)
    assert recommender.catalogue.ids(rows) == ["id2", "id0"]
    assert scores.tolist() == [5, 3]
    assert [p.name for p in (tmp_path / "toy").iterdir()] == [path.name], "nothing unfinished stays behind"


def test_the_same_content_is_the_same_version_and_publishing_it_again_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    first = publish(tmp_path / "a", [1, 2], said.append)
    before = (first / "manifest.json").read_bytes()
    assert publish(tmp_path / "a", [1, 2], said.append) == first
    assert (first / "manifest.json").read_bytes() == before
    assert "published" in said[0]
    assert "nothing changed" in said[1]
    assert publish(tmp_path / "b", [1, 2]).name == first.name
    assert publish(tmp_path / "a", [2, 1]).name != first.name


def test_publishing_over_a_damaged_copy_of_itself_is_refused(tmp_path: Path) -> None:
    path = publish(tmp_path, [1, 2])
    (path / "items.safetensors").unlink()
    with pytest.raises(BundleError, match=r"items\.safetensors is missing"):
        publish(tmp_path, [1, 2])


def flip(path: Path) -> None:
    data = bytearray((path / "items.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "items.safetensors").write_bytes(data)


def truncate(path: Path) -> None:
    data = (path / "items.safetensors").read_bytes()
    (path / "items.safetensors").write_bytes(data[:-1])


def link(path: Path) -> None:
    target = path.parent / "elsewhere"
    (path / "items.safetensors").rename(target)
    (path / "items.safetensors").symlink_to(target)


def edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        record = json.loads((path / "manifest.json").read_text())
        change(record)
        (path / "manifest.json").write_text(json.dumps(record))

    return apply


def name_file(name: str) -> Callable[[Path], None]:
    return edit(lambda record: record["files"].update({name: {"sha256": "0", "bytes": 0}}))  # type: ignore[attr-defined]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (flip, r"items\.safetensors in bundle .* is damaged"),
    "a truncated file": (truncate, r"items\.safetensors in bundle .* bytes, its manifest says"),
    "a missing file": (lambda p: (p / "items.safetensors").unlink(), r"items\.safetensors is missing from bundle"),
    "an extra file": (lambda p: (p / "extra.bin").touch(), r"extra\.bin in bundle .* is not in its manifest"),
    "a symbolic link": (link, r"items\.safetensors in bundle .* is a symbolic link"),
    "a linked folder": (lambda p: (p / "more").symlink_to(p.parent), r"more in bundle .* is a symbolic link"),
    "a pipe": (lambda p: os.mkfifo(p / "pipe"), r"pipe in bundle .* is not a plain file"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), r"manifest\.json is missing"),
    "half a manifest": (lambda p: (p / "manifest.json").write_text('{"format": 1,'), r"manifest\.json .* is not JSON"),
    "binary for a manifest": (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe"), "is not JSON"),
    "a list for a manifest": (lambda p: (p / "manifest.json").write_text("[]"), "names no format"),
    "nesting without end": (lambda p: (p / "manifest.json").write_text("[" * 200_000), "is not JSON"),
    "a foreign format": (edit(lambda r: r.update(format=2)), "has format 2; this version of contrec reads format 1"),
    "a field missing": (edit(lambda r: r.pop("kind")), "no usable field 'kind'"),
    "a field of another type": (edit(lambda r: r.update(metrics=[])), "no usable field 'metrics'"),
    "an unusable version": (edit(lambda r: r.update(version="../x")), "unusable version"),
    "a file without a hash": (
        edit(lambda r: r["files"].update({"a": 1})),  # type: ignore[attr-defined]
        "no sha256 and size for the file 'a'",
    ),
    "a path out of the bundle": (name_file("../../etc/passwd"), "no path inside a bundle"),
    "an absolute path": (name_file("/etc/passwd"), "no path inside a bundle"),
    "a path with a detour": (name_file("head/./a"), "no path inside a bundle"),
    "a path of another system": (name_file("head\\..\\a"), "no path inside a bundle"),
    "itself": (name_file("manifest.json"), "no path inside a bundle"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_in_one_sentence_that_names_it(tmp_path: Path, damage: str) -> None:
    path = publish(tmp_path, [4, 2, 6])
    break_it, sentence = DAMAGES[damage]
    break_it(path)
    with pytest.raises(BundleError, match=sentence) as caught:
        verify(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError):
        load_recommender(path)
    with pytest.raises(BundleError):
        activate(tmp_path, "toy", path.name)
    assert active(tmp_path, "toy") is None


def test_a_kind_of_the_future_and_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def oracle(folder: Path) -> None:
        (folder / "oracle.txt").write_text("42")

    common = {"recipe": "r", "config": {}, "data_fingerprint": "", "metrics": {}}
    path = write_bundle(tmp_path, "toy", kind="oracle", fill=oracle, **common)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="of kind 'oracle'"):
        load_recommender(path)

    def mismatch(folder: Path) -> None:
        save_popular(popular([1, 2, 3]), folder)
        popular([1, 2]).catalogue.write(folder / "catalogue.jsonl")

    path = write_bundle(tmp_path, "toy", kind="popular", fill=mismatch, **common)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="counts has shape"):
        load_recommender(path)
    with pytest.raises(BundleError, match="there is no bundle at"):
        load_recommender(tmp_path / "nowhere")


def test_activate_list_and_roll_back(tmp_path: Path) -> None:
    assert active(tmp_path, "toy") is None
    assert list_bundles(tmp_path, "toy") == []
    with pytest.raises(BundleError, match="no version to roll back to"):
        rollback(tmp_path, "toy")
    first, second = publish(tmp_path, [1, 2]), publish(tmp_path, [2, 1])
    activate(tmp_path, "toy", first.name)
    assert active(tmp_path, "toy") == first
    with pytest.raises(BundleError, match="no version to roll back to"):
        rollback(tmp_path, "toy")
    activate(tmp_path, "toy", second.name)
    activate(tmp_path, "toy", second.name)  # again: must not forget the one before
    assert [(e.version, e.active) for e in list_bundles(tmp_path, "toy") if e.active] == [(second.name, True)]
    assert {e.version for e in list_bundles(tmp_path, "toy")} == {first.name, second.name}
    assert rollback(tmp_path, "toy") == first
    assert active(tmp_path, "toy") == first
    assert rollback(tmp_path, "toy") == second


def test_every_move_is_later_than_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish(tmp_path, [1, 2]).name, publish(tmp_path, [2, 1]).name
    clock = iter([100.0, 90.0, 90.0, 200.0])  # it may be set back
    monkeypatch.setattr("model.bundle.time.time", lambda: next(clock))
    activate(tmp_path, "toy", first)
    assert current(tmp_path, "toy") == Current(first, 100.0)
    activate(tmp_path, "toy", second)
    assert current(tmp_path, "toy") == Current(second, pytest.approx(100.001), first, 100.0)  # type: ignore[arg-type]
    activate(tmp_path, "toy", second)  # said again is said later
    assert current(tmp_path, "toy") == Current(second, pytest.approx(100.002), first, 100.0)  # type: ignore[arg-type]
    rollback(tmp_path, "toy")
    assert current(tmp_path, "toy") == Current(first, 200.0, second, pytest.approx(100.002))  # type: ignore[arg-type]


def test_a_file_from_before_moves_had_times_is_of_when_it_was_written(tmp_path: Path) -> None:
    first, second = publish(tmp_path, [1, 2]).name, publish(tmp_path, [2, 1]).name
    file = tmp_path / "toy" / "current"
    file.write_text(json.dumps({"version": second, "previous": first}))
    os.utime(file, (100.0, 100.0))
    assert current(tmp_path, "toy") == Current(second, 100.0, first)
    assert rollback(tmp_path, "toy").name == first


def test_rolling_back_to_a_damaged_bundle_keeps_the_present_one(tmp_path: Path) -> None:
    first, second = publish(tmp_path, [1, 2]), publish(tmp_path, [2, 1])
    activate(tmp_path, "toy", first.name)
    activate(tmp_path, "toy", second.name)
    flip(first)
    with pytest.raises(BundleError, match="damaged"):
        rollback(tmp_path, "toy")
    assert active(tmp_path, "toy") == second


def test_a_pointer_that_points_nowhere_is_named(tmp_path: Path) -> None:
    path = publish(tmp_path, [1, 2])
    activate(tmp_path, "toy", path.name)
    shutil.rmtree(path)
    with pytest.raises(BundleError, match="which is not there"):
        active(tmp_path, "toy")
    fine = {"version": path.name, "previous": None}
    wrong: list[dict[str, object]] = [
        {"version": 3},
        {"version": "../.."},
        {"moved": "soon"},
        {"previous": ".."},
        {"x": 1},
    ]
    for text in ("", "{", "[]", *(json.dumps(fine | one) for one in wrong)):
        (tmp_path / "toy" / "current").write_text(text)
        with pytest.raises(BundleError):
            active(tmp_path, "toy")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65, "current"])
def test_an_unusable_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is no name of a bundle"):
        active(tmp_path, name)
    with pytest.raises(BundleError, match="is no version of a bundle"):
        activate(tmp_path, "toy", name)


def test_what_cannot_be_published_leaves_nothing_behind(tmp_path: Path) -> None:
    def linked(folder: Path) -> None:
        (folder / "a").symlink_to("/etc/hostname")

    def failing(folder: Path) -> None:
        (folder / "a").touch()
        raise RuntimeError("training broke")

    def attempt(fill: Callable[[Path], None], metrics: dict[str, float]) -> None:
        write_bundle(tmp_path, "toy", kind="k", recipe="r", config={}, data_fingerprint="", metrics=metrics, fill=fill)

    with pytest.raises(BundleError, match=r"a in bundle .* is a symbolic link"):
        attempt(linked, {})
    with pytest.raises(RuntimeError, match="training broke"):
        attempt(failing, {})
    with pytest.raises(BundleError, match="would hold no file"):
        attempt(lambda folder: None, {})
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        attempt(lambda folder: (folder / "a").touch(), {"ndcg@10": float("nan")})
    assert list((tmp_path / "toy").iterdir()) == []


WRITER = """
import sys, time
from pathlib import Path
from model.bundle import activate, write_bundle

root, stage = Path(sys.argv[1]), sys.argv[2]

def fill(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "weights.bin").write_bytes(b"x" * 100_000)
    if stage == "filling":
        print("here", flush=True)
        time.sleep(60)

if stage == "renaming":
    def wait(*_):
        print("here", flush=True)
        time.sleep(60)
    Path.rename = wait

write_bundle(root, "toy", kind="k", recipe="r", config={}, data_fingerprint="", metrics={}, fill=fill)
"""


@pytest.mark.parametrize("stage", ["filling", "renaming"])
@pytest.mark.parametrize("old", [True, False], ids=["an old bundle", "no bundle"])
def test_a_writer_killed_half_way_leaves_the_old_bundle_or_none(tmp_path: Path, stage: str, old: bool) -> None:
    before = publish(tmp_path, [5, 6]) if old else None
    if before:
        activate(tmp_path, "toy", before.name)
    command = [sys.executable, "-c", WRITER, str(tmp_path), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "here\n"
        writer.send_signal(signal.SIGKILL)
    left = [path for path in (tmp_path / "toy").iterdir() if path.name.startswith(".unfinished-")]
    assert len(left) == 1, "the writer was killed after it began and before it was done"
    assert active(tmp_path, "toy") == before
    assert [entry.path for entry in list_bundles(tmp_path, "toy")] == ([before] if before else [])
    if before:
        verify(before)
    # A day later the next writer clears the remains away; a young folder may belong to a writer at work.
    publish(tmp_path, [7, 8])
    assert left[0].exists()
    os.utime(left[0], times=(time.time() - 90_000,) * 2)
    publish(tmp_path, [8, 9])
    assert not left[0].exists()


def test_two_writers_of_the_same_content_agree(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        save_popular(popular([1, 2]), folder)
        if not (tmp_path / "toy" / "once").exists():
            (tmp_path / "toy" / "once").touch()
            publish(tmp_path, [1, 2])  # the other writer is done first

    path = write_bundle(
        tmp_path,
        "toy",
        kind="popular",
        recipe="popular",
        config={"seed": 1},
        data_fingerprint="f00d",
        metrics={"ndcg@10": 0.25},
        fill=fill,
    )
    assert verify(path) == read_manifest(path)
    assert len(list_bundles(tmp_path, "toy")) == 1


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys, model, model.bundle; print(sorted({'torch', 'faiss', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
