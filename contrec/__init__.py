"""The front door: the command line, and the one call that loads a trained recommender in Python.

The only package that may see all the others. Importing it is cheap; each part comes when it is asked for.

    import contrec
    recommender = contrec.load_recommender("bundles/movies/3f2a90c11d7e")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.recommender import Recommender

__all__ = ["__version__", "load_recommender"]

__version__ = "0.1.0"


def load_recommender(path: str | Path, device: str = "cpu") -> Recommender:
    """The recommender of the bundle at path, verified. Raises model.bundle.BundleError where it cannot be used."""
    import model

    return model.load_recommender(Path(path), device)
