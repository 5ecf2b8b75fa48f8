"""From files to prepared data: what is taken, what is refused, and that every refusal names its place."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from training.data.clean import Cleaning
from training.data.prepare import prepare
from training.data.prepared import DataError, Prepared

HEADER = "user_id,item_id,timestamp"


@pytest.fixture
def bring(tmp_path):
    """Writes interactions (and items) as CSV and prepares them."""

    def bring(interactions: str, items: str | None = None, **options) -> Prepared:
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        (folder / "interactions.csv").write_text(interactions)
        if items is not None:
            (folder / "items.csv").write_text(items)
        return prepare("table", folder, tmp_path / "out", **options)

    return bring


def _ids(prepared: Prepared, user: int) -> list[str]:
    return prepared.catalogue.ids(prepared.history(user))


def test_ids_stay_strings_exactly_as_written(bring):
    prepared = bring(f"{HEADER}\n007,00012,1\n007,12,2\n7,1e3,3\n Ann ,Ä,4\n")
    assert prepared.users == ("007", "7", " Ann ")
    assert [item.item_id for item in prepared.catalogue] == ["00012", "12", "1e3", "Ä"]


def test_oldest_first_and_ties_in_file_order(bring):
    prepared = bring(f"{HEADER}\nu,late,9\nv,x,1\nu,tie-b,5\nu,tie-a,5\nu,early,0\nu,between,5.5\n")
    assert prepared.users == ("u", "v")  # as the file names them first
    assert _ids(prepared, 0) == ["early", "tie-b", "tie-a", "between", "late"]
    assert prepared.times.tolist() == [0, 5, 5, 5, 9, 1]


def test_items_of_the_table_come_first_and_the_others_keep_an_empty_title(bring):
    prepared = bring(
        f"{HEADER}\nu,b,1\nu,new,2\n",
        'item_id,title,categories,text,colour\na,"First, quoted",X| Y |X,Long text,red\nb,Second,,,\n',
    )
    items = list(prepared.catalogue)
    assert [item.item_id for item in items] == ["a", "b", "new"]
    assert (items[0].title, items[0].categories, items[0].text) == ("First, quoted", ("X", "Y"), "Long text")
    assert (items[2].title, items[2].categories) == ("", ())
    cleaning = prepared.facts["cleaning"]
    assert (cleaning["items_not_in_table"], cleaning["items_without_interaction"]) == (1, 1)
    assert cleaning["ignored_columns"] == ["items.csv: colour"]


def test_items_without_interaction_can_be_left_out(bring):
    prepared = bring(f"{HEADER}\nu,b,1\nu,c,2\n", "item_id,title\na,A\nb,B\n", only_interacted=True)
    assert [item.item_id for item in prepared.catalogue] == ["b", "c"]
    assert prepared.history(0).tolist() == [0, 1]


def test_bad_rows_are_rejected_counted_and_told_by_line(bring):
    prepared = bring(
        "item_id,user_id,rating,timestamp,device\n"
        "a,u,5,1,tv\n"
        ",u,5,2,tv\n"
        "a,,5,3,tv\n"
        "a,u,5,yesterday,tv\n"
        "a,u,5,,tv\n"
        "a,u,five,6,tv\n"
        "a,u,inf,7,tv\n"
        "a,u,5,-8,tv\n"
        "a,u,5,nan,tv\n"
        '"multi\nline",u,,10,tv\n'
        "a,u,5,1e400,tv\n"
        "b,u,,12,tv\n"
    )
    cleaning = prepared.facts["cleaning"]
    assert _ids(prepared, 0) == ["a", "multi\nline", "b"]
    np.testing.assert_array_equal(prepared.values, np.array([5, np.nan, np.nan], dtype=np.float32))
    assert (cleaning["rows_read"], cleaning["rows_rejected"]) == (12, 9)
    assert cleaning["first_rejected"] == [
        "line 3: item_id is missing",
        "line 4: user_id is missing",
        "line 5: timestamp 'yesterday' is neither a number nor an ISO date",
        "line 6: timestamp is missing",
        "line 7: rating 'five' is not a number",
        "line 8: rating 'inf' is not a number",
        "line 9: timestamp '-8' lies before 1970",
        "line 10: timestamp 'nan' is neither a number nor an ISO date",
        "line 13: timestamp '1e400' is neither a number nor an ISO date",
    ]
    assert cleaning["ignored_columns"] == ["interactions.csv: device"]


def test_only_the_first_ten_rejected_rows_are_told(bring):
    prepared = bring(f"{HEADER}\nu,a,1\n" + "u,,1\n" * 25)
    assert prepared.facts["cleaning"]["rows_rejected"] == 25
    assert [told.split(":")[0] for told in prepared.facts["cleaning"]["first_rejected"]] == [
        f"line {line}" for line in range(3, 13)
    ]


def test_repeated_rows_are_dropped_and_counted_and_the_first_stays(bring):
    prepared = bring("user_id,item_id,timestamp,rating\nu,a,1,5\nu,a,1,2\nu,a,2,5\nv,a,1,5\n")
    assert prepared.facts["cleaning"]["duplicates_dropped"] == 1
    assert prepared.values.tolist() == [5, 5, 5]
    assert prepared.facts["counts"]["events"] == 3


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("978300760", 978300760),
        ("978300760.9", 978300760),
        ("978300760123", 978300760),
        ("978300760123456", 978300760),
        ("978300760123456789", 978300760),
        ("2000-12-31", 978220800),
        ("2000-12-31 22:12:40", 978300760),
        ("2000-12-31T22:12:40Z", 978300760),
        ("2000-12-31T22:12", 978300720),
        ("2001-01-01T00:12:40.75+02:00", 978300760),
        ("2000-12-31 16:42:40-0530", 978300760),
        ("2000-12-31 22:12:40+00", 978300760),  # as PostgreSQL writes them
        ("2000-12-31T20:12:40.123-02", 978300760),
    ],
)
def test_times_follow_the_stated_rule(bring, written, seconds):
    prepared = bring(f"{HEADER}\nu,a,{written}\n")
    assert prepared.times.tolist() == [seconds]
    assert prepared.facts["has_unix_time"] is True


@pytest.mark.parametrize(
    "written", ["2000-13-01", "31/12/2000", "2000-12-31T22", "12:30", "2000-02-30", "2001-01-01junk"]
)
def test_what_only_looks_like_a_time_is_rejected(bring, written):
    with pytest.raises(DataError, match=r"nothing was imported from interactions.csv.*line 2: timestamp"):
        bring(f"{HEADER}\nu,a,{written}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "interactions.csv is empty"),
        (f"{HEADER}\n", "header but no rows"),
        ("user_id,item,timestamp\nu,a,1\n", "no column 'item_id'; it has user_id, item, timestamp"),
        ("user_id;item_id;timestamp\nu;a;1\n", "no column 'user_id'; it has user_id;item_id;timestamp"),
        ("user_id,user_id,item_id,timestamp\nu,u,a,1\n", "names the column 'user_id' twice"),
        (f"{HEADER}\nu,a,1\nu,a\n", "line 3 has 2 fields where 3 are expected"),
        (f"{HEADER}\nu,a,1\nu,a,b,1\n", "line 3 has 4 fields where 3 are expected"),
        (f'{HEADER}\nu,"a,1\nu,a,1\n', "interactions.csv line 3: unexpected end of data"),
        (f"{HEADER}\n,,\n", "nothing was imported.*its only row was rejected"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_and_nothing_is_written(bring, tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        bring(text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("id,title\na,A\n", "items.csv has no column 'item_id'; it has id, title"),
        ("item_id,title\na,A\na,B\n", "items.csv line 3: item_id 'a' appears a second time"),
        ("item_id,title\na,A\n ,B\n", "items.csv line 3: item_id is missing"),
    ],
)
def test_a_bad_items_table_is_refused(bring, items, says):
    with pytest.raises(DataError, match=says):
        bring(f"{HEADER}\nu,a,1\n", items)


def test_text_that_is_not_utf8_and_a_broken_gzip_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(f"{HEADER}\nu,caf\xe9,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv line 2 is not utf-8"):
        prepare("table", tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(f"{HEADER}\nu,a,1\n".encode())[:-9])
    with pytest.raises(DataError, match=r"b.csv.gz cannot be read"):
        prepare("table", tmp_path / "b.csv.gz", tmp_path / "out")
    (tmp_path / "c.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"c.parquet is no readable Parquet file"):
        prepare("table", tmp_path / "c.parquet", tmp_path / "out")


def test_every_format_gives_the_same_data(tmp_path):
    stamps = [datetime(2020, 1, day, 12, 30, tzinfo=UTC) for day in (1, 2, 3, 4)]
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1, 2], "item_id": ["a", "b", "c", "a"], "timestamp": stamps, "tags": [[1]] * 4}
    )
    frame.write_parquet(tmp_path / "x.parquet")
    text = frame.select("user_id", "item_id", pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv()
    (tmp_path / "x.csv").write_text("\ufeff" + text.replace("\n", "\r\n"))  # as a spreadsheet writes it
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "x.tsv").write_text(text.replace(",", "\t"))
    fingerprints = {
        suffix: prepare("table", tmp_path / f"x.{suffix}", tmp_path / "out").fingerprint
        for suffix in ("parquet", "csv", "csv.gz", "tsv")
    }
    assert len(set(fingerprints.values())) == 1, fingerprints


def test_a_column_may_have_any_name(tmp_path):
    """Also `line`, `good` and `fault`, as columns of our own once were called."""
    table = pl.DataFrame({"user_id": ["u"] * 3, "item_id": list("abc"), "timestamp": [1, 2, 3]})
    for name in ("line", "good", "fault", "seconds", "value", "written"):
        table = table.with_columns(pl.lit("x").alias(name))
    table.write_csv(tmp_path / "a.csv")
    table.write_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet"):
        cleaning = prepare("table", path, tmp_path / "out").facts["cleaning"]
        assert (cleaning["rows_accepted"], len(cleaning["ignored_columns"])) == (3, 6)


def test_lists_of_categories_are_taken_from_parquet_and_what_is_no_text_is_named(tmp_path):
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2], "extra": [[1], [2]]})
    events.write_parquet(tmp_path / "interactions.parquet")
    items = {"item_id": ["a", "b"], "title": ["A", "B"], "categories": [["Drama", "One|Two", None], None]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    prepared = prepare("table", tmp_path, tmp_path / "out")
    assert [item.categories for item in prepared.catalogue] == [("Drama", "One|Two"), ()]
    assert prepared.facts["cleaning"]["ignored_columns"] == ["interactions.parquet: extra"]
    pl.DataFrame(items | {"text": [b"x", b"y"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"items\.parquet: column text holds Binary, which is no text"):
        prepare("table", tmp_path, tmp_path / "other")


def test_a_date_that_no_clock_will_reach_is_rejected_in_every_format(tmp_path):
    """Warehouses write 9999-12-31 for never. As a number it would pass for milliseconds, and for 1978."""
    dates = [datetime(2024, 3, 1, 12, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": dates})
    frame.write_parquet(tmp_path / "x.parquet")
    frame.with_columns(pl.col("timestamp").dt.date()).write_parquet(tmp_path / "y.parquet")
    for name, seconds in (("x", 1709294400), ("y", 1709251200)):
        prepared = prepare("table", tmp_path / f"{name}.parquet", tmp_path / f"out-{name}")
        assert prepared.times.tolist() == [seconds]
        (told,) = prepared.facts["cleaning"]["first_rejected"]
        assert told == "line 2: timestamp '9999-12-31' lies after 2100"


def test_a_parquet_file_is_the_one_that_was_named(tmp_path):
    pl.DataFrame({"user_id": ["u"], "item_id": ["right"], "timestamp": [1]}).write_parquet(tmp_path / "q[1].parquet")
    pl.DataFrame({"user_id": ["u"], "item_id": ["wrong"], "timestamp": [1]}).write_parquet(tmp_path / "q1.parquet")
    prepared = prepare("table", tmp_path / "q[1].parquet", tmp_path / "out")
    assert [item.item_id for item in prepared.catalogue] == ["right"]


def test_a_rating_beyond_what_is_stored_is_rejected(bring):
    prepared = bring(f"{HEADER},rating\nu,a,1,4\nu,b,2,1e39\n")
    assert prepared.facts["cleaning"]["first_rejected"] == ["line 3: rating '1e39' is not a number"]


def test_float_ids_in_parquet_are_refused(tmp_path):
    pl.DataFrame({"user_id": [1.0], "item_id": [2], "timestamp": [3]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column user_id holds floats"):
        prepare("table", tmp_path / "x.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("netflix", None), {}, "source must be one of ml-100k"),
        (("table", None), {}, "needs the path"),
        (("amazon-2014", None), {}, "needs the path of its files, or a category to download"),
        (("table", "absent"), {}, "absent does not exist"),
        (("table", "."), {}, "has no interactions table"),
        (("ml-100k", "."), {}, "has no u.data"),
        (("ml-latest-small", "."), {}, "has no ratings.csv"),
        (("synthetic", "."), {}, "reads no path"),
        (("ml-100k", "."), {"items": "items.csv"}, "brings its own items"),
        (("synthetic", None), {"split": "random"}, "split must be one of leave-one-out, time"),
        (("synthetic", None), {"cleaning": Cleaning(min_user=10_000)}, "no user has min_user = 10000"),
    ],
)
def test_wrong_settings_are_named(tmp_path, arguments, options, says):
    source, path = arguments
    with pytest.raises(DataError, match=says):
        prepare(source, None if path is None else tmp_path / path, tmp_path / "out", **options)


def test_min_user_leaves_short_histories_out(bring):
    prepared = bring(f"{HEADER}\nu,a,1\nv,a,1\nv,b,2\n", cleaning=Cleaning(min_user=2))
    assert prepared.users == ("v",)
    assert prepared.facts["cleaning"]["users_dropped"] == 1


def test_positions_are_no_times_and_cannot_be_split_by_time(bring):
    text = f"{HEADER}\n" + "".join(f"u{user},i{at},{at}\n" for user in range(5) for at in range(10))
    assert bring(text).facts["has_unix_time"] is False
    with pytest.raises(DataError, match="are positions"):
        bring(text, split="time")


def test_a_split_by_time_states_its_cuts_and_hash(bring):
    day = 86_400
    text = f"{HEADER}\n" + "".join(f"u{at % 7},i{at % 11},{1_600_000_000 + at * day}\n" for at in range(100))
    prepared = bring(text, split="time")
    rule = prepared.facts["split"]
    assert rule["cuts"] == [1_600_000_000 + 80 * day, 1_600_000_000 + 90 * day]
    assert prepared.facts["counts"]["train_events"] == 80
    assert rule["hash"] == bring(text, split="time").facts["split"]["hash"] != bring(text).facts["split"]["hash"]
    train_until = prepared.times[prepared.split == 0].max()
    assert all(prepared.times[prepared.split == part].min() > train_until for part in (1, 2))
