"""The twin that DiffGRM is measured against: same encoder, same ids, digits one after another (the TIGER way).

Rajput et al. 2023, "Recommender Systems with Generative Retrieval", with what DiffGRM gets too: the same items as
input, the same width, layers and training positions, digits from the same OPQ table, legal codes only. Decoding is as
fast as this house knows how to make it: keys and values of the history once, those of the digits cached, all beams of
a batch in one pass, a prefix tree as arrays. Items that share an id are told apart by how often they were met.

    twin = fit(prepared, digits, codes, part, seed=0)
    rows, scores = twin.recommend_batch(histories, beam=50)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.catalogue import Rows
from model.recommender import Floats
from model.semantic.codes import Digits, pack
from model.semantic.lattice import Ints, spans
from model.semantic.network import Decoder, DecoderLayer, Encoder, SemanticShape, drop, newest_first
from model.semantic.packed import ContextMaker, HistoryReader
from training.data.prepared import Prepared
from training.evaluate import Scorer, evaluate
from training.recipes.semantic import NetworkPart
from training.stages.schedule import learning_rate
from training.stages.semantic import _optimiser, shape_of, smoothed
from training.stages.windows import Batch, Windows


class CausalLayer(DecoderLayer):
    """The layer of the bidirectional decoder, each digit seeing those before it alone."""

    def step(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, real: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, Q, L, W) new digits, past keys and values (B * Q, H, l, .); L > 1 only without a past (training)."""
        batch, queries, length, _ = x.shape
        q, k, v = self.qkv(self.among.norm(x)).view(batch * queries, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if length > 1:
            logits = logits + torch.full((length, length), -torch.inf, device=x.device).triu(1)
        mixed = (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.among.add(x, self.among_out(mixed))
        q = self.query(self.across.norm(x)).view(batch, queries * length, self.heads, -1).transpose(1, 2)
        bias = self.recency.masked_fill(~real[:, None, None], -torch.inf)
        mixed = (q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(dim=-1) @ values
        x = self.across.add(x, self.across_out(mixed.transpose(1, 2).reshape(x.shape)))
        out: Tensor = self.feed_forward(x)
        return out, (k, v)


class Autoregressive(nn.Module):
    """Parameter for parameter the network of DiffGRM, without its item-level score."""

    digits: Tensor

    def __init__(self, shape: SemanticShape, digits: Tensor, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.register_buffer("digits", digits.long(), persistent=False)
        self.encoder = Encoder(shape, dropout)
        self.decoder = Decoder(shape, dropout)
        self.decoder.layers = nn.ModuleList(CausalLayer(shape, dropout) for _ in range(shape.decoder_layers))
        self.table = nn.Parameter(torch.randn(shape.digits, shape.codes, shape.digit_dim) * 0.02)
        self.table_bias = nn.Parameter(torch.zeros(shape.digits, shape.codes))
        self.project = nn.Linear(shape.digits * shape.digit_dim, shape.width, bias=False)
        self.residual = nn.Parameter(torch.randn(len(digits), shape.width) * 0.02)

    def item_vectors(self) -> Tensor:
        """(N, W) what the encoder reads."""
        n = torch.arange(self.shape.digits, device=self.digits.device)
        vectors: Tensor = self.project(self.table[n, self.digits].flatten(1)) + self.residual
        return vectors

    def inputs(self, newest: Tensor, before: Tensor, first: int) -> Tensor:
        """(B, Q, L, W): position first + j has read digit first + j - 1, given in before (B, Q, L); -1 at the start."""
        decoder, length = self.decoder, before.shape[2]
        place = torch.arange(first, first + length, device=before.device)
        read = decoder.read(self.table[(place - 1).clamp(min=0), before.clamp(min=0)] * math.sqrt(self.shape.digit_dim))
        x = torch.where((before < 0)[..., None], decoder.hidden[0], read) + decoder.slot[place]
        return x + decoder.start(newest)[:, None, None]

    def log_probs(self, x: Tensor, first: int) -> Tensor:
        """(B, Q, L, W) -> (B, Q, L, C), the digits from `first` on."""
        x = self.decoder.norm(x)
        u = self.decoder.out(drop(x, self.dropout) if self.training else x)
        place = torch.arange(first, first + x.shape[2], device=x.device)
        logits = torch.einsum("bqld,lcd->bqlc", u, self.table[place]) + self.table_bias[place]
        return logits.log_softmax(dim=-1)


def losses(network: Autoregressive, batch: Batch, part: NetworkPart) -> tuple[Tensor, int]:
    """Cross-entropy of the digits under teacher forcing, all n in one pass."""
    rows, real = batch.rows, batch.real
    states = network.encoder(F.embedding(rows[:, :-1], network.item_vectors()))
    line, position = real.nonzero(as_tuple=True)
    index, is_state = newest_first(rows.shape[1], network.shape.memory, rows.device)
    context = network.decoder.context(
        states.flatten(0, 1), line[:, None] * rows.shape[1] + index[position], is_state[position]
    )
    truth = network.digits[rows[line, position]]
    before = F.pad(truth[:, None, :-1], (1, 0), value=-1)
    x = network.inputs(context.newest, before, 0)
    for layer, keys, values in zip(network.decoder.layers, context.keys, context.values, strict=True):
        assert isinstance(layer, CausalLayer)
        x, _ = layer.step(x, None, keys, values, context.real)
    return smoothed(network.log_probs(x, 0)[:, 0], truth, part.label_smoothing).mean(), len(truth)


@dataclass(frozen=True)
class PrefixTree:
    """Children of a node are first[node]:first[node + 1] of child and code; items of a leaf come by popularity."""

    first: Ints
    child: Ints
    code: Ints
    items: Ints
    leaf: Ints

    @classmethod
    def of(cls, digits: Digits, counts: NDArray[np.int64]) -> PrefixTree:
        """One node a prefix, numbered level by level, the root first."""
        count = digits.shape[1]
        parent = np.zeros(len(digits), dtype=np.int64)
        parents, codes, total = [], [], 1
        for level in range(count):
            keys = pack(digits[:, : level + 1])
            _, index, node = np.unique(keys, return_index=True, return_inverse=True)
            order = np.lexsort((digits[index, level], parent[index]))  # children of one node side by side
            place = np.empty(len(order), dtype=np.int64)
            place[order] = np.arange(len(order))
            parents.append(parent[index][order])
            codes.append(digits[index, level][order].astype(np.int64))
            parent = total + place[node]
            total += len(order)
        of = np.concatenate(parents)
        first = np.searchsorted(of, np.arange(total + 1))
        items = np.lexsort((-counts, parent))
        return cls(
            first,
            np.arange(1, total),
            np.concatenate(codes),
            items,
            np.searchsorted(parent[items], np.arange(total + 1)),
        )


class Twin:
    """The trained network behind its beam."""

    def __init__(self, network: Autoregressive, counts: NDArray[np.int64]) -> None:
        self.network = network.eval()
        self.counts = counts
        self.tree = PrefixTree.of(network.digits.numpy().astype(np.uint8), counts)
        with torch.no_grad():
            self.vectors = network.item_vectors().clone()
        self._reader, self._context = HistoryReader(network.encoder, network.shape), ContextMaker(network.decoder)

    @torch.inference_mode()
    def encode(self, histories: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """States (B, M, W), newest first, and which are real."""
        return self._reader.newest_states(self.vectors, histories)

    @torch.inference_mode()
    def beam(self, states: Tensor, real: Tensor, width: int) -> tuple[Ints, Floats]:
        """Leaves (B, K), -1 where there are fewer, and log-probabilities, best first."""
        network, batch = self.network, len(states)
        context = self._context(states, real)
        nodes, scores = np.zeros((batch, 1), dtype=np.int64), np.zeros((batch, 1), dtype=np.float32)
        before = torch.full((batch, 1, 1), -1)
        past: list[tuple[Tensor, Tensor] | None] = [None] * network.shape.decoder_layers
        for level in range(network.shape.digits):
            x = network.inputs(context.newest, before, level)
            for number, layer in enumerate(network.decoder.layers):
                assert isinstance(layer, CausalLayer)
                x, past[number] = layer.step(
                    x, past[number], context.keys[number], context.values[number], context.real
                )
            known = network.log_probs(x, level)[:, :, 0].numpy()
            nodes, scores, code, parent = self._grow(nodes, scores, known, width)
            if level + 1 < network.shape.digits:
                before = torch.from_numpy(code)[..., None]
                chosen = torch.from_numpy(parent + np.arange(batch)[:, None] * known.shape[1]).flatten()
                past = [(k[chosen], v[chosen]) for k, v in past if k is not None]  # type: ignore[misc]
        return nodes, scores

    def _grow(self, nodes: Ints, scores: Floats, known: Floats, width: int) -> tuple[Ints, Floats, Ints, Ints]:
        batch, beams = nodes.shape
        alive = np.flatnonzero(nodes.ravel() >= 0)
        flat = nodes.ravel()[alive]
        edge, source = spans(self.tree.first[flat], self.tree.first[flat + 1])
        line, place = np.divmod(alive[source], beams)
        lengths = np.bincount(line, minlength=batch)
        column = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        longest = int(lengths.max(initial=0))
        table = np.full((batch, longest), -np.inf, dtype=np.float32)
        at = np.zeros((batch, longest), dtype=np.int64)
        from_beam = np.zeros((batch, longest), dtype=np.int64)
        table[line, column] = scores[line, place] + known[line, place, self.tree.code[edge]]
        at[line, column], from_beam[line, column] = edge, place
        if longest > width:
            top = np.argpartition(-table, width - 1, axis=1)[:, :width]
            table, at, from_beam = (np.take_along_axis(part, top, axis=1) for part in (table, at, from_beam))
        order = np.argsort(-table, axis=1, kind="stable")
        table, at, from_beam = (np.take_along_axis(part, order, axis=1) for part in (table, at, from_beam))
        child = np.where(np.isneginf(table), -1, self.tree.child[at])
        return child, table, self.tree.code[at], from_beam

    def items(self, leaves: Ints) -> tuple[Rows, Ints]:
        """Items of one history's leaves, in the order of the list, and the leaf's place of each."""
        leaves = leaves[leaves >= 0]
        place, source = spans(self.tree.leaf[leaves], self.tree.leaf[leaves + 1])
        return self.tree.items[place], source

    def scorer(self, width: int) -> Scorer:
        """Scores of what the beam ends at; everything else follows by popularity."""
        base = -1e4 + self.counts / (1.0 + self.counts.max())

        def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
            out = np.tile(base.astype(np.float32), (len(histories), 1))
            nodes, _ = self.beam(*self.encode(histories), width)
            for n in range(len(histories)):
                rows, _ = self.items(nodes[n])
                out[n, rows] = -np.arange(len(rows), dtype=np.float32)
            return out

        return scorer


def fit(
    prepared: Prepared,
    digits: Digits,
    codes: int,
    part: NetworkPart,
    *,
    seed: int,
    beam: int = 20,
) -> Twin:
    """Trains as DiffGRM is trained; the best epoch by validation NDCG@10 of its own beam."""
    windows = Windows(*prepared.train_histories(), part.max_history, 0)
    size = windows.step(part.tokens_per_step)
    counts = np.bincount(prepared.train_histories()[1], minlength=len(prepared.catalogue)).astype(np.int64)
    torch.manual_seed(seed)
    network = Autoregressive(shape_of(part, digits.shape[1], codes), torch.from_numpy(digits), part.dropout)
    optimiser = _optimiser(network, part)
    total, step = part.epochs * len(windows.batches(size, np.random.default_rng((seed, 0)))), 0
    best, weights, since = -1.0, network.state_dict(), 0
    for epoch in range(part.epochs):
        torch.manual_seed(seed * 100_003 + epoch)
        network.train()
        total_loss, positions = 0.0, 0
        for batch in windows.epoch(size, seed, epoch):
            for group in optimiser.param_groups:
                group["lr"] = part.learning_rate * learning_rate(step, total, part.warmup_steps)
            loss, count = losses(network, batch, part)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            total_loss, positions, step = total_loss + float(loss.detach()) * count, positions + count, step + 1
        found = evaluate(
            Twin(network, counts).scorer(beam), prepared, "validation", users=min(2000, part.validation_users)
        ).ndcg(10)
        sys.stdout.write(f"twin {epoch + 1} loss {total_loss / positions:.4f} ndcg@10 {found:.4f}\n")
        sys.stdout.flush()
        if found > best:
            best, since, weights = found, 0, {k: v.clone() for k, v in network.state_dict().items()}
        elif (since := since + 1) >= part.patience:
            break
    network.load_state_dict(weights)
    return Twin(network, counts)
