"""Prepared data: interactions as plain arrays beside their catalogue, the only thing that a fit function reads.

This module knows numpy, JSON and safetensors; no data frame, no source format, no model. Users and items are
numbers here (a user number indexes `users`, an item number is a catalogue row).

    prepared = Prepared.read(Path("data/ml-100k"))
    offsets, items = prepared.train_histories()
    offsets, items = prepared.train_negatives()
    asked = prepared.evaluation("test")   # asked.users, asked.histories, asked.targets
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.bundle import sync
from model.catalogue import Catalogue, Rows
from training.data.place import put_in_place, unfinished

TRAIN, VALIDATION, TEST = 0, 1, 2
Part = Literal["validation", "test"]
PARTS: dict[Part, int] = {"validation": VALIDATION, "test": TEST}

FORMAT = 1
ARRAYS = {"offsets": "i8", "items": "i4", "times": "i8", "values": "f4", "split": "i1"}
NEGATIVE = "negative_"
FILES = ("arrays.safetensors", "catalogue.jsonl", "users.json", "facts.json")


class DataError(ValueError):
    """Data that cannot be used, told in one sentence that a user can act on."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Who is asked what: for each of n users a history (rows, oldest first, never empty) and the one row to find."""

    users: NDArray[np.int64]  # (n,) user numbers
    histories: list[Rows]
    targets: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class Negatives:
    """M true negatives: what users met and did not like. Those of user u are offsets[u]:offsets[u + 1], oldest first.

    They are no part of any history and no target. split: the part in whose time each lies, TRAIN if it came before the
    user's first event of another part.
    """

    offsets: NDArray[np.int64]  # (U + 1,)
    items: NDArray[np.int32]  # (M,) catalogue rows
    times: NDArray[np.int64]  # (M,) as the events'
    values: NDArray[np.float32]  # (M,) NaN where the source has none
    split: NDArray[np.int8]  # (M,)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Prepared:
    """U users, E events, a catalogue of N items. Events of user u are offsets[u]:offsets[u + 1], oldest first.

    Splitting is recorded per event. A user's target in a part is their first event of that part, their history
    is every event of an earlier part, and a user without either is not asked. For leave-one-out this means: the
    last event is the test target and the test history includes the validation event. For a split by time: the
    first event of the period, given everything before the period began.

    Raises DataError when the arrays contradict each other.
    """

    catalogue: Catalogue
    users: tuple[str, ...]
    offsets: NDArray[np.int64]  # (U + 1,)
    items: NDArray[np.int32]  # (E,) catalogue rows
    times: NDArray[np.int64]  # (E,) unix seconds, or the position where the source has only order
    values: NDArray[np.float32]  # (E,) NaN where the source has none
    split: NDArray[np.int8]  # (E,) TRAIN, VALIDATION or TEST
    facts: dict[str, Any] = field(default_factory=dict)  # source, counts, cleaning, the split's rule and hash
    negatives: Negatives | None = None  # None where the source has none

    def __post_init__(self) -> None:
        for name, array in self._arrays().items():
            dtype = np.dtype(ARRAYS[name.removeprefix(NEGATIVE)])
            if array.dtype != dtype or array.ndim != 1:
                raise DataError(f"{name} must be one-dimensional {dtype}, not {array.ndim}-d {array.dtype}")
        for owner, of in ((self, ""), (self.negatives, NEGATIVE)):
            if owner is None:
                continue
            count, offsets, rows = len(owner.items), owner.offsets, owner.items
            for name in ("times", "values", "split"):
                if len(getattr(owner, name)) != count:
                    raise DataError(f"{of}{name} has {len(getattr(owner, name))} entries for {count} events")
            if len(offsets) != len(self.users) + 1:
                raise DataError(f"{len(self.users)} users need {len(self.users) + 1} {of}offsets, not {len(offsets)}")
            if offsets[0] != 0 or offsets[-1] != count or bool((np.diff(offsets) < 0).any()):
                raise DataError(f"{of}offsets must rise from 0 to the number of events, {count}")
            if count and (rows.min() < 0 or rows.max() >= len(self.catalogue)):
                raise DataError(f"an item row lies outside the catalogue of {len(self.catalogue)} items")
        if len(set(self.users)) != len(self.users):
            raise DataError("a user id appears twice")
        events = len(self.items)
        if events == 0:
            return
        if self.split.min() < TRAIN or self.split.max() > TEST:
            raise DataError("split must be 0 (train), 1 (validation) or 2 (test)")
        within = np.ones(events - 1, dtype=np.bool_)  # True where an event and the one before it are one user's
        starts = self.offsets[1:-1]
        within[starts[(starts > 0) & (starts < events)] - 1] = False
        for name in ("times", "split"):
            if bool((np.diff(getattr(self, name))[within] < 0).any()):
                raise DataError(f"{name} must not fall within a user's events")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the arrays (the split among them), the user ids and the catalogue. Facts do not enter."""
        digest = hashlib.sha256(b"contrec prepared 1\n")
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        digest.update(json.dumps(self.users).encode())
        self.catalogue.enter(digest)
        return digest.hexdigest()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays as they are stored. Those of the negatives are there only where there are some, so that data
        without them is the same, to its fingerprint, as before there were negatives."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in ARRAYS}
        if self.negatives is not None:
            arrays |= {NEGATIVE + name: getattr(self.negatives, name) for name in ARRAYS}
        for name in ("values", NEGATIVE + "values"):
            if name in arrays:  # one NaN, whatever its payload
                arrays[name] = np.where(np.isnan(arrays[name]), np.float32(np.nan), arrays[name])
        return {
            name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for name, array in arrays.items()
        }

    def history(self, user: int) -> Rows:
        """All events of a user number, oldest first, of every part."""
        return self.items[self.offsets[user] : self.offsets[user + 1]].astype(np.int64)

    def train_histories(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets (U + 1,), items) of the training events alone: what everything fitted may see."""
        return _kept(self.offsets, self.items, self.split == TRAIN)

    def train_counts(self) -> NDArray[np.int64]:
        """(N,) training events of each item."""
        return np.bincount(self.train_histories()[1], minlength=len(self.catalogue)).astype(np.int64)

    def train_negatives(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets (U + 1,), items): what each user did not like in the training period, oldest first.

        An item that the user also has a training event with is left out: they changed their mind, or it is a rating
        among many, and one item cannot be wanted and unwanted at once.
        """
        return self._disliked((TRAIN,), liked=(TRAIN,))

    def later_negatives(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets (U + 1,), items): what each user did not like in the time of validation and test, oldest first.

        For asking afterwards, never for fitting. An item that the user has any event with is left out, as above, and
        one that they had disliked in the training period: what is fitted may know that.
        """
        offsets, items = self._disliked((VALIDATION, TEST), liked=(TRAIN, VALIDATION, TEST))
        again = np.isin(self._pairs(offsets, items), self._pairs(*self.train_negatives()))
        return _kept(offsets, items, ~again)

    def _disliked(
        self, parts: tuple[int, ...], *, liked: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Negatives of some parts, without what the user has an event with in the parts `liked`."""
        if self.negatives is None:
            return np.zeros(len(self.users) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        offsets, items = self.negatives.offsets, self.negatives.items
        events = self._pairs(*_kept(self.offsets, self.items, np.isin(self.split, liked)))
        wanted = np.isin(self._pairs(offsets, items), events)
        return _kept(offsets, items, np.isin(self.negatives.split, parts) & ~wanted)

    def _pairs(self, offsets: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.int64]:
        """One number for each user and item."""
        owners: NDArray[np.int64] = np.repeat(np.arange(len(self.users)), np.diff(offsets))
        return owners * len(self.catalogue) + items

    def evaluation(self, part: Part) -> EvaluationSet:
        """Users, histories and targets of a part, in user order."""
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, not {part!r}")
        number = PARTS[part]
        users, histories, targets = [], [], []
        for user, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            # Parts never fall within a user, so an earlier part is a prefix.
            first, after = np.searchsorted(self.split[start:stop], [number, number + 1])
            if first == 0 or first == after:
                continue
            users.append(user)
            histories.append(self.items[start : start + first].astype(np.int64))
            targets.append(int(self.items[start + first]))
        return EvaluationSet(np.array(users, dtype=np.int64), histories, np.array(targets, dtype=np.int64))

    def write(self, folder: Path) -> None:
        """Writes the folder whole or not at all, over an older prepared folder if there is one.

        Raises DataError when something else is in the way.
        """
        refuse_occupied(folder)
        with unfinished(folder) as new:
            save_file(self._arrays(), new / "arrays.safetensors")
            self.catalogue.write(new / "catalogue.jsonl")
            (new / "users.json").write_text(json.dumps(self.users, ensure_ascii=False), encoding="utf-8")
            facts = {"format": FORMAT, "fingerprint": self.fingerprint, **self.facts}
            (new / "facts.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            for path in (*new.iterdir(), new):
                sync(path)
            put_in_place(new, folder)

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """Reads what `write` wrote and checks its fingerprint. Raises DataError, one sentence, on anything else."""
        for name in FILES:
            if not (folder / name).is_file():
                raise DataError(f"{folder} is not a prepared data folder: {name} is missing")
        try:
            facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
            version, fingerprint = facts.pop("format", None), facts.pop("fingerprint", None)
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{folder} is damaged: facts.json cannot be read ({error}); prepare the data again"
            ) from error
        if version != FORMAT:
            raise DataError(f"{folder} was written by another version of contrec: prepare the data again")
        try:
            arrays = load_file(folder / "arrays.safetensors")
            negatives = {name: arrays[NEGATIVE + name] for name in ARRAYS} if NEGATIVE + "items" in arrays else None
            prepared = cls(
                catalogue=Catalogue.read(folder / "catalogue.jsonl"),
                users=tuple(json.loads((folder / "users.json").read_text(encoding="utf-8"))),
                facts=facts,
                negatives=Negatives(**negatives) if negatives else None,
                **{name: arrays[name] for name in ARRAYS},
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} is damaged and cannot be read ({error}): prepare the data again") from error
        if prepared.fingerprint != fingerprint:
            raise DataError(f"{folder} does not match its own fingerprint: it was changed, prepare the data again")
        return prepared


def _kept(
    offsets: NDArray[np.int64], items: NDArray[np.int32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """offsets (U + 1,) and items where the mask is True."""
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[offsets].astype(np.int64), items[mask]


def refuse_occupied(folder: Path) -> None:
    """Raises DataError when something that is no prepared data lies where it would be written."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and (not folder.is_dir() or (names and names != set(FILES))):
        raise DataError(f"{folder} exists and is not a prepared data folder; choose another one or remove it")
