"""A prepared folder is replaced in one step: whatever moment a kill takes, the old one or the new one is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from training.data import place
from training.data.place import put_in_place
from training.data.prepared import Prepared

# Kills itself, as `kill -9` does, at the n-th thing that Python tells its auditors of: every opened, renamed or
# removed file is one. n grows until a write comes to its end. One process forks them all, so that it imports once.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from training.data.prepared import Prepared

folder = Path(sys.argv[1])
versions = [Prepared.read(Path(source)) for source in sys.argv[2:]]
found, number = [], 0
while True:
    number += 1
    shutil.rmtree(folder.parent)
    versions[0].write(folder)
    child = os.fork()
    if child == 0:
        left = number
        def hook(event, _):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        versions[1].write(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found.append(Prepared.read(folder).fingerprint)
    if not os.WIFSIGNALED(status):
        break
print(json.dumps(found))
"""


def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(prepared_of, tmp_path, repository):
    old, new = prepared_of([[0, 1, 2, 3]], 5), prepared_of([[4, 2, 0]], 5)
    for name, prepared in (("old", old), ("new", new)):
        prepared.write(tmp_path / name)
    command = [sys.executable, "-c", KILLED, tmp_path / "here" / "toy", tmp_path / "old", tmp_path / "new"]
    (tmp_path / "here").mkdir()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 20, "the kills came at many moments"
    changed = found.index(new.fingerprint)
    assert found == [old.fingerprint] * changed + [new.fingerprint] * (len(found) - changed)
    assert 0 < changed < len(found) - 1, "before, and after, the one step"
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["toy"], "the write that ended left nothing"


@pytest.mark.parametrize("can", [True, False], ids=["exchanged", "two renames"])
def test_a_folder_takes_the_place_of_another_and_of_none(tmp_path, monkeypatch, can):
    if not can:
        monkeypatch.setattr(place, "_exchanged", lambda one, other: False)
    for text in ("first", "second"):
        new = tmp_path / "new"
        new.mkdir()
        (new / text).write_text(text)
        put_in_place(new, tmp_path / "folder")
        assert [path.name for path in (tmp_path / "folder").iterdir()] == [text]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_killed_writes_left_is_removed_once_it_is_old(prepared_of, tmp_path):
    prepared = prepared_of([[0, 1, 2, 3]], 5)
    for name, age in ((".toy.unfinished-old", 2 * 86400), (".toy.unfinished-young", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arrays.safetensors").write_text("half")
        stamp = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (stamp, stamp))
    prepared.write(tmp_path / "toy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toy.unfinished-young", "toy"]
    assert Prepared.read(tmp_path / "toy").fingerprint == prepared.fingerprint
