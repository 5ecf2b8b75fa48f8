"""Recommendations for everybody at once, into one Parquet file: user_id, rank, item_id, score.

Users are cut into shards of a fixed size; a shard that is done lies beside the file that is to come, so that a run that
was interrupted, by whatever, goes on behind it. The same users, bundle and settings give the same file to the byte,
interrupted or not: shards and batches never depend on where a run began. Knows no HTTP.

    audience = of_prepared(Prepared.read(Path("prepared")), recommender)
    told = recommend_all(recommender, audience, Path("lists.parquet"), Plan(bundle="movies/1", k=10))
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from model.catalogue import Item, Mask, Rows
from model.recommender import Dials, Floats, Recommender
from service.shaping import Shape
from service.stores.contract import HISTORY_TAIL, Store, positive_tail
from training.data.prepared import Prepared

PLAN = "plan.json"
Passing = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Viewer:
    """A user: what the model reads, oldest first, what must not come back, and of that what they dislike (rows)."""

    user_id: str
    history: Rows
    seen: Rows
    disliked: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Audience:
    """Everybody, the recommender that knows their items, and items that may not come.

    unknown: how many events were left out, since the bundle does not know their items.
    """

    recommender: Recommender
    viewers: Sequence[Viewer]
    withdrawn: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    unknown: int = 0

    def digest(self) -> str:
        """sha256 over every item, and every user with all that is told of them."""
        digest = hashlib.sha256()
        self.recommender.catalogue.enter(digest)
        for viewer in self.viewers:
            digest.update(json.dumps(viewer.user_id).encode())
            for rows in (viewer.history, viewer.seen, viewer.disliked):
                digest.update(rows.tobytes() + b"|")
        digest.update(self.withdrawn.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the file, beside the audience. allow, deny: categories; none allowed means all."""

    bundle: str
    k: int = 10
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    explore: float = 0.0
    seed: int = 0
    shard: int = 5000
    batch: int = 64
    audience: str = ""  # its digest, filled in by `recommend_all`


@dataclass(frozen=True, slots=True)
class Told:
    """What was done: users of the file, those that an earlier run had done, rows, and seconds of this run."""

    users: int
    already: int
    rows: int
    seconds: float

    def __str__(self) -> str:
        now = self.users - self.already
        rate = f", {now / max(1e-9, self.seconds):.0f} users/s" if now else ""
        before = f" ({self.already} of them by an earlier run)" if self.already else ""
        return f"{self.rows} recommendations for {self.users} users{before} in {self.seconds:.1f} s{rate}"


def of_prepared(prepared: Prepared, recommender: Recommender) -> Audience:
    """The users of a prepared folder with all their events; what they did not like is seen as well.

    Ids that the bundle does not know are left out.
    """
    ids = [item.item_id for item in prepared.catalogue]
    rows = (recommender.catalogue.row(item_id) for item_id in ids)
    row_of = np.fromiter((-1 if row is None else row for row in rows), np.int64, len(ids))
    negatives = prepared.negatives
    viewers = []
    for user, user_id in enumerate(prepared.users):
        history = row_of[prepared.history(user)]
        seen = history
        if negatives is not None:
            span = slice(int(negatives.offsets[user]), int(negatives.offsets[user + 1]))
            seen = np.concatenate([history, row_of[negatives.items[span]]])
        viewers.append(Viewer(user_id, history[history >= 0], np.unique(seen[seen >= 0])))
    return Audience(recommender, viewers, unknown=int((row_of[prepared.items] < 0).sum()))


async def of_store(store: Store, recommender: Recommender) -> Audience:
    """The users of a store as the service would answer them: dislikes are seen and not read, items that were put since
    the bundle was made are known, withdrawn ones never come. Users are in order of their id."""
    _, said = await store.read_items(0)
    put = [Item(one.item_id, one.title, one.categories, one.text) for one in said if not one.withdrawn]
    recommender = recommender.with_items(put) if put else recommender
    catalogue = recommender.catalogue
    events: dict[str, list[tuple[float, int, str, bool]]] = {}
    async for position, event in store.events():
        events.setdefault(event.user_id, []).append((event.time, position, event.item_id, event.negative))
    viewers, unknown = [], 0
    for user_id in sorted(events):
        own = sorted(events[user_id])
        negatives = {item_id: time for time, _, item_id, negative in own if negative}  # the newest of each stays
        positive = [(time, item_id) for time, _, item_id, negative in own if not negative]
        history, disliked = positive_tail(positive[-HISTORY_TAIL:], negatives)
        seen = np.unique(catalogue.rows(item_id for _, _, item_id, _ in own))
        viewers.append(Viewer(user_id, catalogue.rows(history), seen, catalogue.rows(sorted(disliked))))
        unknown += sum(catalogue.row(item_id) is None for _, _, item_id, _ in own)
    withdrawn = catalogue.rows(item.item_id for item in said if item.withdrawn)
    return Audience(recommender, viewers, withdrawn, unknown)


def recommend_all(audience: Audience, out: Path, plan: Plan, *, passing: Passing = lambda sentence: None) -> Told:
    """Writes the k best items of every user, best first, without what they have seen; goes on where a run broke off.

    Raises ValueError when what lies there was begun with another bundle, other users, items or settings, when a
    category is unknown, or when out is no .parquet file.
    """
    if out.suffix != ".parquet":
        raise ValueError(f"{out.name} must end in .parquet")
    started = time.perf_counter()
    plan = replace(plan, audience=audience.digest())
    eligible = audience.recommender.catalogue.within(plan.allow, plan.deny)
    eligible[audience.withdrawn] = False
    folder = out.with_name(out.name + ".parts")
    _begin(folder, plan, out)
    viewers = audience.viewers
    shards = [viewers[start : start + plan.shard] for start in range(0, len(viewers), plan.shard)]
    paths = [folder / f"{number:06}.parquet" for number in range(len(shards))]
    already = sum(len(shard) for shard, path in zip(shards, paths, strict=True) if path.is_file())
    done = already
    for shard, path in zip(shards, paths, strict=True):
        if path.is_file():
            continue
        lists: dict[int, tuple[Rows, Floats]] = {}
        for batch in _batches(shard, plan.batch):
            lists |= zip(batch, _lists(audience.recommender, [shard[n] for n in batch], eligible, plan), strict=True)
            done += len(batch)
            rate = (done - already) / (time.perf_counter() - started)
            left = (len(viewers) - done) / rate
            passing(f"{done} of {len(viewers)} users, {rate:.0f} users/s, {left:.0f} s left")
        _write(_frame(audience.recommender, shard, lists), path)
    frames = [pl.read_parquet(path, glob=False) for path in paths]
    whole = pl.concat(frames) if frames else _frame(audience.recommender, [], {})
    _write(whole, out)
    shutil.rmtree(folder)
    return Told(len(viewers), already, len(whole), time.perf_counter() - started)


def _begin(folder: Path, plan: Plan, out: Path) -> None:
    """Makes the folder of shards, or accepts the one of an interrupted run with the same plan."""
    said = json.dumps(asdict(plan), indent=2) + "\n"
    path = folder / PLAN
    if path.is_file():
        if path.read_text(encoding="utf-8") != said:
            raise ValueError(
                f"{folder} was begun with another bundle, other users, other items or other settings: give those "
                f"again, or remove the folder to begin {out.name} anew"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{PLAN}.new")
    new.write_text(said, encoding="utf-8")
    new.replace(path)


def _batches(shard: Sequence[Viewer], size: int) -> Iterator[list[int]]:
    """Users with histories of like length together: little of a batch is padding."""
    order = sorted(range(len(shard)), key=lambda n: (len(shard[n].history), n))
    yield from (order[start : start + size] for start in range(0, len(order), size))


def _lists(
    recommender: Recommender, viewers: Sequence[Viewer], eligible: Mask, plan: Plan
) -> Iterator[tuple[Rows, Floats]]:
    dials = [Dials(plan.explore, _seed(plan.seed, viewer.user_id)) for viewer in viewers]
    tastes = recommender.generate(recommender.encode([viewer.history for viewer in viewers]), dials)
    for viewer, taste in zip(viewers, tastes, strict=True):
        mask = eligible.copy()
        mask[viewer.seen] = False
        shape = Shape(avoid=viewer.disliked)
        if len(viewer.history):
            rows, scores = recommender.retrieve(taste, mask, shape.depth(plan.k))
        else:  # nothing to go by: by counts, as the service has it
            rows, scores = recommender.neighbours(viewer.history, mask, shape.depth(plan.k))
        yield shape.of(recommender, rows, scores, plan.k)


def _seed(seed: int, user_id: str) -> int:
    """Everybody explores on their own, and the same way each time."""
    return int.from_bytes(hashlib.sha256(f"{seed} {user_id}".encode()).digest()[:7], "little")


def _frame(recommender: Recommender, shard: Sequence[Viewer], lists: dict[int, tuple[Rows, Floats]]) -> pl.DataFrame:
    found = [lists[n] for n in range(len(shard))]
    lengths = [len(rows) for rows, _ in found]
    ids = [item_id for rows, _ in found for item_id in recommender.catalogue.ids(rows.tolist())]
    return pl.DataFrame(
        {
            "user_id": [viewer.user_id for viewer, length in zip(shard, lengths, strict=True) for _ in range(length)],
            "rank": [rank for length in lengths for rank in range(1, length + 1)],
            "item_id": ids,
            "score": np.concatenate([scores for _, scores in found]) if found else [],
        },
        schema={"user_id": pl.String, "rank": pl.UInt16, "item_id": pl.String, "score": pl.Float32},
    )


def _write(frame: pl.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        frame.write_parquet(file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
