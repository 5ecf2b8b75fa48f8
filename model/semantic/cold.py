"""New items: a semantic id from the text alone, without retraining.

    cold = ColdIds(encoding, encoder, "hashed")
    cold.digits([Item("new", title="Solaris", text="...")])       # (1, n) uint8

The behaviour half of the id is imputed by a ridge regression from text to behaviour, so an item whose text misleads
gets a misleading id, and no residual of its own until the next training: it is found through the codes it shares.
Knows no user and no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.catalogue import Item
from model.semantic.codes import Digits, SemanticEncoding
from model.text import HASHED, HashedText, SentenceEncoder, TextEncoder, item_text


class ColdIds:
    """encoding: frozen, what gave the trained items their ids. encoder: None to load it by name in `ready`, or when the
    first new item comes: a sentence encoder takes seconds, and who only evaluates a bundle never needs one."""

    def __init__(self, encoding: SemanticEncoding, encoder: TextEncoder | None, name: str) -> None:
        self.encoding, self.name, self._encoder = encoding, name, encoder

    def digits(self, items: Sequence[Item]) -> Digits:
        """(m, n) ids of m items. Raises ValueError when the text encoder cannot be loaded."""
        if not items:
            return np.zeros((0, self.encoding.count), dtype=np.uint8)
        return self.encoding.digits(self.ready().encode([item_text(item) for item in items]))

    def ready(self) -> TextEncoder:
        """The encoder, loaded where it was not yet. Raises ValueError when it cannot be."""
        if self._encoder is None:
            self._encoder = SentenceEncoder(self.name)
        return self._encoder

    def save(self, folder: Path) -> None:
        """Writes encoding.safetensors and text/ into an existing folder."""
        self.encoding.save(folder / "encoding.safetensors")
        (folder / "text").mkdir()
        if isinstance(self._encoder, HashedText):
            self._encoder.save(folder / "text")
        (folder / "text" / "encoder.json").write_text(json.dumps({"encoder": self.name}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ColdIds:
        """Reads what `save` wrote."""
        name = json.loads((folder / "text" / "encoder.json").read_text(encoding="utf-8"))["encoder"]
        encoder = HashedText.load(folder / "text") if name == HASHED else None
        return cls(SemanticEncoding.load(folder / "encoding.safetensors"), encoder, name)
