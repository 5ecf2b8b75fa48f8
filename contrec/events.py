"""Events in and out of a store: from tables, prepared folders and earlier exports; to JSON lines or CSV.

Importing is idempotent: an export carries its event ids, and a row of a table gets an id made from what it says, so
that the same row is the same event wherever it comes from. Knows no model and no HTTP.

    appended = asyncio.run(import_events(Path("clicks.csv"), "sqlite:///contrec.db"))
    count = asyncio.run(export_events("sqlite:///contrec.db", Path("events.jsonl")))
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

from service.schemas import EventType
from service.stores import open_store
from service.stores.contract import MAX_APPEND, Appended, Event, append_all

if TYPE_CHECKING:
    from training.data.prepared import Prepared

TYPES = get_args(EventType)
IMPORTED = "view"  # the type of an event whose source names none
DISLIKED = "dislike"  # the type of a true negative
TIMEOUT = 10.0  # seconds: an import may wait longer than a request
CSV_COLUMNS = ("user_id", "item_id", "timestamp", "rating", "type", "event_id", "recommendation_id")


def read_events(path: Path, tell: Callable[[str], None] = lambda sentence: None) -> Iterator[Event]:
    """Events of a prepared folder, a JSON-lines export (.jsonl), or a table (see training.data.table), oldest first.

    tell: hears which rows of a table were rejected. Raises ValueError, naming file and line, for what cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.suffix == ".jsonl":
        yield from _lines(path)
    elif path.is_dir() and (path / "facts.json").is_file():
        from training.data.prepared import Prepared

        yield from prepared_events(Prepared.read(path))
    else:
        from training.data import table
        from training.data.rows import rejections

        rows = table.read(path).interactions
        if rows.rejected:
            tell(rejections(rows.read, rows.rejected, rows.first_rejected))
        for user_id, item_id, time, value, kind in rows.oldest_first():
            yield _event(user_id, item_id, float(time), value, kind or IMPORTED)


def prepared_events(prepared: Prepared) -> Iterator[Event]:
    """Every event of prepared data, users one after the other, each user's oldest first and then what they disliked."""
    ids = [item.item_id for item in prepared.catalogue]
    for user, user_id in enumerate(prepared.users):
        for what, kind in ((prepared, IMPORTED), (prepared.negatives, DISLIKED)):
            if what is not None:
                for at in range(int(what.offsets[user]), int(what.offsets[user + 1])):
                    yield _event(user_id, ids[what.items[at]], float(what.times[at]), float(what.values[at]), kind)


def _event(user_id: str, item_id: str, time: float, value: float, kind: str = IMPORTED) -> Event:
    said = json.dumps([user_id, item_id, time, *([kind] if kind != IMPORTED else [])], ensure_ascii=False)
    return Event(
        event_id=hashlib.sha256(said.encode()).hexdigest()[:32],
        user_id=user_id,
        item_id=item_id,
        type=kind,
        value=None if math.isnan(value) else value,
        time=time,
    )


def _lines(path: Path) -> Iterator[Event]:
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parsed(line, f"{path.name} line {number}")
        except UnicodeDecodeError:
            raise ValueError(f"{path.name} is not UTF-8 text") from None


def _parsed(line: str, where: str) -> Event:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object")
    for name in ("event_id", "user_id", "item_id"):
        if not isinstance(record.get(name), str) or not record[name]:
            raise ValueError(f"{where}: {name} must be a text that is not empty")
    if record.get("type", IMPORTED) not in TYPES:
        raise ValueError(f"{where}: type must be one of {', '.join(TYPES)}")
    if not _is_number(record.get("time")):
        raise ValueError(f"{where}: time must be a number (unix seconds)")
    if record.get("value") is not None and not _is_number(record["value"]):
        raise ValueError(f"{where}: value must be a number or null")
    if not isinstance(record.get("recommendation_id"), str | None):
        raise ValueError(f"{where}: recommendation_id must be a text or null")
    if unknown := record.keys() - {field.name for field in fields(Event)}:
        raise ValueError(f"{where}: {min(unknown)!r} is no field of an event")
    return Event(**record)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


async def import_events(
    path: Path,
    address: str,
    *,
    tell: Callable[[str], None] = lambda sentence: None,
    passing: Callable[[str], None] = lambda sentence: None,
) -> Appended:
    """Appends the events of path to the store at an address; what the store already knew is counted as repeated.

    tell: hears what a person should not overlook; passing: how far it is.

    Events are appended in batches, each all or none: what an interrupted import has brought stays, and the next
    one goes on from there. Raises ValueError, service.stores.contract.StoreUnavailable or StoreIncompatible.
    """
    store = await open_store(address, timeout=TIMEOUT)
    try:
        return await append_all(store, _counted(read_events(path, tell), passing))
    finally:
        await store.close()


def _counted(events: Iterator[Event], passing: Callable[[str], None]) -> Iterator[Event]:
    for count, event in enumerate(events):
        if count % MAX_APPEND == 0 and count:
            passing(f"{count} events read")
        yield event


async def export_events(address: str, out: Path, *, passing: Callable[[str], None] = lambda sentence: None) -> int:
    """Writes the store's log to a .jsonl (everything; can be imported) or .csv file (a table to train on), whole.

    Returns the number of events. Raises ValueError for another suffix, and the store's errors.
    """
    writers: dict[str, Callable[[IO[str]], Callable[[Event], Any]]] = {".jsonl": _json_writer, ".csv": _csv_writer}
    if out.suffix not in writers:
        raise ValueError(f"{out.name} must end in .jsonl (everything) or .csv (a table to train on)")
    store = await open_store(address, timeout=TIMEOUT)
    count = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                write = writers[out.suffix](file)
                async for _, event in store.events():
                    write(event)
                    count += 1
                    if count % MAX_APPEND == 0:
                        passing(f"{count} events written")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, out)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    finally:
        await store.close()
    return count


def _json_writer(file: IO[str]) -> Callable[[Event], Any]:
    return lambda event: file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")


def _csv_writer(file: IO[str]) -> Callable[[Event], Any]:
    writer = csv.writer(file)
    writer.writerow(CSV_COLUMNS)

    def write(event: Event) -> None:
        value = "" if event.value is None else event.value
        cited = event.recommendation_id or ""
        time = int(event.time) if event.time.is_integer() else event.time
        writer.writerow((event.user_id, event.item_id, time, value, event.type, event.event_id, cited))

    return write
