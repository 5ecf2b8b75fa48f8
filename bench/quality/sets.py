"""The data sets of the table, each prepared from the canonical files in one stated way.

Knows where the files are (`CONTREC_DATA`, else ../shared/data) and nothing of models.

    prepared = load("beauty")       # prepared on first use, under runs/quality/prepared
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.data.prepare import prepare
from training.data.prepared import Prepared

RUNS = Path("runs/quality")


@dataclass(frozen=True, slots=True)
class Set:
    """folder: below the data folder. overrides: of the recipe `small` on this set, the same for every trained row.

    They come from validation, found with the behaviour trunk; SASRec has them too, and Sports inherits Beauty's.
    """

    folder: str
    title: str
    overrides: tuple[str, ...] = ()


_FILMS = (
    *("text_half.residual=true", "text_half.dropout=0.1", "text_half.epochs=16", "text_half.kernel=1"),
    *("transitions.window=5", "transitions.decay=0.5"),
)
_AMAZON = ("trunk.max_history=50", "trunk.dropout=0.2", "trunk.epochs=14", "trunk.patience=4")

SETS: Mapping[str, Set] = MappingProxyType(
    {
        "ml-1m": Set("ml-1m", "MovieLens-1M", _FILMS),
        "beauty": Set("amazon14-beauty", "Amazon Beauty (2014, 5-core)", _AMAZON),
        "sports": Set("amazon14-sports", "Amazon Sports and Outdoors (2014, 5-core)", _AMAZON),
    }
)


def data_folder() -> Path:
    """Where the real data lies."""
    return Path(os.environ.get("CONTREC_DATA") or "../shared/data")


def load(name: str) -> Prepared:
    """The prepared set. Raises ValueError where the name is unknown or its files are absent."""
    if name not in SETS:
        raise ValueError(f"there is no set {name!r}; there are: {', '.join(SETS)}")
    out = RUNS / "prepared" / name
    if not out.exists():
        source = data_folder() / SETS[name].folder
        if not source.exists():
            raise ValueError(f"{source} is not there: set CONTREC_DATA to the folder that holds {SETS[name].folder}")
        prepare("table", source, out, only_interacted=True)
    return Prepared.read(out)
