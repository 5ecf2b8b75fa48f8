"""The network of DiffGRM: a history encoder and a bidirectional digit decoder that reads it by cross-attention.

    [BOS] [item 1] ... [item t]  --encoder-->  states          (causal, one state before every item)
    [d1] [?] [d3] [?]            --decoder-->  a distribution over the codes of each hidden digit

An item enters as one vector, its digits projected together plus a residual of its own, and its score is

    score(i | h) = sum_d log p(digit_d(i) | h, the revealed digits) + <g(h), V_i> + b_i

so items that share an id stay apart. The decoder attends to the newest `memory` states before the target, counted
from the end: slot 0 is always the most recent event, and slots that a short history lacks are masked. Training and
serving, scoring and confidence all go through `Decoder.context` and `Decoder.forward`; there is no second path.
It knows tensors; no catalogue, no losses, no search. Method: DiffGRM, arXiv 2510.21805, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.semantic.codes import MASKED


@dataclass(frozen=True, slots=True)
class SemanticShape:
    """Sizes that the weights depend on. digit_dim: width of a code's vector, of which an id has digits * digit_dim."""

    digits: int
    codes: int
    digit_dim: int
    width: int
    heads: int
    feed_forward: int
    decoder_feed_forward: int
    encoder_layers: int
    decoder_layers: int
    max_history: int
    memory: int


class Residual(nn.Module):
    """Pre-norm, then what is given, then dropout, added to what came in."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)  # fused on a CPU, where RMSNorm is four passes over memory
        self.dropout = dropout

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + drop(branch, self.dropout) if self.training else x + branch


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout; of (B, Q, n, W) the same features for all digits of a history: random numbers are dear on a CPU."""
    if p == 0:
        return x
    shape = (x.shape[0], 1, 1, x.shape[3]) if x.ndim == 4 else x.shape
    return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - p).div_(1 - p)


class FeedForward(Residual):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.gate = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate(self.norm(x)).chunk(2, dim=-1)
        return self.add(x, self.out(F.silu(gate) * value))


class CausalAttention(Residual):
    """Self-attention of the history, rotary positions: what counts is how far back an event lies."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, L, W), rotation: cos and sin (L, W / heads)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v, is_causal=True)
        return self.add(x, self.out(mixed.transpose(1, 2).reshape(batch, length, width)))


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Encoder(nn.Module):
    """Item vectors -> states. Causal, so what lies right of a state, padding too, cannot reach it."""

    def __init__(self, shape: SemanticShape, dropout: float) -> None:
        super().__init__()
        self.bos = nn.Parameter(torch.randn(shape.width))
        self.dropout = dropout
        self.attention = nn.ModuleList(
            CausalAttention(shape.width, shape.heads, dropout) for _ in range(shape.encoder_layers)
        )
        self.feed_forward = nn.ModuleList(
            FeedForward(shape.width, shape.feed_forward, dropout) for _ in range(shape.encoder_layers)
        )
        self.norm = nn.LayerNorm(shape.width)
        half = shape.width // shape.heads // 2
        frequency = 1e4 ** (-torch.arange(half) / half)
        angle = (torch.arange(shape.max_history + 1)[:, None] * frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    cos: Tensor
    sin: Tensor

    def forward(self, items: Tensor) -> Tensor:
        """(B, L, W) item vectors, padded on the right -> (B, L + 1, W); state t has read items 0 .. t - 1."""
        scale = math.sqrt(items.shape[2])  # vectors of about unit length -> elements of about unit size
        x = torch.cat([self.bos.expand(len(items), 1, -1), items * scale], dim=1)
        x = F.dropout(x, self.dropout, self.training)
        rotation = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = feed_forward(attention(x, rotation))
        states: Tensor = self.norm(x)
        return states


@dataclass(frozen=True, slots=True)
class Context:
    """What the decoder needs of B histories, computed once: newest state (B, W); each layer's keys and values
    (B, H, M, W / H); real (B, M), True where the slot holds a state."""

    newest: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    real: Tensor

    def __getitem__(self, chosen: Tensor) -> Context:
        """The context of the chosen histories (index or bool tensor)."""
        return Context(
            self.newest[chosen], [k[chosen] for k in self.keys], [v[chosen] for v in self.values], self.real[chosen]
        )


class DecoderLayer(nn.Module):
    """Full attention among an id's own digits, then cross-attention to the memory, then SwiGLU."""

    def __init__(self, shape: SemanticShape, dropout: float) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, dropout
        self.among, self.across = Residual(width, dropout), Residual(width, dropout)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.among_out = nn.Linear(width, width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.across_out = nn.Linear(width, width, bias=False)
        self.recency = nn.Parameter(torch.zeros(shape.heads, 1, shape.memory))  # added to the attention logits
        self.feed_forward = FeedForward(width, shape.decoder_feed_forward, dropout)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, real: Tensor) -> Tensor:
        """x (B, Q, n, W): Q ids a history, folded into the query axis; keys, values (B, H, M, .), real (B, M)."""
        batch, queries, digits, _ = x.shape
        q, k, v = self.qkv(self.among.norm(x)).view(batch * queries, digits, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = _attend(q, k, v, None).transpose(1, 2).reshape(x.shape)
        x = self.among.add(x, self.among_out(mixed))
        q = self.query(self.across.norm(x)).view(batch, queries * digits, self.heads, -1).transpose(1, 2)
        bias = self.recency.masked_fill(~real[:, None, None], -torch.inf)  # (B, H, 1, M)
        mixed = _attend(q, keys, values, bias).transpose(1, 2).reshape(x.shape)
        x = self.across.add(x, self.across_out(mixed))
        out: Tensor = self.feed_forward(x)
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Written out: for a handful of keys torch's fused attention costs ten times as much on a CPU."""
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ v


class Decoder(nn.Module):
    """Bidirectional over the digits of an id: every hidden digit sees all that are revealed."""

    def __init__(self, shape: SemanticShape, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.slot = nn.Parameter(torch.randn(shape.digits, shape.width))
        self.hidden = nn.Parameter(torch.randn(shape.digits, shape.width))  # in place of a masked digit
        self.read = nn.Linear(shape.digit_dim, shape.width, bias=False)
        self.start = nn.Linear(shape.width, shape.width, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(shape, dropout) for _ in range(shape.decoder_layers))
        self.norm = nn.LayerNorm(shape.width)
        self.out = nn.Linear(shape.width, shape.digit_dim, bias=False)

    def context(self, states: Tensor, index: Tensor, real: Tensor) -> Context:
        """states (S, W) of any number of histories, index (B, M) into them, newest first, real (B, M)."""
        keys, values = [], []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            pair = layer.key_value(states)[index]  # (B, M, 2 W): projected once a state, not once a target
            k, v = pair.view(*index.shape, 2, layer.heads, -1).permute(2, 0, 3, 1, 4)
            keys.append(k)
            values.append(v)
        return Context(states[index[:, 0]], keys, values, real)

    def forward(self, codes: Tensor, table: Tensor, context: Context) -> Tensor:
        """codes (B, Q, n), MASKED where hidden; table (n, C, digit_dim) -> (B, Q, n, digit_dim).

        The inner product with a digit's rows of the table gives its logits.
        """
        digits = torch.arange(codes.shape[2], device=codes.device)
        shown = self.read(table[digits, codes.clamp(min=0)] * math.sqrt(self.shape.digit_dim))
        x = torch.where((codes == MASKED)[..., None], self.hidden, shown) + self.slot
        x = x + self.start(context.newest)[:, None, None]
        for layer, keys, values in zip(self.layers, context.keys, context.values, strict=True):
            x = layer(x, keys, values, context.real)
        x = self.norm(x)
        out: Tensor = self.out(drop(x, self.dropout) if self.training else x)
        return out


class SemanticNetwork(nn.Module):
    """Encoder, decoder and items. digits: (N, n) the frozen ids of the catalogue."""

    digits: Tensor

    def __init__(self, shape: SemanticShape, digits: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.register_buffer("digits", digits.long(), persistent=False)
        self.encoder = Encoder(shape, dropout)
        self.decoder = Decoder(shape, dropout)
        # Small: a catalogue softmax that starts confident spends its first epochs unlearning.
        self.table = nn.Parameter(torch.randn(shape.digits, shape.codes, shape.digit_dim) * 0.02)
        self.table_bias = nn.Parameter(torch.zeros(shape.digits, shape.codes))
        self.project = nn.Linear(shape.digits * shape.digit_dim, shape.width, bias=False)
        self.residual = nn.Parameter(torch.randn(len(digits), shape.width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(len(digits)))
        self.anchor = nn.Linear(shape.width, shape.width, bias=False)
        nn.init.eye_(self.anchor.weight)

    def code_vectors(self) -> Tensor:
        """(N, n * digit_dim) the vectors of each item's digits, side by side."""
        n = torch.arange(self.shape.digits, device=self.digits.device)
        return self.table[n, self.digits].flatten(1)

    def item_vectors(self, code_vectors: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, W) V: what the encoder reads and the item-level score asks. residual: instead of the learnt one."""
        vectors: Tensor = self.project(code_vectors) + (self.residual if residual is None else residual)
        return vectors

    def code_bias(self) -> Tensor:
        """(N,) what the biases of its codes add to an item's score."""
        n = torch.arange(self.shape.digits, device=self.digits.device)
        return self.table_bias[n, self.digits].sum(dim=1)

    def g(self, newest: Tensor) -> Tensor:
        """(..., W) newest states -> (..., W) preference vectors, to be multiplied with V."""
        vector: Tensor = self.anchor(F.dropout(newest, self.dropout, self.training))
        return vector

    def denoise(self, codes: Tensor, context: Context) -> Tensor:
        """codes (B, Q, n), MASKED where hidden -> log-probabilities (B, Q, n, C) of every digit."""
        return self.log_probs(self.decoder(codes, self.table, context))

    def log_probs(self, outputs: Tensor) -> Tensor:
        """(..., n, digit_dim) of the decoder -> (..., n, C)."""
        logits = torch.einsum("...nd,ncd->...nc", outputs.float(), self.table) + self.table_bias
        return logits.log_softmax(dim=-1)

    def fully_masked(self, batch: int) -> Tensor:
        """(batch, 1, n) codes of ids of which nothing is known yet."""
        return torch.full((batch, 1, self.shape.digits), MASKED, device=self.digits.device)


def newest_first(length: int, memory: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every target t < length of a sequence: which states it reads, (length, memory), newest first, and which of
    those slots are real. State t is the newest that precedes target t."""
    index = torch.arange(length, device=device)[:, None] - torch.arange(memory, device=device)
    return index.clamp(min=0), index >= 0
