"""Public data sets in their official formats, made small: what is read, and what is said of what cannot be."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from training.data.files import LONGEST_LINE
from training.data.prepare import prepare
from training.data.prepared import DataError, Prepared
from training.data.sources import read

# ------------------------------------------------------------------------------------------------------- MovieLens


def test_ml_1m_in_its_official_format(tmp_path):
    ratings = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
    (tmp_path / "ratings.dat").write_text(ratings)
    films = "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Les Misérables: Part 1 (1998)::Drama\n"
    (tmp_path / "movies.dat").write_bytes(films.encode("latin-1"))
    source = read("ml-1m", tmp_path)
    titles = ["James and the Giant Peach (1996)", "Les Misérables: Part 1 (1998)"]
    assert [item.title for item in source.items] == titles
    assert source.items[0].categories == ("Animation", "Children's")
    assert next(source.interactions.oldest_first()) == ("2", "1193", 978298413, 4.0, None)
    (tmp_path / "ratings.dat").write_text("1::1193::5\n")
    with pytest.raises(DataError, match=r"ratings.dat line 1 has 3 fields where 4 are expected"):
        read("ml-1m", tmp_path)
    (tmp_path / "ratings.dat").write_text("")
    with pytest.raises(DataError, match=r"ratings.dat is empty"):
        read("ml-1m", tmp_path)


@pytest.mark.parametrize("name", ["ml-25m", "ml-32m", "ml-latest-small"])
def test_the_csv_sets_in_their_official_format(tmp_path, name):
    ratings = "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,0.5,1147868817\n"
    (tmp_path / "ratings.csv").write_text(ratings)
    films = 'movieId,title,genres\n296,Pulp Fiction (1994),Comedy|Crime\n306,"Amélie, or not",(no genres listed)\n'
    (tmp_path / "movies.csv").write_text(films)
    source = read(name, tmp_path)
    assert [(item.title, item.categories) for item in source.items] == [
        ("Pulp Fiction (1994)", ("Comedy", "Crime")),
        ("Amélie, or not", ()),
    ]
    assert source.interactions.values.tolist() == [5.0, 0.5]
    (tmp_path / "ratings.csv").write_text("user,movie\n1,2\n")
    with pytest.raises(DataError, match="has no column 'userId'; is this an official MovieLens file"):
        read(name, tmp_path)


# ---------------------------------------------------------------------------------------------------------- Amazon

REVIEW = {
    "reviewerID": "A2SUAM1J3GNN3B",
    "asin": "0000013714",
    "helpful": [0, 0],
    "reviewText": 'It\'s "fine".\nTruly.',
    "overall": 5.0,
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}


def _write(path: Path, lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_amazon_2014_reviews_are_json_or_literals_and_metadata_literals(tmp_path):
    later = REVIEW | {"asin": "B2", "overall": 2.0, "unixReviewTime": 1252886400}
    _write(tmp_path / "reviews_Beauty_5.json.gz", [json.dumps(REVIEW), "", repr(later)])
    products = [
        {
            "asin": "0000013714",
            "title": "Mum&#39;s &amp; Dad's   soap",
            "brand": "Suds",
            "categories": [["Beauty", "Bath"], ["Beauty", "Gifts"]],
            "description": 'It\'s "soft" 🧼' + "." * 3000,
            "feature": ["half a pair: \ud83d"],
            "salesRank": {"Beauty": 7},
            "price": None,
        },
        {"asin": "B2"},
        {"asin": "B2", "title": "again"},
        {"asin": "never reviewed", "title": "x"},
    ]
    _write(tmp_path / "meta_Beauty.json.gz", [repr(product) for product in products])
    source = read("amazon-2014", tmp_path)
    assert list(source.interactions.oldest_first()) == [
        ("A2SUAM1J3GNN3B", "0000013714", 1252800000, 5.0, None),
        ("A2SUAM1J3GNN3B", "B2", 1252886400, 2.0, None),
    ]
    first, second = source.items
    assert (first.title, first.categories) == ("Mum's & Dad's soap", ("Beauty", "Bath", "Gifts"))
    assert first.text.startswith('Suds half a pair: ? It\'s "soft" 🧼.')
    assert len(first.text) == 2000
    assert (second.item_id, second.title, second.categories, second.text) == ("B2", "", (), "")
    assert (source.counts["products_repeated"], source.counts["products_rejected"]) == (1, 0)
    assert read("amazon-2014", tmp_path / "reviews_Beauty_5.json.gz").items == source.items


def test_amazon_2018_is_json_with_its_own_fields(tmp_path):
    _write(tmp_path / "All_Beauty_5.json.gz", [json.dumps(REVIEW | {"verified": True, "style": {"Size:": "1"}})])
    product = {
        "asin": "0000013714",
        "title": "Soap",
        "category": ["Beauty", "Bath &amp; Body"],
        "feature": ["soft", "mild"],
        "description": ["Long.", ""],
        "brand": "Suds",
    }
    _write(tmp_path / "meta_All_Beauty.json.gz", [json.dumps(product)])
    (item,) = read("amazon-2018", tmp_path).items
    assert (item.title, item.categories, item.text) == ("Soap", ("Beauty", "Bath & Body"), "Suds soft mild Long.")
    product |= {"title": "var x = getTime();", "category": []}
    _write(tmp_path / "meta_All_Beauty.json.gz", [json.dumps(product)])
    (item,) = read("amazon-2018", tmp_path).items
    assert (item.title, item.categories) == ("", ())


def test_lines_that_are_no_review_are_rejected_by_line_and_run_nothing(tmp_path):
    touched = tmp_path / "touched"
    lines = [
        json.dumps(REVIEW),
        "not a record",
        "[1, 2]",
        f"__import__('pathlib').Path({str(touched)!r}).touch()",
        "(" * 5000,
        "-" * 100_000 + "1",
        "{'a': " * 5000,
        r"{'reviewerID': 'A\/B', 'asin': '\N{NO SUCH NAME}'}",
        json.dumps(REVIEW | {"asin": None}),
        json.dumps(REVIEW | {"reviewText": "x" * LONGEST_LINE}),
        json.dumps(REVIEW | {"unixReviewTime": "soon"}),
        json.dumps(REVIEW | {"overall": True, "unixReviewTime": 1252800001}),
    ]
    _write(tmp_path / "reviews_X.json", lines)
    interactions = read("amazon-2014", tmp_path).interactions
    assert not touched.exists()
    assert (interactions.read, interactions.rejected, len(interactions)) == (12, 10, 2)
    assert [str(told) for told in interactions.first_rejected] == [
        *(f"line {line}: the line is no record" for line in (2, 3, 4, 5, 6, 7, 8)),
        "line 9: item_id is missing",
        f"line 10: the line is longer than {LONGEST_LINE} characters",
        "line 11: timestamp 'soon' is neither a number nor an ISO date",
    ]
    assert np.isnan(interactions.values[1])


def test_what_amazon_folder_is_meant_must_be_clear(tmp_path):
    with pytest.raises(DataError, match="has no reviews_"):
        read("amazon-2014", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read("amazon-2018", tmp_path / "nowhere")
    for name in ("A_5.json.gz", "B_5.json.gz"):
        _write(tmp_path / name, [json.dumps(REVIEW)])
    with pytest.raises(DataError, match=r"has both A_5.json.gz and B_5.json.gz: name the file"):
        read("amazon-2018", tmp_path)
    _write(tmp_path / "A_5.json.gz", [])
    with pytest.raises(DataError, match=r"A_5.json.gz is empty"):
        read("amazon-2018", tmp_path / "A_5.json.gz")
    (tmp_path / "B_5.json.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(DataError, match=r"B_5.json.gz cannot be read"):
        read("amazon-2018", tmp_path / "B_5.json.gz")


# --------------------------------------------------------------------------------------------------------- Last.FM


@pytest.fixture
def lastfm(tmp_path: Path) -> Path:
    """The official files, three artists and two users."""
    text = {
        "artists.dat": "id\tname\turl\tpictureURL\n1\tMALICE MIZER\tu\tp\n2\tBjörk\tu\tp\n3\tNobody\tu\tp\n",
        "user_artists.dat": "userID\tartistID\tweight\n2\t1\t13883\n2\t3\t11690\n",
        "user_taggedartists.dat": "userID\tartistID\ttagID\tday\tmonth\tyear\n"
        "2\t1\t13\t1\t4\t2009\n2\t1\t15\t1\t3\t2009\n3\t2\t13\t9\t12\t2008\n",
        "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\n"
        "2\t1\t13\t1238536800000\n2\t1\t15\t1235862000000\n3\t2\t13\t-428720400000\n3\t2\t15\t1228777200000\n",
    }
    for name, body in text.items():
        (tmp_path / name).write_text(body)
    (tmp_path / "tags.dat").write_bytes("tagID\ttagValue\n13\tchillout\n15\télectro\n".encode("latin-1"))
    return tmp_path


def test_lastfm_is_the_first_tag_of_each_artist_with_its_plays(lastfm):
    source = read("lastfm", lastfm)
    rows = list(source.interactions.oldest_first())
    assert [row[:3] for row in rows] == [("3", "2", 1228777200), ("2", "1", 1235862000)]
    assert str([row[3] for row in rows]) == "[nan, 13883.0]"
    assert [(item.title, item.categories, item.text) for item in source.items] == [
        ("MALICE MIZER", ("chillout", "électro"), "chillout, électro"),
        ("Björk", ("chillout",), "chillout"),
        ("Nobody", (), ""),
    ]


def test_lastfm_by_day_where_there_are_no_seconds(lastfm):
    (lastfm / "user_taggedartists-timestamps.dat").unlink()
    rows = list(read("lastfm", lastfm).interactions.oldest_first())
    assert [row[2] for row in rows] == [1228780800, 1235865600]


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_plays_without_order_are_refused_with_the_reason(lastfm, tmp_path, split):
    for name in ("user_taggedartists-timestamps.dat", "user_taggedartists.dat"):
        (lastfm / name).unlink()
    with pytest.raises(DataError, match=f"counts plays and has no times: with {split} the held-out event would be"):
        prepare("lastfm", lastfm, tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


def test_what_is_no_lastfm_folder_is_said(lastfm, tmp_path):
    with pytest.raises(DataError, match=r"has no user_taggedartists-timestamps.dat"):
        read("lastfm", tmp_path / "nowhere")
    (lastfm / "user_artists.dat").write_text("user\tartist\n1\t2\n")
    with pytest.raises(DataError, match=r"user_artists.dat has no column 'userID'"):
        read("lastfm", lastfm)
    (lastfm / "artists.dat").unlink()
    with pytest.raises(DataError, match=r"has no artists.dat"):
        read("lastfm", lastfm)


# ----------------------------------------------------------------------------------------- nothing is half-written


def test_a_prepare_that_is_killed_leaves_the_older_folder_whole(tmp_path):
    table, out = tmp_path / "x.csv", tmp_path / "out"
    rows = [f"u{n % 2000},i{n % 377},{1_600_000_000 + n}" for n in range(60_000)]
    table.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    older = prepare("table", table, out).fingerprint
    table.write_text("\n".join(["user_id,item_id,timestamp", *rows, "new,i1,1600000000"]) + "\n")
    command = [sys.executable, "-m", "contrec.cli", "data", "prepare", "table", str(table), "--out", str(out)]
    fingerprints = set()
    for attempt in range(6):
        for left in tmp_path.glob(".out.*"):
            shutil.rmtree(left)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        for _ in range(2000):  # until it writes, so that it is killed in the middle of that; the first one before it
            if attempt == 0 or child.poll() is not None or list(tmp_path.glob(".out.*/*")):
                break
            time.sleep(0.001)
        time.sleep(0.3 if attempt == 0 else 0.002 * attempt)
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
        fingerprints.add(Prepared.read(out).fingerprint)  # raises when anything is missing or torn
    assert older in fingerprints
