"""New items: from a text to a place in the item space, without any interaction.

    text -> text encoder -> signals, collaborative block hidden -> tokenizer -> P(tokens) + 0

Training has seen both halves of this: the tokenizer hides the whole collaborative block of some rows, and the item
space drops the residual of some items. Knows no user, no index and no catalogue; items in, vectors out.

    cold = ColdItems(tokenizer, space.project.weight, encoder, encoder_name)
    cold.vectors([Item("new", title="Solaris", text="...")])      # (1, W)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.catalogue import Item
from model.continuous.tokenizer import Tokenizer
from model.text import HASHED, HashedText, SentenceEncoder, TextEncoder, item_text


class ColdItems:
    """tokenizer: as it was fitted. projection: (W, K * D), the P of the item space. encoder: None to load it by name
    when the first new item comes, as a sentence encoder takes seconds and most bundles never need one."""

    def __init__(self, tokenizer: Tokenizer, projection: Tensor, encoder: TextEncoder | None, name: str) -> None:
        self.tokenizer = tokenizer.cpu().eval()
        self.projection = projection.detach().cpu().float().contiguous()
        self.name = name
        self._encoder = encoder

    @torch.inference_mode()
    def vectors(self, items: Sequence[Item]) -> Tensor:
        """(n, W) on the CPU. Raises ValueError when the text encoder cannot be loaded."""
        if self._encoder is None:
            self._encoder = SentenceEncoder(self.name)
        text = torch.from_numpy(self._encoder.encode([item_text(item) for item in items]))
        shape = self.tokenizer.shape
        signals = torch.cat([text.new_zeros(len(items), shape.collaborative), text], dim=1)
        tokens = self.tokenizer.encode(signals, torch.zeros(len(items), dtype=torch.bool))  # (n, K, D)
        return (tokens.flatten(1) @ self.projection.T).clone()

    def save(self, folder: Path) -> None:
        """Writes tokenizer/, space/ and text/ into an existing folder."""
        for name in ("tokenizer", "space", "text"):
            (folder / name).mkdir()
        self.tokenizer.save(folder / "tokenizer")
        save_file({"projection": self.projection}, folder / "space" / "weights.safetensors")
        if isinstance(self._encoder, HashedText):
            self._encoder.save(folder / "text")
        (folder / "text" / "encoder.json").write_text(json.dumps({"encoder": self.name}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ColdItems | None:
        """Reads what `save` wrote; None for a bundle from before it was written, which cannot place new items."""
        weights = folder / "space" / "weights.safetensors"
        if not weights.exists():
            return None
        name = json.loads((folder / "text" / "encoder.json").read_text(encoding="utf-8"))["encoder"]
        encoder = HashedText.load(folder / "text") if name == HASHED else None
        return cls(Tokenizer.load(folder / "tokenizer"), load_file(weights)["projection"], encoder, name)


def starting_bias(bias: Tensor, counts: Tensor) -> float:
    """The bias of an item that nobody has met: the mean of the least met tenth of the items that somebody has.

    The softmax pushes the bias of items without a single interaction down for as long as it trains, because they are
    never the answer; with such a bias a new item would never be shown. The mean of all would put it beside the
    well-liked. The least met that were met at all are what it is most like, and what it starts from.
    """
    met = torch.nonzero(counts > 0).flatten()
    if not len(met):
        return float(bias.mean()) if len(bias) else 0.0
    least = met[torch.argsort(counts[met], stable=True)[: max(1, len(met) // 10)]]
    return float(bias[least].mean())
