"""New items: a semantic id from the text alone, without retraining.

    cold = ColdIds(encoding, KeptEncoder(encoder, "hashed"))
    cold.digits([Item("new", title="Solaris", text="...")])       # (1, n) uint8

The behaviour half of the id is imputed by a ridge regression from text to behaviour, so an item whose text misleads
gets a misleading id, and no residual of its own until the next training: it is found through the codes it shares.
Knows no user and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.catalogue import Item
from model.semantic.codes import Digits, SemanticEncoding
from model.text import KeptEncoder


class ColdIds:
    """encoding: frozen, what gave the trained items their ids."""

    def __init__(self, encoding: SemanticEncoding, encoder: KeptEncoder) -> None:
        self.encoding, self.encoder = encoding, encoder

    def digits(self, items: Sequence[Item]) -> Digits:
        """(m, n) ids of m items. Raises ValueError when the text encoder cannot be loaded."""
        if not items:
            return np.zeros((0, self.encoding.count), dtype=np.uint8)
        return self.encoding.digits(self.encoder.encode(items))

    def save(self, folder: Path) -> None:
        """Writes encoding.safetensors and text/ into an existing folder."""
        self.encoding.save(folder / "encoding.safetensors")
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path) -> ColdIds:
        """Reads what `save` wrote."""
        return cls(SemanticEncoding.load(folder / "encoding.safetensors"), KeptEncoder.load(folder))
