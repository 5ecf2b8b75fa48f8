"""`contrec keys new`: a key that lets in, a line that keeps no key, mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

from service.keys import KeyRing, Scope
from tests.contrec.test_cli import contrec, refused


def test_the_printed_line_lets_the_printed_key_in(tmp_path: Path) -> None:
    done = contrec("keys", "new", "shop", "--scope", "recommend", "--scope", "write")
    assert done.returncode == 0, done
    key = done.stdout.splitlines()[0].split()[-1]
    line = done.stdout.splitlines()[1].partition(": ")[2]
    found = KeyRing.open(line, None).find(key)
    assert found is not None
    assert (found.name, found.scopes) == ("shop", {Scope.RECOMMEND, Scope.WRITE})
    assert key not in line


def test_with_a_file_only_the_key_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    keys = [contrec("keys", "new", name, "--scope", "admin", "--file", file).stdout.strip() for name in ("a", "b")]
    ring = KeyRing.open("", file)
    assert [getattr(ring.find(key), "name", None) for key in keys] == ["a", "b"]
    assert not any(key in file.read_text() for key in keys)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    contrec("keys", "new", "a", "--scope", "admin", "--file", file)
    assert "'root' is no scope; there are recommend, write" in refused("keys", "new", "a", "--scope", "root")
    assert "'a b' is no name" in refused("keys", "new", "a b", "--scope", "admin")
    assert "two keys named 'a'" in refused("keys", "new", "a", "--scope", "admin", "--file", file)
    assert "No such file" in refused("keys", "new", "a", "--scope", "admin", "--file", tmp_path / "no" / "keys.txt")
