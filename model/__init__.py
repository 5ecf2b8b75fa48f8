"""What is computed: recommenders, their catalogue and index, and the bundles that carry them.

Knows no files but bundles, no HTTP, no store and no data frames. Importing this package is cheap: torch and FAISS
come with the recommender that needs them.

    recommender = load_recommender(Path("bundles/movies/3f2a90c11d7e"))
    rows, scores = recommender.recommend(recommender.catalogue.rows(["1", "17"]), k=10)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.recommender import Recommender

__all__ = ["load_recommender"]


def load_recommender(path: Path, device: str = "cpu") -> Recommender:
    """Verifies the bundle at path and loads the recommender that its manifest names.

    device: where torch keeps the weights. Raises model.bundle.BundleError when the bundle is damaged, is of another
    format, or is of a kind that this version does not know.
    """
    from model.bundle import BundleError, verify

    manifest = verify(path)
    if manifest.kind == "continuous":
        from model.continuous.transitions import load_continuous

        return load_continuous(path, device)
    if manifest.kind == "semantic":
        from model.semantic.recommender import SemanticRecommender

        return SemanticRecommender.load(path, device)
    if manifest.kind == "popular":
        from model.popular import load_popular

        return load_popular(path)
    raise BundleError(f"the bundle {path} is of kind {manifest.kind!r}, which this version of contrec does not know")
