"""ContRec at serving: a trunk, a diffusion head and an exact index behind the one interface.

    encode      the trunk reads the history once            -> condition, profile
    generate    anchor and denoised samples, normalised     -> a mixture of preference vectors
    retrieve    the best of the mixture, provably all of them

The score of an item is the logarithm of its probability under

    p(i | h) = (1 - lambda) softmax_i(<g(h), E_i> + b_i) + lambda / S * sum_s softmax_i(<x0_hat_s, E_i> + b_i)

each vector normalised over the whole catalogue on its own. S, the times of the sampler and lambda come from
validation and travel in the bundle; lambda = 0 is the trunk alone. Of one vector normalising changes no order: then the
score is <g(h), E_i> + b_i, and `log_partition` says how far it is from a log probability. Nothing here knows HTTP or a
store.

A sieve gives the logit of every item in 8 bits, and `generate` keeps what it computed: `retrieve` asks the FAISS
index about the few items only that may be among the best. The list is exactly that of `score`, the plain twin.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from model.catalogue import Catalogue, Item, Mask, Rows
from model.cold import starting_bias
from model.continuous.backbone import Backbone, Trunk, alike, pad
from model.continuous.cold import Newcomers, load_newcomers
from model.continuous.head import Head, HeadShape
from model.continuous.mixture import Mixture
from model.continuous.reader import Reader
from model.continuous.retrieval import (
    ContinuousTaste,
    blend,
    log_partition,
    mix,
    retrieve_mixture,
    rough_logits,
    rough_scores,
    tastes_of,
)
from model.continuous.sampler import Sampler
from model.files import read_json, read_tensors, write_json
from model.index import ItemIndex
from model.recommender import Dials, Floats, Recommender, UserTokens, Walk, best
from model.sieve import Sieve, Slack, make_sieve
from model.text import item_text, unit

_TOGETHER = 2**22  # cosines held at a time: 16 MB
_POSITIONS = 1024  # read at once: few are quicker, and memory does not grow with the batch (bench/serving/reading.py)


class ContinuousRecommender(Recommender):
    """vectors: (N, W) item vectors E; bias: (N,); counts: (N,) interactions in training, for the ladder.

    cold: places items that training did not know; without it they lie at the origin, where only their bias speaks.
    noise: (S, len(times), W), the fixed draws that every request without `explore` shares.
    """

    kind = "continuous"

    def __init__(
        self,
        catalogue: Catalogue,
        trunk: Trunk,
        head: Head,
        vectors: Tensor,
        bias: Tensor,
        counts: Tensor,
        mixture: Mixture,
        *,
        max_profile: int,
        device: str = "cpu",
        cold: Newcomers | None = None,
    ) -> None:
        super().__init__(catalogue)
        if len(vectors) != len(catalogue):
            raise ValueError(f"{len(vectors)} item vectors for a catalogue of {len(catalogue)} items")
        self.device = torch.device(device)
        self.at_once = _POSITIONS if self.device.type == "cpu" else math.inf  # positions; infinity is the plain twin
        self.trunk = trunk.to(self.device).eval()
        self.head = head.to(self.device).eval()
        self.mixture = mixture
        self.max_profile = max_profile
        self.cold = cold
        self._trained = len(catalogue)  # rows from here on were added since
        self._starting_bias = starting_bias(bias.cpu(), counts)
        self._noise = mixture.noise(vectors.shape[1]).to(self.device)
        backbone = self.trunk.backbone
        self._reader = Reader(backbone) if isinstance(backbone, Backbone) else backbone
        self._samplers: dict[tuple[tuple[float, ...], float], Sampler] = {}
        index = ItemIndex(torch.cat([vectors, bias[:, None]], dim=1).cpu().numpy())
        sieve = make_sieve(index.matrix, self.device)
        self._hold(catalogue, index, sieve, counts.numpy(), _lengths(index.matrix))

    def _hold(
        self, catalogue: Catalogue, index: ItemIndex, sieve: Sieve, counts: NDArray[np.int64], lengths: Floats
    ) -> None:
        """Everything that depends on which items there are. index: [E, b], (N, W + 1). lengths: (N,) of E."""
        self.catalogue, self.index, self.sieve, self.counts, self._lengths = catalogue, index, sieve, counts, lengths
        self._matrix = torch.from_numpy(index.memory).to(self.device)  # the same memory on a CPU
        self.vectors = self._matrix[:, :-1]

    def with_items(self, items: Sequence[Item]) -> ContinuousRecommender:
        """New items are placed by `cold`. An item that was added before and now has another text moves."""
        catalogue, known = self.catalogue.with_items(items), len(self.catalogue)
        rows = np.unique(catalogue.rows(item.item_id for item in items if item.item_id))
        moved = [int(row) for row in rows if self._trained <= row < known]
        moved = [row for row in moved if item_text(catalogue[row]) != item_text(self.catalogue[row])]
        placed = self._placed([catalogue[row] for row in (*moved, *range(known, len(catalogue)))])
        added, unmet = placed[len(moved) :], np.zeros(len(catalogue) - known, dtype=np.int64)
        change = added, np.array(moved, dtype=np.int64), placed[: len(moved)]
        lengths = np.concatenate([self._lengths, _lengths(added)])
        lengths[moved] = _lengths(placed[: len(moved)])
        twin, counts = copy.copy(self), np.concatenate([self.counts, unmet])
        twin._hold(catalogue, self.index.extended(*change), self.sieve.extended(*change), counts, lengths)
        return twin

    def expect_items(self) -> None:
        if self.cold is not None:
            self.cold.encoder.ready()

    def _placed(self, items: Sequence[Item]) -> Floats:
        """(n, W + 1): vector and starting bias of items that training did not know."""
        placed = np.zeros((len(items), self.index.dimensions), dtype=np.float32)
        placed[:, -1] = self._starting_bias
        if items and self.cold is not None:
            placed[:, :-1] = self.cold.vectors(items).numpy()
        return placed

    @property
    def condition_width(self) -> int:
        """W: of the condition in user tokens."""
        return self.index.dimensions - 1

    @property
    def bias(self) -> Tensor:
        """(N,) the learnt popularity of each item, as the index holds it."""
        return self._matrix[:, -1]

    def with_head(self, head: Head, mixture: Mixture) -> ContinuousRecommender:
        """The same trunk and items behind another head and mixture."""
        return ContinuousRecommender(
            self.catalogue,
            self.trunk,
            head,
            self.vectors,
            self.bias,
            torch.from_numpy(self.counts),
            mixture,
            max_profile=self.max_profile,
            device=str(self.device),
            cold=self.cold,
        )

    # ------------------------------------------------------------------------------------------------------------
    # The three steps

    @torch.inference_mode()
    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        """condition: (W,) the trunk's state after the last item; profile: (W,), or (0,) where the tail is all."""
        longest = self.trunk.backbone.shape.max_history
        lengths = [min(len(history), longest) for history in histories]
        found: dict[int, UserTokens] = {}
        for group in alike(lengths, self.at_once):
            found.update(zip(group, self._read([histories[n] for n in group], longest), strict=True))
        return [found[n] for n in range(len(histories))]

    def _read(self, histories: Sequence[Rows], longest: int) -> list[UserTokens]:
        rows, lengths = pad([torch.from_numpy(h[-longest:].astype(np.int64)) for h in histories])
        profile, has_profile = profiles(self.vectors, histories, longest, self.max_profile)
        rows, lengths = rows.to(self.device), lengths.to(self.device)
        states = self._reader.last_states(self.vectors[rows], lengths, profile, has_profile, rows)
        condition = states.float().cpu().numpy()
        nothing = np.zeros(0, dtype=np.float32)
        known, profile_rows = has_profile.tolist(), profile.cpu().numpy()
        return [
            UserTokens(condition=condition[n], profile=profile_rows[n] if known[n] else nothing)
            for n in range(len(histories))
        ]

    @torch.inference_mode()
    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[ContinuousTaste]:
        """The mixture of each user. explore moves weight from it to samples drawn from the request's own seed."""
        if len(tokens) != len(dials):
            raise ValueError(f"{len(tokens)} user tokens but {len(dials)} dials")
        if not tokens:
            return []
        condition = torch.from_numpy(np.stack([t.condition for t in tokens])).to(self.device)  # (B, W)
        anchor = self.trunk.g(condition)
        if self.mixture.weight > 0:
            noise = self._noise.expand(len(tokens), *self._noise.shape)
            samples = self._sampler(self.mixture.times, self.mixture.guidance).sample(condition, anchor, noise)
            tastes = self._tastes(torch.cat([anchor[:, None], samples], dim=1), self.mixture.weights)
        else:
            tastes = self._alone(anchor)
        exploring = [n for n, dial in enumerate(dials) if dial.explore > 0]
        if exploring:
            noise = torch.stack([self._fresh_noise(dials[n].seed) for n in exploring])
            sampler = self._sampler(self.mixture.explore_times)
            samples = sampler.sample(condition[exploring], anchor[exploring], noise)
            even = [1 / samples.shape[1]] * samples.shape[1]
            standing = [tastes[n] for n in exploring]
            if self.mixture.weight == 0:  # then nothing has normalised them yet
                standing = self._tastes(anchor[exploring, None], [1.0])
            for n, standard, fresh in zip(exploring, standing, self._tastes(samples, even), strict=True):
                tastes[n] = blend(standard, fresh, dials[n].explore)
        return tastes

    def retrieve(self, taste: ContinuousTaste, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """Exact; `score` is the plain twin."""
        return retrieve_mixture(self.index, taste, self.rough(taste), self.slack(taste), eligible, k)

    def score(self, taste: ContinuousTaste) -> Floats:
        return mix(taste.vectors @ self.index.matrix.T, taste.log_weights)

    def score_rows(self, taste: ContinuousTaste, rows: Rows) -> Floats:
        return mix(taste.vectors @ self.index.matrix[rows].T, taste.log_weights)

    def log_partition(self, taste: ContinuousTaste) -> float:
        return log_partition(self.rough(taste), lambda rows: self.score_rows(taste, rows))

    def unit_vectors(self, rows: Rows) -> Floats:
        return unit(self.index.matrix[rows, :-1])

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """By cosine to the mean direction of the items; without items, by count."""
        if len(rows) == 0:
            return best(self.counts.astype(np.float32), eligible, k)
        likeness = self.index.matrix[:, :-1] @ self.unit_vectors(rows).mean(axis=0) / self._lengths
        return best(likeness, eligible, k)

    def nearest(self, rows: Rows, among: Mask, k: int) -> Rows:
        """(n, k) of each of rows the k nearest items among (N,) by cosine, -1 where there is none: an item at the
        origin is near nothing."""
        near = np.full((len(rows), k), -1, dtype=np.int64)
        together = max(1, _TOGETHER // max(1, len(among)))
        for at in range(0, len(rows), together):
            vectors = self.index.matrix[rows[at : at + together], :-1]
            likeness = (vectors @ self.index.matrix[:, :-1].T) / self._lengths
            for line, (vector, one) in enumerate(zip(vectors, likeness, strict=True), start=at):
                found = best(one, among, k)[0] if vector.any() else among[:0]
                near[line, : len(found)] = found
        return near

    # ------------------------------------------------------------------------------------------------------------
    # For the eye

    @torch.inference_mode()
    def trace(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[tuple[Walk, ...]]:
        """The walks of each taste, in the order of its vectors: the anchor, the standing samples, those of explore."""
        if len(tokens) != len(dials):
            raise ValueError(f"{len(tokens)} user tokens but {len(dials)} dials")
        return [self._walks(*one) for one in zip(tokens, dials, strict=True)]

    def _walks(self, token: UserTokens, dial: Dials) -> tuple[Walk, ...]:
        condition = torch.from_numpy(token.condition[None]).to(self.device)
        anchor = self.trunk.g(condition)
        mixture, kept = self.mixture, 1 - dial.explore
        walks = []
        if kept > 0:
            walks.append(Walk((1.0,), anchor.cpu().numpy(), (1 - mixture.weight) * kept))
        if kept > 0 and mixture.weight > 0:
            share = mixture.weight * kept
            walks += self._group(condition, anchor, self._noise, mixture.times, share, mixture.guidance)
        if dial.explore > 0:
            noise = self._fresh_noise(dial.seed)
            walks += self._group(condition, anchor, noise, mixture.explore_times, dial.explore)
        return tuple(walks)

    def _group(
        self,
        condition: Tensor,
        anchor: Tensor,
        noise: Tensor,
        times: tuple[float, ...],
        weight: float,
        guidance: float = 1.0,
    ) -> list[Walk]:
        """condition, anchor (1, W), noise (S, T, W) -> S walks that share the weight evenly."""
        samples = len(noise)
        walked = self.head.walk(condition.expand(samples, -1), anchor.expand(samples, -1), noise, times, guidance)
        steps = torch.stack(walked, dim=1).cpu().numpy()  # (S, 1 + T, W)
        return [Walk((1.0, *times), one, weight / samples) for one in steps]

    # ------------------------------------------------------------------------------------------------------------
    # Parts of the steps

    def _sampler(self, times: tuple[float, ...], guidance: float = 1.0) -> Sampler:
        if (times, guidance) not in self._samplers:
            self._samplers[times, guidance] = Sampler(self.head, times, guidance)
        return self._samplers[times, guidance]

    def _alone(self, vectors: Tensor) -> list[ContinuousTaste]:
        """Vectors (B, W), one each, as B tastes."""
        queries = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)[:, None]
        return tastes_of(queries, vectors.new_zeros(len(vectors), 1), rough_logits(self.sieve, vectors))

    def _tastes(self, vectors: Tensor, weights: list[float]) -> list[ContinuousTaste]:
        """Vectors (B, M, W) and their weights (M,), normalised over the catalogue, as B tastes."""
        prior = torch.tensor(weights, device=self.device)
        rough, log_partition = rough_scores(self.sieve, vectors, prior)
        queries = torch.cat([vectors, vectors.new_ones(*vectors.shape[:2], 1)], dim=2)
        return tastes_of(queries, prior.log() - log_partition, rough)

    @torch.inference_mode()
    def rough(self, taste: ContinuousTaste) -> Floats:
        """(N,) the score of every item, within `slack`."""
        if taste.rough is not None:
            return taste.rough
        logits = self.sieve.logits(torch.from_numpy(taste.vectors[:, :-1]).to(self.device))
        return mix(logits.cpu().numpy(), taste.log_weights)

    def slack(self, taste: ContinuousTaste) -> Slack:
        """How far `rough` may be from `score`, at most."""
        return self.sieve.slack(taste.vectors[:, :-1])

    def _fresh_noise(self, seed: int) -> Tensor:
        return self.mixture.fresh_noise(self.vectors.shape[1], seed).to(self.device)

    # ------------------------------------------------------------------------------------------------------------
    # Files of a bundle

    def save(self, folder: Path, *, include_base: bool = True) -> None:
        """Writes catalogue, item matrix, trunk and head as safetensors and JSON into an existing folder.

        include_base: where the trunk is a pretrained language model, whether its weights come along.
        """
        self.catalogue.write(folder / "catalogue.jsonl")
        vectors, bias = self.vectors.cpu().contiguous(), self.bias.cpu().contiguous()
        items = {"vectors": vectors, "bias": bias, "counts": torch.from_numpy(self.counts)}
        save_file(items, folder / "items.safetensors")
        (folder / "adapter").mkdir()
        self.trunk.save(folder / "adapter", include_base=include_base)
        (folder / "head").mkdir()
        save_file(self.head.state_dict(), folder / "head" / "weights.safetensors")
        write_json(folder / "head" / "shape.json", asdict(self.head.shape))
        write_json(folder / "mixture.json", {**asdict(self.mixture), "max_profile": self.max_profile})
        if self.cold is not None:
            self.cold.save(folder)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", catalogue: Catalogue | None = None) -> ContinuousRecommender:
        """Reads what `save` wrote; the caller has verified the bundle. catalogue: where the folder has none."""
        items = read_tensors(folder / "items.safetensors")
        trunk = Trunk.load(folder / "adapter")
        head = Head(HeadShape(**read_json(folder / "head" / "shape.json")))
        # A bundle from before guidance has no vectors of nobody, and asks for none.
        head.load_state_dict({"nobody": head.nobody.detach()} | read_tensors(folder / "head" / "weights.safetensors"))
        mixture = read_json(folder / "mixture.json")
        max_profile = mixture.pop("max_profile")
        for name in ("times", "explore_times"):
            mixture[name] = tuple(mixture[name])
        return cls(
            Catalogue.read(folder / "catalogue.jsonl") if catalogue is None else catalogue,
            trunk,
            head,
            items["vectors"],
            items["bias"],
            items["counts"],
            Mixture(**mixture),
            max_profile=max_profile,
            device=device,
            cold=load_newcomers(folder),
        )


def profiles(vectors: Tensor, histories: Sequence[Rows], longest: int, at_most: int) -> tuple[Tensor, Tensor]:
    """The long-term memory of each history: the mean vector of up to `at_most` items before its tail of `longest`.

    Returns (B, W), zero where there is nothing before the tail, and (B,) bool whether there is.
    """
    profile = vectors.new_zeros(len(histories), vectors.shape[1])
    has_profile = torch.zeros(len(histories), dtype=torch.bool, device=vectors.device)
    for n, history in enumerate(histories):
        before = history[:-longest][-at_most:]
        if len(before):
            profile[n] = vectors[torch.from_numpy(before.astype(np.int64)).to(vectors.device)].mean(dim=0)
            has_profile[n] = True
    return profile, has_profile


def _lengths(matrix: Floats) -> Floats:
    """(N,) of the vectors in [E, b], 1 for the zero vector, so that one may divide by it."""
    lengths: Floats = np.linalg.norm(matrix[:, :-1], axis=1).astype(np.float32)
    return np.where(lengths > 0, lengths, np.float32(1))
