"""New items: from a text to a place in the item space, without any interaction.

    text -> text encoder -> signals, collaborative block hidden -> tokenizer -> P(tokens) + 0      the behaviour half
    text -> text encoder -> the text half's own map                                                the text half

The tokenizer has seen this in training: it hides the whole collaborative block of some rows. Knows no user, no index
and no catalogue; items in, vectors out.

    cold = ColdItems(tokenizer, space.project.weight, KeptEncoder(encoder, "hashed"))
    cold.vectors([Item("new", title="Solaris", text="...")])      # (1, W)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.catalogue import Item
from model.continuous.space import TextPlace
from model.continuous.tokenizer import Tokenizer
from model.files import read_tensors
from model.text import KeptEncoder


class Newcomers(Protocol):
    """What a recommender asks of either."""

    encoder: KeptEncoder

    def vectors(self, items: Sequence[Item]) -> Tensor:
        """(n, W) on the CPU. Raises ValueError when the text encoder cannot be loaded."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what it is made of into an existing folder."""
        ...


class ColdItems:
    """Of the behaviour half. tokenizer: as it was fitted. projection: (W, K * D), the P of the item space."""

    def __init__(self, tokenizer: Tokenizer, projection: Tensor, encoder: KeptEncoder) -> None:
        self.tokenizer = tokenizer.cpu().eval()
        self.projection = projection.detach().cpu().float().contiguous()
        self.encoder = encoder

    @torch.inference_mode()
    def vectors(self, items: Sequence[Item]) -> Tensor:
        text = torch.from_numpy(self.encoder.encode(items))
        signals = torch.cat([text.new_zeros(len(items), self.tokenizer.shape.collaborative), text], dim=1)
        tokens = self.tokenizer.encode(signals, torch.zeros(len(items), dtype=torch.bool))  # (n, K, D)
        return (tokens.flatten(1) @ self.projection.T).clone()

    def save(self, folder: Path) -> None:
        """Writes tokenizer/, space/ and text/ into an existing folder."""
        for name in ("tokenizer", "space"):
            (folder / name).mkdir()
        self.tokenizer.save(folder / "tokenizer")
        save_file({"projection": self.projection}, folder / "space" / "weights.safetensors")
        self.encoder.save(folder)


class ColdWords:
    """Of the text half. place: as it was trained."""

    def __init__(self, place: TextPlace, encoder: KeptEncoder) -> None:
        self.place = place.cpu().eval()
        self.encoder = encoder

    @torch.inference_mode()
    def vectors(self, items: Sequence[Item]) -> Tensor:
        placed: Tensor = self.place(torch.from_numpy(self.encoder.encode(items)))
        return placed.clone()

    def save(self, folder: Path) -> None:
        """Writes space/ and text/ into an existing folder."""
        (folder / "space").mkdir()
        save_file(self.place.state_dict(), folder / "space" / "weights.safetensors")
        self.encoder.save(folder)


def load_newcomers(folder: Path) -> Newcomers | None:
    """Reads what either wrote; None for a bundle without it, which cannot place new items."""
    file = folder / "space" / "weights.safetensors"
    if not file.exists():
        return None
    weights, encoder = read_tensors(file), KeptEncoder.load(folder)
    if "projection" in weights:
        return ColdItems(Tokenizer.load(folder / "tokenizer"), weights["projection"], encoder)
    hidden, dim = weights["mlp.0.weight"].shape
    place = TextPlace(dim, len(weights["linear.weight"]), hidden)
    place.load_state_dict(weights)
    return ColdWords(place, encoder)
