"""Which items may come back: one mask that every rung of the ladder is held to. Knows no HTTP and no store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from model.catalogue import Catalogue, Mask
from service.bundles import Served
from service.schemas import Selection


def eligible_rows(
    served: Served, *, excluded: Iterable[str] = (), allow: Selection | None = None, deny: Selection | None = None
) -> Mask:
    """(N,) True where an item is allowed and neither denied, excluded nor withdrawn. Unknown ids change nothing."""
    catalogue = served.recommender.catalogue
    mask = np.ones(len(catalogue), dtype=np.bool_) if allow is None else _selected(catalogue, allow)
    if deny is not None:
        mask &= ~_selected(catalogue, deny)
    mask[catalogue.rows(excluded)] = False
    mask[served.withdrawn] = False
    return mask


def unknown_ids(catalogue: Catalogue, *lists: Iterable[str] | None) -> int:
    """How many of the ids given are in no row of the catalogue, each occurrence counted."""
    return sum(catalogue.row(item_id) is None for ids in lists if ids is not None for item_id in ids)


def _selected(catalogue: Catalogue, selection: Selection) -> Mask:
    mask = catalogue.in_categories(selection.categories)
    mask[catalogue.rows(selection.items)] = True
    return mask
