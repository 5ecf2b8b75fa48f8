"""How `Popular` lies in a bundle: catalogue.jsonl and items.safetensors with one tensor, counts (N,) int64.

Knows no manifest; `write_bundle` and `verify` see to that.

    write_bundle(root, "movies", kind="popular", ..., fill=lambda folder: save_popular(recommender, folder))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from model.bundle import BundleError
from model.catalogue import Catalogue
from model.files import read_arrays
from model.recommender import Popular

CATALOGUE = "catalogue.jsonl"
ITEMS = "items.safetensors"


def save_popular(recommender: Popular, folder: Path) -> None:
    """Writes the recommender's two files into an existing folder."""
    recommender.catalogue.write(folder / CATALOGUE)
    save_file({"counts": recommender.counts.astype(np.int64)}, folder / ITEMS)


def load_popular(folder: Path) -> Popular:
    """Reads what `save_popular` wrote. Raises BundleError when the two files do not belong together."""
    try:
        tensors = read_arrays(folder / ITEMS)
        return Popular(Catalogue.read(folder / CATALOGUE), tensors["counts"].astype(np.int64))
    except KeyError as error:
        raise BundleError(f"the bundle {folder} lacks {error} in {CATALOGUE} or {ITEMS}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"the bundle {folder} cannot be read: {error}") from None
