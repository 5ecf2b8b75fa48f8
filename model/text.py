"""Item text -> embedding. The embedded encoder needs no download; a sentence encoder is loaded by id or folder.

Neither knows what it is used for: strings in, unit vectors out, (n, D) float32. A new item's
text goes through the very same function as the text of the items that were trained on.

    encoder = HashedText.load(folder)          # fitted by training/text.py
    encoder = SentenceEncoder("path/or/id")    # any Hugging Face encoder, mean-pooled
    encoder.encode(["Solaris (1972). Drama, Sci-Fi"])
    kept = KeptEncoder.load(folder)            # either of them, as a bundle names it
    kept.encode([Item("i1", title="Solaris")])
"""

from __future__ import annotations

import itertools
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from model.catalogue import Item
from model.files import own_memory, read_arrays, read_json, sha256_of, write_json

Floats = NDArray[np.float32]
HASHED = "hashed"  # the name of the embedded encoder, in recipes and bundles

_WORD = re.compile(r"\w+")


def item_text(item: Item) -> str:
    """What an encoder reads of an item: its text, else title and categories."""
    return item.text or ". ".join(part for part in (item.title, ", ".join(item.categories)) if part)


class TextEncoder(Protocol):
    """Anything that turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, D) float32, rows of unit length; a text without a known word gives the zero vector."""
        ...


def hashed_terms(text: str, buckets: int) -> Counter[int]:
    """How often each hashed word and pair of neighbouring words occurs; crc32, so the same on every machine."""
    words = _WORD.findall(text.lower())
    terms = words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
    return Counter(zlib.crc32(term.encode()) % buckets for term in terms)


def hashed_tf(texts: Sequence[str], buckets: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Sparse (1 + log count) of hashed terms: row offsets (n + 1,), buckets (m,) and values (m,)."""
    offsets, columns, values = array("q", [0]), array("q"), array("f")  # lists of numbers would be seven times as large
    for text in texts:
        terms = hashed_terms(text, buckets)
        columns.extend(terms)
        values.extend(1.0 + np.log(count) for count in terms.values())
        offsets.append(len(columns))
    return np.array(offsets), np.array(columns), np.array(values)


class HashedText:
    """Hashed TF-IDF times a learnt projection (latent semantic analysis, Deerwester et al. 1990).

    idf: (buckets,) inverse document frequencies. projection: (buckets, D).
    """

    def __init__(self, idf: Floats, projection: Floats) -> None:
        if projection.shape[0] != idf.shape[0]:
            raise ValueError(f"idf has {idf.shape[0]} buckets, the projection {projection.shape[0]}")
        self.idf = idf
        self.projection = projection

    def encode(self, texts: Sequence[str]) -> Floats:
        offsets, columns, values = hashed_tf(texts, len(self.idf))
        weights = values * self.idf[columns]
        vectors = np.zeros((len(texts), self.projection.shape[1]), dtype=np.float32)
        for n, (start, end) in enumerate(itertools.pairwise(offsets)):
            vectors[n] = weights[start:end] @ self.projection[columns[start:end]]
        return unit(vectors)

    def save(self, folder: Path) -> None:
        """Writes `hashed.safetensors` into the folder."""
        save_file({"idf": self.idf, "projection": self.projection}, folder / "hashed.safetensors")

    @classmethod
    def load(cls, folder: Path) -> HashedText:
        """Reads what `save` wrote."""
        tensors = read_arrays(folder / "hashed.safetensors")
        return cls(tensors["idf"], tensors["projection"])


@dataclass(frozen=True, slots=True)
class Origin:
    """Which encoder. encoder: HASHED, an id or a folder. revision: of an id. sha256: of its weights; None in bundles of
    before it was noted."""

    encoder: str
    revision: str | None = None
    sha256: str | None = None


class SentenceEncoder:
    """A Hugging Face encoder by id or local folder: the mean of the last states over the real tokens.

    origin: which one it is. revision: of an id, else its newest. local: only what is on this machine, never the
    network. No code of the model's repository is run. Raises ValueError with the reason when it cannot be loaded.
    """

    def __init__(
        self,
        name_or_folder: str,
        *,
        revision: str | None = None,
        local: bool = False,
        device: str = "cpu",
        max_length: int = 128,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        how = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
        try:
            self._model = AutoModel.from_pretrained(name_or_folder, use_safetensors=True, **how)
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **how)
            # Where its files are missing, transformers makes up a tokenizer that knows no word.
            if len(self._tokenizer) <= len(self._tokenizer.all_special_tokens):
                raise ValueError("it has no tokenizer files")
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            hint = " (serving never downloads: fetch it first)" if local else ""
            raise ValueError(f"the text encoder {name_or_folder!r} cannot be loaded: {reason}{hint}") from error
        own_memory(self._model)
        name = str(Path(name_or_folder).resolve()) if Path(name_or_folder).is_dir() else name_or_folder
        found = getattr(self._model.config, "_commit_hash", None) or revision
        self.origin = Origin(name, found, sha256_of(self._model))
        self._model.eval().to(device)
        self._device = device
        self._max_length = max_length

    def encode(self, texts: Sequence[str], batch: int = 64) -> Floats:
        import torch

        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # a batch is padded to its longest
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            inputs = self._tokenizer(
                [texts[n] for n in some],
                padding=True,
                truncation=True,
                max_length=self._max_length,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**inputs).last_hidden_state  # (B, T, D)
            real = inputs["attention_mask"][..., None].to(states.dtype)
            vectors[some] = ((states * real).sum(1) / real.sum(1).clamp(min=1)).float().cpu().numpy()
        return unit(vectors)


class KeptEncoder:
    """What a bundle holds: an encoder under its name.

    encoder: None to load it by `ready`, or when the first text comes: a sentence encoder takes seconds, and who only
    evaluates a bundle never needs one.
    """

    def __init__(self, encoder: TextEncoder | None, name: str | Origin) -> None:
        self.origin = name if isinstance(name, Origin) else Origin(name)
        if isinstance(encoder, SentenceEncoder):
            self.origin = encoder.origin
        self._encoder = encoder

    def encode(self, items: Sequence[Item]) -> Floats:
        """(n, D) unit vectors of what an encoder reads of the items. Raises ValueError when it cannot be loaded."""
        return self.ready().encode([item_text(item) for item in items])

    def ready(self) -> TextEncoder:
        """The encoder, loaded where it was not yet. Raises ValueError when it cannot be, or is another than was fitted
        on: vectors of another model are as wide, and say nothing here."""
        if self._encoder is None:
            found = SentenceEncoder(self.origin.encoder, revision=self.origin.revision, local=True)
            if self.origin.sha256 not in (None, found.origin.sha256):
                raise ValueError(
                    f"the text encoder {self.origin.encoder!r} on this machine is not the one of the bundle"
                )
            self._encoder = found
        return self._encoder

    def or_that_of(self, other: KeptEncoder) -> KeptEncoder:
        """The other where both would load the same: one model need not lie in memory twice."""
        return other if self._encoder is None and self.origin == other.origin else self

    def save(self, folder: Path) -> None:
        """Writes text/ into an existing folder: the embedded encoder whole, of any other which one it is."""
        (folder / "text").mkdir()
        if isinstance(self._encoder, HashedText):
            self._encoder.save(folder / "text")
        known = {key: value for key, value in asdict(self.origin).items() if value is not None}
        write_json(folder / "text" / "encoder.json", known)

    @classmethod
    def load(cls, folder: Path) -> KeptEncoder:
        """Reads what `save` wrote."""
        origin = Origin(**read_json(folder / "text" / "encoder.json"))
        return cls(HashedText.load(folder / "text") if origin.encoder == HASHED else None, origin)


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length one; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
