"""DiffGRM at serving: history encoder, digit decoder and exact catalogue scoring behind the one interface.

    encode      the encoder reads the history once                 -> its newest states
    generate    the fully masked pass, then conditional passes     -> digit log-probabilities, preference, corrections
    retrieve    n look-ups and one inner product an item           -> the best, exactly, filters inside

    score(i) = lambda sum_d log p(digit_d(i) | h) + <g(h), V_i> + b_i   [+ a correction, for candidates looked at again]

The score is a sum of log-probabilities and a logit: comparable between items of one answer, not between users.
Nothing here knows HTTP or a store.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from model.catalogue import Catalogue, Item, Mask, Rows
from model.cold import starting_bias
from model.files import read_json, read_tensors, write_json
from model.recommender import Dials, Floats, Recommender, UserTokens, best
from model.semantic.codes import digest
from model.semantic.cold import ColdIds
from model.semantic.decoding import Decoding, beam, conditional
from model.semantic.lattice import Lattice, spans
from model.semantic.network import Context, SemanticNetwork, SemanticShape
from model.semantic.packed import ContextMaker, FirstPass, HistoryReader
from model.text import item_text, unit

DENSE_ITEMS = 200_000
"""Largest catalogue whose scores a taste carries: 800 kB a request."""


@dataclass(frozen=True, slots=True)
class SemanticTaste:
    """What an item scores by its digits, table (n, C): the weighted log-probabilities of the fully masked pass, and the
    noise of a request that explores. preference (W,); corrections (R,) of the scores of rows (R,).

    scores: (N,) what they come to, made for a whole batch in one product, or None in a catalogue of more than
    DENSE_ITEMS.
    """

    table: Floats
    preference: Floats
    rows: Rows
    corrections: Floats
    scores: Floats | None = None


class SemanticRecommender(Recommender):
    """cold: gives new items their ids. counts: (N,) interactions in training."""

    kind = "semantic"

    def __init__(
        self,
        catalogue: Catalogue,
        network: SemanticNetwork,
        cold: ColdIds,
        counts: Tensor,
        decoding: Decoding,
        *,
        device: str = "cpu",
    ) -> None:
        super().__init__(catalogue)
        if len(network.digits) != len(catalogue):
            raise ValueError(f"{len(network.digits)} semantic ids for a catalogue of {len(catalogue)} items")
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self._reader, self._first = HistoryReader(network.encoder, network.shape), FirstPass(network)
        self._context = ContextMaker(network.decoder)
        self.cold = cold
        self.decoding = decoding
        self._trained = len(catalogue)  # rows from here on were added since
        self._starting_bias = starting_bias(network.bias.detach().cpu(), counts)
        with torch.inference_mode():
            vectors = network.item_vectors(network.code_vectors()).float()
        self._hold(catalogue, network.digits, vectors, network.bias.detach().float().clone(), counts.numpy())

    def _hold(
        self, catalogue: Catalogue, digits: Tensor, vectors: Tensor, bias: Tensor, counts: NDArray[np.int64]
    ) -> None:
        """Everything that depends on which items there are. vectors: (N, W) V; bias: (N,)."""
        self.catalogue, self.digits, self.vectors, self._bias, self.counts = catalogue, digits, vectors, bias, counts
        shape = self.network.shape
        # Where in the flattened (n, C) log-probabilities an item's digits stand: (N, n).
        self._places = digits + torch.arange(shape.digits, device=self.device) * shape.codes
        self._places_by_digit = self._places.T.contiguous()
        # The same three as numpy arrays, sharing memory on a CPU.
        self._matrix: Floats = vectors.cpu().numpy()
        self._bias_array: Floats = bias.cpu().numpy()
        self._place_arrays: NDArray[np.int64] = self._places_by_digit.cpu().numpy()
        for name in ("lattice", "_unit"):
            self.__dict__.pop(name, None)  # made from the items when they are next asked for

    @torch.inference_mode()
    def with_items(self, items: Sequence[Item]) -> SemanticRecommender:
        """A new item gets the id that its text implies, the vector of that id, and the bias of the least met items.

        An item that was added before and now has another text moves to the id of that text.
        """
        catalogue, known = self.catalogue.with_items(items), len(self.catalogue)
        rows = np.unique(catalogue.rows(item.item_id for item in items if item.item_id))
        moved = [int(row) for row in rows if self._trained <= row < known]
        moved = [row for row in moved if item_text(catalogue[row]) != item_text(self.catalogue[row])]
        ids = self.cold.digits([catalogue[row] for row in (*moved, *range(known, len(catalogue)))])
        placed = torch.from_numpy(ids).long().to(self.device)
        n = torch.arange(self.network.shape.digits, device=self.device)
        of_ids = self.network.project(self.network.table[n, placed].flatten(1)).float()
        digits, vectors = (
            torch.cat([self.digits, placed[len(moved) :]]),
            torch.cat([self.vectors, of_ids[len(moved) :]]),
        )
        digits[moved], vectors[moved] = placed[: len(moved)], of_ids[: len(moved)]
        added = len(catalogue) - known
        bias = torch.cat([self._bias, self._bias.new_full((added,), self._starting_bias)])
        twin = copy.copy(self)
        twin._hold(catalogue, digits, vectors, bias, np.concatenate([self.counts, np.zeros(added, dtype=np.int64)]))
        return twin

    def expect_items(self) -> None:
        self.cold.encoder.ready()

    def with_decoding(self, decoding: Decoding) -> SemanticRecommender:
        """The same network and items, decoded in another way."""
        twin = copy.copy(self)
        twin.decoding = decoding
        return twin

    @cached_property
    def lattice(self) -> Lattice:
        """The legal partial ids; made when a beam first asks for them."""
        return Lattice(self.digits.cpu().numpy().astype(np.uint8))

    @cached_property
    def _unit(self) -> Floats:
        """(N, W + n * digit_dim): an item's vector beside those of its digits, each of unit length, for cosines."""
        n = torch.arange(self.network.shape.digits, device=self.device)
        codes = self.network.table.detach()[n, self.digits].flatten(1).float().cpu().numpy()
        return unit(np.concatenate([unit(self._matrix), unit(codes)], axis=1))

    # ------------------------------------------------------------------------------------------------------------
    # The three steps

    @torch.inference_mode()
    def encode(self, histories: Sequence[Rows]) -> list[UserTokens]:
        """condition: (memory * W + 1,) the newest states, newest first, zero where there are fewer, and how many."""
        if not histories:
            return []
        states, real = self._reader.newest_states(self.vectors, histories)
        flat = states.flatten(1).float().cpu().numpy()
        count = real.sum(dim=1, keepdim=True).cpu().numpy().astype(np.float32)
        nothing = np.zeros(0, dtype=np.float32)
        return [UserTokens(condition=row, profile=nothing) for row in np.concatenate([flat, count], axis=1)]

    @torch.inference_mode()
    def generate(self, tokens: Sequence[UserTokens], dials: Sequence[Dials]) -> list[SemanticTaste]:
        """explore adds Gumbel noise to the score of every code, from the request's own seed.

        At explore 1 and a weight of 1 the likeliest code of a digit is then an exact draw from its distribution, so an
        exploring list moves to other neighbourhoods of the catalogue, not to scattered items.
        """
        if len(tokens) != len(dials):
            raise ValueError(f"{len(tokens)} user tokens but {len(dials)} dials")
        if not tokens:
            return []
        context = self.context(tokens)
        dense = len(self.catalogue) <= DENSE_ITEMS
        log_probs, preference = self._first(context)
        table = self.decoding.digits * log_probs
        exploring = [n for n, dial in enumerate(dials) if dial.explore > 0]
        if exploring:
            noise = torch.stack([dials[n].explore * self._gumbel(dials[n].seed) for n in exploring])
            table[exploring] += noise  # and no correction, which would take it back, knows of it
        scores = self._scores(table, preference) if dense or self._looks_again else None
        rows, corrections = self._looked_at_again(context, log_probs, scores)
        parts = table.cpu().numpy(), preference.cpu().numpy(), rows, corrections
        tastes = [SemanticTaste(*part) for part in zip(*parts, strict=True)]
        if scores is None or not dense:
            return tastes
        whole = scores.cpu().numpy()
        for n, taste in enumerate(tastes):
            whole[n, taste.rows] += taste.corrections
        return [replace(taste, scores=whole[n]) for n, taste in enumerate(tastes)]

    def retrieve(self, taste: SemanticTaste, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """Exact, whatever the filter leaves. `score` is the plain twin of the scores that a taste carries."""
        return best(self.score(taste) if taste.scores is None else taste.scores, eligible, k)

    def score(self, taste: SemanticTaste) -> Floats:
        scores: Floats = self._matrix @ taste.preference
        scores += self._bias_array
        flat = taste.table.ravel()
        for places in self._place_arrays:
            scores += flat[places]
        scores[taste.rows] += taste.corrections
        return scores

    def score_rows(self, taste: SemanticTaste, rows: Rows) -> Floats:
        scores: Floats = self._matrix[rows] @ taste.preference + self._bias_array[rows]
        flat = taste.table.ravel()
        scores += flat[self._place_arrays[:, rows]].sum(axis=0)
        corrections = dict(zip(taste.rows.tolist(), taste.corrections.tolist(), strict=True))
        scores += np.array([corrections.get(row, 0.0) for row in rows.tolist()], dtype=np.float32)
        return scores

    def unit_vectors(self, rows: Rows) -> Floats:
        return self._unit[rows]

    def neighbours(self, rows: Rows, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """By cosine to the mean direction of the items, digits and residual alike; without items, by count."""
        if len(rows) == 0:
            return best(self.counts.astype(np.float32), eligible, k)
        return best(self._unit @ self._unit[rows].mean(axis=0), eligible, k)

    # ------------------------------------------------------------------------------------------------------------
    # Parts of the steps

    def context(self, tokens: Sequence[UserTokens]) -> Context:
        """The decoder's context of cached user tokens."""
        shape = self.network.shape
        flat = torch.from_numpy(np.stack([token.condition for token in tokens])).to(self.device)
        states = flat[:, :-1].reshape(-1, shape.memory, shape.width)
        return self._context(states, torch.arange(shape.memory, device=self.device) < flat[:, -1:])

    @property
    def _looks_again(self) -> bool:
        how = self.decoding
        return how.weight > 0 and how.digits > 0 and (how.candidates > 0 or how.beam > 0)

    def _scores(self, table: Tensor, preference: Tensor) -> Tensor:
        """(B, N) before any correction."""
        table = table.flatten(1)  # (B, n * C)
        if len(table) < 8:
            scores = torch.addmm(self._bias, preference, self.vectors.T)
            for line, of_line in zip(scores, table, strict=True):
                for places in self._places_by_digit:
                    line += of_line.index_select(0, places)
            return scores
        # A code's log-probabilities of the whole batch lie side by side, and are fetched at once.
        of_digits = F.embedding_bag(self._places, table.T.contiguous(), mode="sum")  # (N, B)
        return torch.addmm(of_digits.add_(self._bias[:, None]), self.vectors, preference.T).T.contiguous()

    def _looked_at_again(
        self, context: Context, log_probs: Tensor, scores: Tensor | None
    ) -> tuple[list[Rows], list[Floats]]:
        """Candidates of each history and what is added to their scores (B, N).

        A correction is log p(id | h) by conditional passes less the sum of marginals, less its mean over the
        candidates: they change places with one another, and as a group stay where the exact scores put them.
        """
        how, batch = self.decoding, len(log_probs)
        if not self._looks_again:
            return [np.zeros(0, dtype=np.int64)] * batch, [np.zeros(0, dtype=np.float32)] * batch
        if how.beam:
            return self._by_beam(context, log_probs)
        assert scores is not None
        rows = scores.topk(min(how.candidates, scores.shape[1]), dim=1).indices  # (B, R)
        added = conditional(self.network, context, log_probs, self.digits[rows], how.steps)
        added = how.digits * how.weight * (added - added.mean(dim=1, keepdim=True))
        return list(rows.cpu().numpy()), list(added.cpu().numpy())

    def _by_beam(self, context: Context, log_probs: Tensor) -> tuple[list[Rows], list[Floats]]:
        nodes, found = beam(self.network, context, log_probs, self.lattice, self.decoding.beam, self.decoding.steps)
        flat = log_probs.flatten(1).cpu().numpy()
        rows, corrections = [], []
        for n in range(len(nodes)):
            leaves = nodes[n][nodes[n] >= 0]
            place, source = spans(self.lattice.first[leaves], self.lattice.first[leaves + 1])
            of_leaf = self.lattice.items[place]
            added = found[n][source] - flat[n][self._place_arrays[:, of_leaf]].sum(axis=0)
            rows.append(of_leaf)
            corrections.append(
                (self.decoding.digits * self.decoding.weight * (added - added.mean())).astype(np.float32)
            )
        return rows, corrections

    def _gumbel(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(self.network.shape.digits, self.network.shape.codes, generator=generator)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7))).to(self.device)

    # ------------------------------------------------------------------------------------------------------------
    # Files of a bundle

    def save(self, folder: Path) -> None:
        """Writes catalogue, ids, encoding and network as safetensors and JSON into an existing folder."""
        if len(self.catalogue) != self._trained:
            raise ValueError("items were added since training: a bundle holds what was trained")
        self.catalogue.write(folder / "catalogue.jsonl")
        digits = self.digits.cpu().to(torch.uint8)
        save_file({"digits": digits, "counts": torch.from_numpy(self.counts)}, folder / "items.safetensors")
        self.cold.save(folder)
        save_file(self.network.state_dict(), folder / "network.safetensors")
        record = {
            "shape": asdict(self.network.shape),
            "decoding": asdict(self.decoding),
            "digits_sha256": digest(digits.numpy()),
        }
        write_json(folder / "semantic.json", record)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> SemanticRecommender:
        """Reads what `save` wrote; the caller has verified the bundle."""
        record = read_json(folder / "semantic.json")
        items = read_tensors(folder / "items.safetensors")
        network = SemanticNetwork(SemanticShape(**record["shape"]), items["digits"])
        network.load_state_dict(read_tensors(folder / "network.safetensors"))
        return cls(
            Catalogue.read(folder / "catalogue.jsonl"),
            network,
            ColdIds.load(folder),
            items["counts"],
            Decoding(**record["decoding"]),
            device=device,
        )
