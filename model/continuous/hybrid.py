"""Hybrid retrieval: a behaviour half and a text half, trained apart, asked in one exact inner-product query.

    score(i) = log p_behaviour(i | h) + alpha * log p_text(i | h) + a constant of the request

Each half reads the history with a trunk and an item space of its own; their *scores* are added, which beats every
architecture that fuses them earlier (EnsRec, literature.md 3.1). Both scores are inner products up to a constant of the
request, so the sum is one: items [E, b, E_text, b_text], queries [x0_hat, 1, alpha g_text, alpha]. One sieve reads the
bytes of both halves. A mixture on the behaviour half stays a mixture: each of its vectors, normalised by that half's
own sieve, carries the same text half. alpha comes from validation and travels in the bundle. Knows no file format but
its own few lines, no HTTP, no store.

    recommender = Hybrid(behaviour, text, alpha=0.5)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Item, Mask, Rows
from model.continuous.recommender import ContinuousRecommender
from model.continuous.retrieval import ContinuousTaste, log_partition, mix, retrieve_mixture, rough_logits, tastes_of
from model.files import read_json, write_json
from model.index import ItemIndex
from model.recommender import Dials, Floats, Recommender, UserTokens, Walk
from model.sieve import Slack, make_sieve

HYBRID = "hybrid.json"  # what tells a bundle with two halves from one with a single half


class Hybrid(Recommender):
    """behaviour, text: two recommenders over one catalogue; the text half answers with one vector, without a head.

    alpha: weight of the text half's log probability, above zero. Raises ValueError where the halves do not fit.
    """

    kind = "continuous"

    def __init__(self, behaviour: ContinuousRecommender, text: ContinuousRecommender, alpha: float) -> None:
        super().__init__(behaviour.catalogue)
        if len(behaviour.catalogue) != len(text.catalogue):
            raise ValueError(f"the halves hold {len(behaviour.catalogue)} and {len(text.catalogue)} items")
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}; without a text half serve the behaviour half alone")
        if text.mixture.weight != 0:
            raise ValueError("the text half must answer with its trunk alone")
        self.behaviour = behaviour
        self.text = text
        self.alpha = alpha
        self.index = ItemIndex(np.concatenate([behaviour.index.matrix, text.index.matrix], axis=1))
        self.sieve = make_sieve(self.sieve_matrix(), behaviour.device)

    def sieve_matrix(self) -> Floats:
        """(N, W + W_text + 1) what the sieve of both halves holds."""
        return self._one_bias(self.index.matrix)

    def _one_bias(self, joined: Floats) -> Floats:
        """(n, W + 1 + W_text + 1) of the index -> (n, W + W_text + 1) for a sieve that is asked [g, alpha g_text]."""
        width, alpha = self.behaviour.index.dimensions, np.float32(self.alpha)
        bias = joined[:, width - 1] + alpha * joined[:, -1]
        return np.concatenate([joined[:, : width - 1], joined[:, width:-1], bias[:, None]], axis=1)

    def with_alpha(self, alpha: float) -> Hybrid:
        """The same halves in another proportion."""
        twin = copy.copy(self)
        twin.alpha = alpha
        twin.sieve = make_sieve(twin.sieve_matrix(), self.behaviour.device)
        return twin

    def with_items(self, items: Sequence[Item]) -> Hybrid:
        twin = copy.copy(self)
        twin.behaviour, twin.text = self.behaviour.with_items(items), self.text.with_items(items)
        twin.catalogue = twin.behaviour.catalogue
        # The halves place the same rows anew: those behind what this snapshot had, and those whose text changed.
        old, behaviour, text = len(self.catalogue), twin.behaviour.index.matrix, twin.text.index.matrix
        rows = np.unique(self.catalogue.rows(item.item_id for item in items))
        joined = np.concatenate([behaviour[rows], text[rows]], axis=1)
        moved = ~(joined == self.index.matrix[rows]).all(axis=1)
        added = np.concatenate([behaviour[old:], text[old:]], axis=1)
        twin.index = self.index.extended(added, rows[moved], joined[moved])
        twin.sieve = self.sieve.extended(self._one_bias(added), rows[moved], self._one_bias(joined[moved]))
        return twin

    def expect_items(self) -> None:
        self.behaviour.expect_items()
        self.text.expect_items()

    # ------------------------------------------------------------------------------------------------------------
    # The three steps

    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        """condition: (W + W_text,) both trunks' states; profile: the behaviour half's."""
        return [
            UserTokens(np.concatenate([mine.condition, words.condition]), mine.profile)
            for mine, words in zip(self.behaviour.encode(histories), self.text.encode(histories), strict=True)
        ]

    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[ContinuousTaste]:
        """Vectors (M, W + 1 + W_text + 1). explore turns the behaviour half and takes as much from the words: they do
        not turn, and would hold every list together."""
        if len(tokens) != len(dials):
            raise ValueError(f"{len(tokens)} user tokens but {len(dials)} dials")
        mixed = [self.behaviour.mixture.weight > 0 or dial.explore > 0 for dial in dials]
        tastes = iter(self.by_halves([*compress(tokens, mixed)], [*compress(dials, mixed)]))
        others = iter(self._alone([token for token, one in zip(tokens, mixed, strict=True) if not one]))
        return [next(tastes if one else others) for one in mixed]

    @torch.inference_mode()
    def _alone(self, tokens: Sequence[UserTokens]) -> list[ContinuousTaste]:
        """Of whoever does not explore, where the behaviour half mixes nothing in: one vector each, one product."""
        if not tokens:
            return []
        width, device = self.behaviour.condition_width, self.behaviour.device
        conditions = torch.from_numpy(np.stack([t.condition for t in tokens])).to(device)
        mine = self.behaviour.trunk.g(conditions[:, :width])
        words = self.alpha * self.text.trunk.g(conditions[:, width:])
        one = mine.new_ones(len(mine), 1)
        vectors = torch.cat([mine, one, words, self.alpha * one], dim=1)[:, None]
        return tastes_of(vectors, torch.zeros_like(one), rough_logits(self.sieve, torch.cat([mine, words], dim=1)))

    def by_halves(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[ContinuousTaste]:
        """`generate` by a product for each half: of mixtures, and the plain twin of the one product."""
        mine = self.behaviour.generate([self.behaviour_tokens(token) for token in tokens], dials)
        words = self.text.generate([self.text_tokens(token) for token in tokens], [Dials()] * len(tokens))
        return [self._joined(*one) for one in zip(mine, words, dials, strict=True)]

    def _joined(self, mine: ContinuousTaste, words: ContinuousTaste, dial: Dials) -> ContinuousTaste:
        alpha = np.float32(self.alpha * (1 - dial.explore))
        repeated = np.repeat(alpha * words.vectors, len(mine.vectors), axis=0)
        rough = None
        if mine.rough is not None and words.rough is not None:
            rough = _added(mine.rough, words.rough, alpha)
        return ContinuousTaste(
            vectors=np.concatenate([mine.vectors, repeated], axis=1),
            log_weights=mine.log_weights,  # the words' own is a constant, and none
            rough=rough,
        )

    def _split(self, taste: ContinuousTaste) -> tuple[ContinuousTaste, ContinuousTaste, np.float32]:
        """The vectors of each half again, and the weight of the second. All constants stay with the first."""
        width, alpha = self.behaviour.index.dimensions, np.float32(taste.vectors[0, -1])  # what asks for b_text
        nothing = np.zeros(1, dtype=np.float32)
        mine = ContinuousTaste(taste.vectors[:, :width], taste.log_weights)
        return mine, ContinuousTaste(taste.vectors[:1, width:] / (alpha or 1), nothing), alpha

    @property
    def condition_width(self) -> int:
        """W + W_text: of the condition in user tokens."""
        return self.behaviour.condition_width + self.text.condition_width

    def behaviour_tokens(self, token: UserTokens) -> UserTokens:
        """What the behaviour half made of the history."""
        return UserTokens(token.condition[: self.behaviour.condition_width], token.profile)

    def text_tokens(self, token: UserTokens) -> UserTokens:
        """What the text half made of it."""
        return UserTokens(token.condition[self.behaviour.condition_width :], token.profile)

    def retrieve(self, taste: ContinuousTaste, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        return retrieve_mixture(self.index, taste, self.rough(taste), self.slack(taste), eligible, k)

    def score(self, taste: ContinuousTaste) -> Floats:
        return mix(taste.vectors @ self.index.matrix.T, taste.log_weights)

    def score_rows(self, taste: ContinuousTaste, rows: Rows) -> Floats:
        return mix(taste.vectors @ self.index.matrix[rows].T, taste.log_weights)

    @torch.inference_mode()
    def rough(self, taste: ContinuousTaste) -> Floats:
        """(N,) the score of every item, within `slack`."""
        if taste.rough is not None:
            return taste.rough
        if (query := self._query(taste)) is not None:
            logits = self.sieve.logits(torch.from_numpy(query).to(self.behaviour.device))
            return mix(logits.cpu().numpy(), taste.log_weights)
        mine, words, alpha = self._split(taste)
        return _added(self.behaviour.rough(mine), self.text.rough(words), alpha)

    def slack(self, taste: ContinuousTaste) -> Slack:
        """How far `rough` may be from `score`, at most."""
        if (query := self._query(taste)) is not None:
            return self.sieve.slack(query)
        mine, words, alpha = self._split(taste)
        return self.behaviour.slack(mine).plus(self.text.slack(words), float(alpha))

    def _query(self, taste: ContinuousTaste) -> Floats | None:
        """(1, W + W_text) for the one sieve; None of a mixture, and where words weigh less than in its bias."""
        if len(taste.vectors) > 1 or taste.vectors[0, -1] != np.float32(self.alpha):
            return None
        width = self.behaviour.index.dimensions
        return np.concatenate([taste.vectors[:, : width - 1], taste.vectors[:, width:-1]], axis=1)

    def log_partition(self, taste: ContinuousTaste) -> float:
        return log_partition(self.rough(taste), lambda rows: self.score_rows(taste, rows))

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        return self.behaviour.neighbours(rows, eligible, k)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) interactions in training."""
        return self.behaviour.counts

    def nearest(self, rows: Rows, among: Mask, k: int) -> Rows:
        """By what the items say: see `ContinuousRecommender.nearest`."""
        return self.text.nearest(rows, among, k)

    # ------------------------------------------------------------------------------------------------------------
    # For lists, reasons and the eye: the behaviour half's space

    def unit_vectors(self, rows: Rows) -> Floats:
        return self.behaviour.unit_vectors(rows)

    def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]]:
        return self.behaviour.trace([self.behaviour_tokens(token) for token in tokens], dials)

    # ------------------------------------------------------------------------------------------------------------
    # Files of a bundle

    def save(self, folder: Path, *, include_base: bool = True) -> None:
        """The behaviour half as it lies in a bundle of its own, the text half in text_half/, and alpha."""
        self.behaviour.save(folder, include_base=include_base)
        (folder / "text_half").mkdir()
        self.text.save(folder / "text_half")
        (folder / "text_half" / "catalogue.jsonl").unlink()  # the same as the one above it
        write_json(folder / HYBRID, {"alpha": self.alpha})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Hybrid:
        """Reads what `save` wrote; the caller has verified the bundle."""
        behaviour = ContinuousRecommender.load(folder, device)
        text = ContinuousRecommender.load(folder / "text_half", device, catalogue=behaviour.catalogue)
        if behaviour.cold is not None and text.cold is not None:
            text.cold.encoder = text.cold.encoder.or_that_of(behaviour.cold.encoder)
        return cls(behaviour, text, read_json(folder / HYBRID)["alpha"])


def _added(mine: Floats, words: Floats, alpha: np.float32) -> Floats:
    """mine + alpha * words (N,), in one pass."""
    return torch.add(torch.from_numpy(mine), torch.from_numpy(words), alpha=float(alpha)).numpy()
