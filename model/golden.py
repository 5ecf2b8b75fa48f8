"""A few lists that a bundle gave when it was published, so that whoever loads it can tell that it still gives them.

The sha256 of its files proves what lies on the disk. That it is read as it was written is another matter: the code may
be of a later version, a language model that a bundle only names may have changed, a processor may multiply otherwise.
Histories are made up from the catalogue: no user of the training data is in it. Knows no service.

    write_golden(recommender, folder)                  # among the files of a bundle
    check(recommender, read_golden(folder))            # raises BundleError; nothing to ask where a bundle has none
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model.bundle import BundleError
from model.recommender import Recommender

NAME = "golden.json"
K = 10
LENGTHS = (0, 1, 10, 50)
_MAY_DIFFER = 5  # one item of so many: rounding elsewhere may turn round what is nearly tied


@dataclass(frozen=True, slots=True)
class Golden:
    """Item ids: a history, oldest first, and the list that came of it."""

    history: tuple[str, ...]
    items: tuple[str, ...]


def golden(recommender: Recommender) -> list[Golden]:
    """Lists of up to K items after histories of LENGTHS items, the popular and the rare alike."""
    catalogue, total = recommender.catalogue, len(recommender.catalogue)
    popular, _ = recommender.neighbours(np.zeros(0, dtype=np.int64), np.ones(total, dtype=np.bool_), total)
    made = []
    for length in LENGTHS:
        if length >= total:
            break
        history = popular[:: total // length][:length] if length else popular[:0]
        rows, _ = recommender.recommend(history, K)
        made.append(Golden(*(tuple(catalogue[int(row)].item_id for row in some) for some in (history, rows))))
    return made


def write_golden(recommender: Recommender, folder: Path) -> None:
    """Writes NAME into an existing folder."""
    text = json.dumps({"lists": [asdict(one) for one in golden(recommender)]}, indent=2)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_golden(folder: Path) -> list[Golden]:
    """What a bundle has of it; nothing of one from before there was any. Raises BundleError where it is malformed."""
    try:
        lists = json.loads((folder / NAME).read_text(encoding="utf-8"))["lists"]
        return [Golden(tuple(map(str, one["history"])), tuple(map(str, one["items"]))) for one in lists]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / NAME} cannot be read ({error})") from error


def check(recommender: Recommender, lists: Sequence[Golden]) -> None:
    """Raises BundleError, with one sentence, where another list is given than was."""
    for one in lists:
        rows, _ = recommender.recommend(recommender.catalogue.rows(one.history), K)
        found = {recommender.catalogue[int(row)].item_id for row in rows}
        same = len(found.intersection(one.items))
        if same < len(one.items) - len(one.items) // _MAY_DIFFER:
            raise BundleError(
                f"after a history of {len(one.history)} items {same} of the {len(one.items)} that it gave when it was "
                "published are given now"
            )
