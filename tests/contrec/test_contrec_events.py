"""Events in and out: the same row is the same event from wherever it comes, and a bad line is named."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from contrec.events import export_events, import_events, read_events
from service.stores import open_store
from service.stores.contract import Event, UserRecord, append_all
from training.data.clean import Cleaning
from training.data.prepare import prepare
from training.data.synthetic import Sizes
from training.data.table import read

CITED = Event("e1", "ü", "item, with comma", type="click", value=0.5, time=1.5, recommendation_id="r")
PLAIN = Event("e2", "v", "7", time=2.0)


async def fill(address: str, events: list[Event]) -> None:
    store = await open_store(address)
    await append_all(store, events)
    await store.close()


def test_a_prepared_folder_goes_in_once(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/a.db"
    prepared = prepare("synthetic", None, tmp_path / "prepared", sizes=Sizes(users=20, items=60, events=5))
    events = list(read_events(tmp_path / "prepared"))
    assert len(events) == len(prepared.items)
    assert events[0].user_id == prepared.users[0]
    assert events[0].item_id == prepared.catalogue[int(prepared.items[0])].item_id
    assert events[0].value is None
    first = asyncio.run(import_events(tmp_path / "prepared", address))
    assert (first.accepted, first.repeated) == (len(events), 0)
    again = asyncio.run(import_events(tmp_path / "prepared", address))
    assert (again.accepted, again.repeated) == (0, len(events))


def test_an_export_is_everything_and_can_be_imported_elsewhere(tmp_path: Path) -> None:
    here, there = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    asyncio.run(fill(here, [CITED, PLAIN]))
    assert asyncio.run(export_events(here, tmp_path / "out" / "events.jsonl")) == 2
    assert list(read_events(tmp_path / "out" / "events.jsonl")) == [CITED, PLAIN]
    asyncio.run(import_events(tmp_path / "out" / "events.jsonl", there))
    asyncio.run(export_events(there, tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "out" / "events.jsonl").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["events.jsonl"]


@pytest.mark.parametrize("form", ["events.jsonl", "events.csv"])
def test_dislikes_are_dislikes_after_export_and_import(tmp_path: Path, form: str) -> None:
    here, there = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    told = [
        ("a", "like", None),
        ("b", "dislike", None),
        ("c", "rating", 1.0),
        ("d", "rating", 4.0),
        ("a", "click", None),
    ]
    events = [Event(f"e{n}", "ann", *one, time=float(n)) for n, one in enumerate(told)]
    asyncio.run(fill(here, events))
    asyncio.run(export_events(here, tmp_path / form))
    asyncio.run(import_events(tmp_path / form, there))

    async def read_ann(address: str) -> UserRecord:
        store = await open_store(address)
        record = await store.read_user("ann", "b/1")
        await store.close()
        return record

    before, after = asyncio.run(read_ann(here)), asyncio.run(read_ann(there))
    assert (after.history, after.seen, after.disliked) == (before.history, before.seen, before.disliked)
    assert after.disliked == {"b", "c"}


def test_an_exported_csv_is_a_table_to_train_on(tmp_path: Path) -> None:
    here = f"sqlite:///{tmp_path}/a.db"
    asyncio.run(fill(here, [CITED, PLAIN]))
    assert asyncio.run(export_events(here, tmp_path / "events.csv")) == 2
    rows = read(tmp_path / "events.csv").interactions
    assert [row[:3] for row in rows.oldest_first()] == [("ü", "item, with comma", 1), ("v", "7", 2)]
    assert [(str(value), kind) for *_, value, kind in rows.oldest_first()] == [("0.5", "click"), ("nan", "view")]


def test_what_was_rated_low_is_no_like_in_the_table_to_train_on(tmp_path: Path) -> None:
    """As the service has it: a rating below 3 is a dislike; a value of anything else is no rating."""
    told = [("a", "rating", 5.0), ("b", "rating", 1.0), ("c", "dislike", None), ("d", "view", 1.0), ("a", "click", 2.0)]
    events = [Event(f"e{n}", "u", item, kind, value, float(n)) for n, (item, kind, value) in enumerate(told)]
    also = [Event(f"f{n}", "v", item, "like", time=float(n)) for n, item in enumerate("abcd")]
    address = f"sqlite:///{tmp_path}/a.db"
    asyncio.run(fill(address, events + also))
    asyncio.run(export_events(address, tmp_path / "events.csv"))
    prepared = prepare("table", tmp_path / "events.csv", tmp_path / "prepared")
    assert prepared.negatives is not None
    user = prepared.users.index("u")
    span = slice(int(prepared.negatives.offsets[user]), int(prepared.negatives.offsets[user + 1]))
    assert prepared.catalogue.ids(prepared.negatives.items[span]) == ["b", "c"]
    assert prepared.catalogue.ids(prepared.history(user)) == ["a", "d", "a"]
    asyncio.run(export_events(address, tmp_path / "events.jsonl"))
    kept = {event.event_id: event for event in read_events(tmp_path / "events.jsonl")}
    assert kept["e1"] == events[1], "what can be imported says what was said"


def test_what_an_import_left_out_is_told(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("user_id,item_id,timestamp\nu,a,1\nu,b,03/01/2025\n")
    told: list[str] = []
    assert asyncio.run(import_events(table, f"sqlite:///{tmp_path}/a.db", tell=told.append)).accepted == 1
    assert told == ["1 of 2 rows were rejected: line 3: timestamp '03/01/2025' is neither a number nor an ISO date"]


def test_a_table_row_and_its_prepared_event_are_the_same_event(tmp_path: Path) -> None:
    table = tmp_path / "clicks.csv"
    rows = [f"u,i{n},{1_600_000_000 + n},{n % 5 + 1}" for n in range(5)]
    table.write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]) + "\n")
    prepare("table", table, tmp_path / "prepared")
    assert list(read_events(table)) == list(read_events(tmp_path / "prepared"))
    assert [event.value for event in read_events(table)] == [1, 2, 3, 4, 5]


def test_types_values_and_negatives_come_back_from_the_store(tmp_path: Path) -> None:
    """prepare, import, export, prepare: what training reads is the same."""
    table, address = tmp_path / "x.csv", f"sqlite:///{tmp_path}/a.db"
    rows = ["u,a,1,5,view", "u,b,2,4,purchase", "u,c,3,1,rating", "u,d,4,,dislike", "v,c,5,3,", "v,a,6,,click"]
    table.write_text("\n".join(["user_id,item_id,timestamp,rating,type", *rows]) + "\n")
    first = prepare("table", table, tmp_path / "first", cleaning=Cleaning(threshold=2))
    assert first.negatives is not None
    assert first.catalogue.ids(first.negatives.items) == ["c"]  # nobody likes or describes d
    asyncio.run(import_events(table, address))
    asyncio.run(export_events(address, tmp_path / "events.csv"))
    again = prepare("table", tmp_path / "events.csv", tmp_path / "again", cleaning=Cleaning(threshold=2))
    assert again.fingerprint == first.fingerprint
    elsewhere = f"sqlite:///{tmp_path}/b.db"
    asyncio.run(import_events(tmp_path / "first", elsewhere))
    asyncio.run(export_events(elsewhere, tmp_path / "second.csv"))
    assert prepare("table", tmp_path / "second.csv", tmp_path / "third").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ({"user_id": ""}, "line 2: user_id must be a text that is not empty"),
        ({"item_id": 3}, "line 2: item_id must be"),
        ({"time": "now"}, "line 2: time must be a number"),
        ({"time": float("nan")}, "line 2: time must be a number"),
        ({"value": True}, "line 2: value must be a number or null"),
        ({"type": None}, "line 2: type must be one of view, click"),
        ({"type": "stare"}, "line 2: type must be one of view, click"),
        ({"recommendation_id": 5}, "line 2: recommendation_id"),
        ({"colour": "red"}, "line 2: 'colour' is no field"),
    ],
    ids=str,
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | dict[str, object], sentence: str) -> None:
    good: dict[str, object] = {"event_id": "e", "user_id": "u", "item_id": "i", "time": 1.0}
    text = line if isinstance(line, str) else json.dumps(good | line)
    (tmp_path / "events.jsonl").write_text(json.dumps(good) + "\n" + text + "\n")
    with pytest.raises(ValueError, match=sentence):
        list(read_events(tmp_path / "events.jsonl"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8"):
        list(read_events(tmp_path / "events.jsonl"))
