"""The table "What is taken and what is refused" of docs/data.md, line by line."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = "user_id,item_id,timestamp,rating,type\n"
GOOD = "u,a,1600000000,,\n"


def _row(row: str) -> bytes:
    return (HEADER + GOOD + row).encode()


TAKEN: dict[str, list[tuple[str, list[str]]]] = {
    # the line of the page: rows that are all taken, and the ids of their items
    "an id with commas, quotes, line breaks or emoji": [
        ('u,"a, ""b""\nc",1600000001,,\n', ['a, "b"\nc']),
        ("🦊,🎬 1,1600000001,,\n", ["🎬 1"]),
    ],
    "a time in seconds, milliseconds, micro- or nanoseconds, or ISO 8601": [
        (f"v,b,{time},,\n", ["b"])
        for time in ("1600000001", "1600000001000", "1600000001000000", "1600000001000000000", "2020-09-13T12:26:41Z")
    ],
    "a blank line": [("\n\nv,b,1600000001,,\n", ["b"])],
}
REJECTED: dict[str, list[tuple[str, str]]] = {
    "a missing id, time or column value where one is needed": [
        (",b,1,,\n", "user_id is missing"),
        ("v,,1,,\n", "item_id is missing"),
        ("v, ,1,,\n", "item_id is missing"),
        ("v,b,,,\n", "timestamp is missing"),
    ],
    "a time that is none, before 1970 (the year 1) or after 2100": [
        ("v,b,soon,,\n", "timestamp 'soon' is neither a number nor an ISO date"),
        ("v,b,0001-01-01,,\n", "timestamp '0001-01-01' lies before 1970"),
        ("v,b,-1,,\n", "timestamp '-1' lies before 1970"),
        ("v,b,2101-01-01,,\n", "timestamp '2101-01-01' lies after 2100"),
        ("v,b,9999999999,,\n", "timestamp '9999999999' lies after 2100"),
    ],
    "a rating that is no number (`five`, `inf`)": [
        ("v,b,1,five,\n", "rating 'five' is not a number"),
        ("v,b,1,inf,\n", "rating 'inf' is not a number"),
    ],
    "a type that is none of the seven": [("v,b,1,,stare\n", "type 'stare' is none of view")],
}
REFUSED: dict[str, list[tuple[bytes, str]]] = {
    "a row with too few or too many fields, a quote that never closes": [
        (_row("v,b\n"), "x.csv line 3 has 2 fields where 5 are expected"),
        (_row("v,b,c,1,,\n"), "x.csv line 3 has 6 fields"),
        (_row('v,"b,1,,\n'), "x.csv line 3: unexpected end of data"),
    ],
    "text in another encoding than UTF-8, a gzip file that ends early": [
        (_row("v,b,1,,\n").replace(b"v,b", b"v,caf\xe9"), "x.csv line 3 is not utf-8 text"),
        (HEADER.encode("utf-16"), "x.csv line 1 is not utf-8 text"),
        (gzip.compress(_row(""))[:-9], "x.csv.gz cannot be read"),
    ],
    "a needed column that is missing, or named twice": [
        (b"user_id,item_id\nu,a\n", "x.csv has no column 'timestamp'; it has user_id, item_id"),
        (b"user_id,item_id,timestamp,user_id\nu,a,1,u\n", "names the column 'user_id' twice"),
    ],
    "an item id that appears twice in the items table": [(b"item_id\na\na\n", "items.csv line 3: item_id 'a' appears")],
    "an empty file, a header without rows, no row that is accepted": [
        (b"", "x.csv is empty"),
        (HEADER.encode(), "x.csv has a header but no rows"),
        ((HEADER + "u,,1,,\n").encode(), "nothing was imported from x.csv: its only row was rejected (line 2: item_id"),
    ],
}
ELSEWHERE = {"a time later than now", "a repeated row of one user, item and second", "an unknown column"}


def _run(folder: Path, command: str = "prepare") -> subprocess.CompletedProcess[str]:
    path = next(folder.glob("x.*"))
    items = ["--items", str(folder / "items.csv")] if (folder / "items.csv").exists() else []
    out = ["--out", str(folder / "out")] if command == "prepare" else []
    code = [sys.executable, "-m", "contrec.cli", "data", command, "table", str(path), *items, *out]
    return subprocess.run(code, capture_output=True, text=True, check=False)


def _facts(folder: Path) -> dict:
    return json.loads((folder / "out" / "facts.json").read_text(encoding="utf-8"))


def _prepared(folder: Path, body: bytes) -> dict:
    from training.data.prepare import prepare

    (folder / "x.csv").write_bytes(body)
    return prepare("table", folder / "x.csv", folder / "out").facts


def test_every_line_of_the_page_is_here(repository: Path) -> None:
    page = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.split("## What is taken and what is refused")[1].split("##")[0]
    lines = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")}
    lines.remove("what the file holds")
    mine = [*TAKEN, *REJECTED, *REFUSED, *ELSEWHERE]
    assert len(lines) == len(mine)
    assert all(any(line.startswith(name) for name in mine) for line in lines), lines


@pytest.mark.parametrize(("row", "items"), [case for cases in TAKEN.values() for case in cases])
def test_taken(tmp_path: Path, row: str, items: list[str]) -> None:
    facts = _prepared(tmp_path, _row(row))
    assert (facts["cleaning"]["rows_rejected"], facts["counts"]["events"]) == (0, 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "catalogue.jsonl").read_text("utf-8").splitlines()]
    assert [item["item_id"] for item in rows] == ["a", *items]


@pytest.mark.parametrize(("row", "reason"), [case for cases in REJECTED.values() for case in cases])
def test_rejected(tmp_path: Path, row: str, reason: str) -> None:
    cleaning = _prepared(tmp_path, _row(row))["cleaning"]
    assert (cleaning["rows_read"], cleaning["rows_accepted"], cleaning["rows_rejected"]) == (2, 1, 1)
    (told,) = cleaning["first_rejected"]
    assert told.startswith(f"line 3: {reason}")


@pytest.mark.parametrize(("body", "reason"), [case for cases in REFUSED.values() for case in cases])
def test_refused_and_nothing_is_written(tmp_path: Path, body: bytes, reason: str) -> None:
    from training.data.prepare import prepare
    from training.data.prepared import DataError

    items = None
    if body.startswith(b"item_id"):
        items = tmp_path / "items.csv"
        items.write_bytes(body)
        body = _row("")
    path = tmp_path / ("x.csv.gz" if body.startswith(b"\x1f\x8b") else "x.csv")
    path.write_bytes(body)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        prepare("table", path, tmp_path / "out", items=items)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_of_rejected_rows_of_the_future_and_of_nothing_imported(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(_row("v,b,4000000000,,\nv,,1,,\nu,a,1600000000,,\n"))
    done = _run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "1 of 4 rows were rejected: line 4: item_id is missing",
        "times later than now: 1",
        f"prepared data is in {tmp_path / 'out'}",
    ]
    assert json.loads(done.stdout)["cleaning"] == _facts(tmp_path)["cleaning"], "what is piped is JSON alone"
    cleaning = _facts(tmp_path)["cleaning"]
    assert (cleaning["times_in_future"], cleaning["duplicates_dropped"]) == (1, 1)
    for command in ("prepare", "validate"):
        (tmp_path / "x.csv").write_bytes((HEADER + "u,,1,,\n").encode())
        done = _run(tmp_path, command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("contrec: nothing was imported from x.csv")
    assert _facts(tmp_path)["cleaning"]["rows_read"] == 4  # the older folder stayed


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    facts = _prepared(tmp_path, b"user_id,colour,item_id,timestamp\nu,red,a,1\n")
    assert facts["cleaning"]["ignored_columns"] == ["x.csv: colour"]
