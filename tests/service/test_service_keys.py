"""API keys: what is kept, what is refused, and that a slip never opens a door."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from pathlib import Path

import pytest

from service.keys import MAX_KEYS, KeyRing, KeysError, Scope, add_to_file, key_line, new_key, parse_keys


def test_a_key_is_found_by_what_its_line_keeps_and_the_line_does_not_hold_it() -> None:
    key = new_key()
    line = key_line("shop", [Scope.WRITE, Scope.RECOMMEND, Scope.WRITE], key)
    assert line == f"shop recommend,write sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    assert key not in line
    found = KeyRing(parse_keys(line, "x"), required=True).find(key)
    assert found is not None
    assert (found.name, found.scopes) == ("shop", {Scope.RECOMMEND, Scope.WRITE})


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == len("ctr_") + 43 for key in keys)  # 256 bits, six a letter


@pytest.mark.parametrize("wrong", ["", " ", "ctr_", "x" * 10_000, "ctr_\u00e9\u65e5", "\x00", "\udcff"])
def test_what_is_no_key_is_not_found(wrong: str) -> None:
    key = new_key()
    ring = KeyRing(parse_keys(key_line("shop", [Scope.ADMIN], key), "x"), required=True)
    assert ring.find(wrong) is None
    assert ring.find(key[:-1]) is None
    assert ring.find(key + wrong if wrong.strip() else key + "x") is None


def test_comments_blank_lines_and_semicolons() -> None:
    lines = [key_line(f"k{n}", [Scope.RECOMMEND], new_key()) for n in range(3)]
    text = f"# keys of the shop\n\n{lines[0]}   # the old one\n\t{lines[1]} ; {lines[2]};\n"
    assert [key.name for key in parse_keys(text, "x")] == ["k0", "k1", "k2"]


HASH = "sha256:" + "0" * 64
BAD = [
    ("shop", "line 1: three words"),
    (f"shop recommend {HASH} more", "line 1: three words"),
    (f"\nsh/op recommend {HASH}", "line 2: the name"),
    (f"shop recommend,delete {HASH}", "line 1: 'shop' has an unknown scope; there are recommend, write, users, admin"),
    (f"shop , {HASH}", "unknown scope"),
    ("shop recommend sha256:" + "0" * 63, "line 1: 'shop' has no hash"),
    ("shop recommend sha256:" + "G" * 64, "line 1: 'shop' has no hash"),
    (f"shop recommend {HASH}\nshop admin {HASH}", "line 2: there are two keys named 'shop'"),
    ("\n".join(f"k{n} admin {HASH}" for n in range(MAX_KEYS + 1)), "at most 1000"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_a_line_that_is_none_is_told_by_its_number(text: str, sentence: str) -> None:
    with pytest.raises(KeysError, match=sentence):
        parse_keys(text, "keys.txt")


def test_a_key_pasted_where_its_hash_belongs_is_not_repeated() -> None:
    key = new_key()
    for text in (key, f"shop recommend {key}", f"{key} recommend {HASH} x", f"shop {key} {HASH}"):
        with pytest.raises(KeysError) as caught:
            parse_keys(text, "keys.txt")
        assert key not in str(caught.value)


def test_what_is_configured_but_empty_or_missing_does_not_start(tmp_path: Path) -> None:
    empty = tmp_path / "keys.txt"
    empty.write_text("# nobody\n")
    with pytest.raises(KeysError, match="hold no key"):
        KeyRing.open("", empty)
    with pytest.raises(KeysError, match="cannot be read: No such file"):
        KeyRing.open("", tmp_path / "none.txt")
    empty.write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match="not text"):
        KeyRing.open("", empty)
    assert not KeyRing.open("", None).required


def test_variable_and_file_add_up(tmp_path: Path) -> None:
    one, two = new_key(), new_key()
    file = tmp_path / "keys.txt"
    add_to_file(file, key_line("two", [Scope.ADMIN], two))
    ring = KeyRing.open(key_line("one", [Scope.WRITE], one), file)
    assert [getattr(ring.find(key), "name", None) for key in (one, two)] == ["one", "two"]
    with pytest.raises(KeysError, match="name the same key"):
        KeyRing.open(key_line("two", [Scope.WRITE], one), file)


def test_a_changed_file_is_taken_up_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old, new = new_key(), new_key()
    file = tmp_path / "keys.txt"
    add_to_file(file, key_line("old", [Scope.ADMIN], old))
    ring = KeyRing.open("", file)

    def replace(text: str) -> None:
        (tmp_path / "next").write_text(text)
        os.replace(tmp_path / "next", file)
        ring.reread()

    replace(key_line("new", [Scope.ADMIN], new))
    assert ring.find(old) is None
    assert ring.find(new) is not None
    for broken in ("nonsense", "\x00"):
        replace(broken)
        assert ring.find(new) is not None  # as it was
    file.unlink()
    ring.reread()
    assert ring.find(new) is not None
    assert caplog.text.count("stay as they were") == 3
    replace("# everybody is out\n")
    assert ring.find(new) is None
    assert ring.required  # and nothing is open


def test_a_file_is_made_for_its_owner_and_grows_by_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    add_to_file(file, key_line("one", [Scope.WRITE], new_key()))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().rstrip("\n"))  # an editor that leaves out the last line's end
    add_to_file(file, key_line("two", [Scope.WRITE], new_key()))
    assert [key.name for key in parse_keys(file.read_text(), "x")] == ["one", "two"]
    before = file.read_text()
    with pytest.raises(KeysError, match="two keys named 'two'"):
        add_to_file(file, key_line("two", [Scope.ADMIN], new_key()))
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["", "a b", "a;b", "-x", "x" * 65, "a\n"])
def test_a_name_that_would_break_the_line_is_refused(name: str) -> None:
    with pytest.raises(KeysError, match="is no name"):
        key_line(name, [Scope.WRITE], new_key())
    with pytest.raises(KeysError, match="needs a scope"):
        key_line("shop", [], new_key())
