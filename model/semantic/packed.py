"""The network of DiffGRM at serving: the same arithmetic in fewer, larger operations.

A request alone is a few dozen products of a dozen lines, where an operation costs more than its arithmetic. So weights
are laid out once, as a product wants them: keys and values of all layers side by side, the rotary turn as two more
columns of queries and keys, the scale of attention inside the query. Histories of any length lie one after another in
one sheet, none padded to the longest. The plain twins are `Encoder.forward` of each history alone, `Decoder.context`
and `decoding.masked_pass`; weights are copied, so a network that trains on needs a new one.

    reader = HistoryReader(network.encoder, shape)
    states, real = reader.newest_states(vectors, histories)     # (B, M, W) newest first, (B, M) bool
    context = ContextMaker(network.decoder)(states, real)
    log_probs, preference = FirstPass(network)(context)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.catalogue import Rows
from model.semantic.network import (
    CausalAttention,
    Context,
    Decoder,
    DecoderLayer,
    Encoder,
    FeedForward,
    SemanticNetwork,
    SemanticShape,
)


def _columns(linear: nn.Linear) -> Tensor:
    """(in, out), contiguous: a product of few lines reads it as it lies."""
    return linear.weight.detach().T.contiguous()


def _layers(decoder: Decoder) -> list[DecoderLayer]:
    """As what they are: to a type checker a ModuleList holds modules."""
    return [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]


class _Norm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self._shape = norm.normalized_shape
        self._weight, self._bias, self._eps = norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._shape, self._weight, self._bias, self._eps)


class _FeedForward:
    def __init__(self, part: FeedForward) -> None:
        self._norm, self._gate, self._out = _Norm(part.norm), _columns(part.gate), _columns(part.out)

    def __call__(self, x: Tensor) -> Tensor:
        """x (R, W)"""
        gate, value = (self._norm(x) @ self._gate).chunk(2, dim=1)
        return torch.addmm(x, F.silu(gate).mul_(value), self._out)


class _CausalAttention:
    """Products of one input: q, k, v, and q and k with the halves of each head exchanged, as the rotary turn asks."""

    def __init__(self, part: CausalAttention) -> None:
        self._norm, self._out, self._heads = _Norm(part.norm), _columns(part.out), part.heads
        q, k, v = part.qkv.weight.detach().chunk(3)
        q = q / math.sqrt(len(q) // part.heads)
        self._weight = torch.cat([q, k, v, self._exchanged(q), self._exchanged(k)]).T.contiguous()

    def _exchanged(self, weight: Tensor) -> Tensor:
        first, second = weight.view(self._heads, -1, weight.shape[1]).chunk(2, dim=1)
        return torch.cat([-second, first], dim=1).reshape(weight.shape)

    def __call__(self, x: Tensor, lengths: list[int], cos: Tensor, sin: Tensor) -> Tensor:
        """x (R, W), sequences one after another; cos and sin (R, 1, 1, W / heads) -> what attention mixed, (R, W)."""
        parts = (self._norm(x) @ self._weight).view(len(x), 5, self._heads, -1)
        turned = torch.addcmul(parts[:, :2] * cos, parts[:, 3:], sin)
        together = torch.cat([turned, parts[:, 2:3]], dim=1).permute(1, 2, 0, 3)  # (3, heads, R, .)
        mixed = []
        for one in together.split(lengths, dim=2):
            q, k, v = one.unsqueeze(1)
            of_one = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)  # (1, heads, L, .)
            mixed.append(of_one.transpose(1, 2).flatten(2)[0])
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

    def add(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(R, W) each."""
        return torch.addmm(x, mixed, self._out)


class HistoryReader:
    """Histories -> the newest states of each, which is all that the decoder reads of them."""

    def __init__(self, encoder: Encoder, shape: SemanticShape) -> None:
        self._shape = shape
        self._bos = encoder.bos.detach()[None].clone()
        self._layers = [
            (_CausalAttention(attention), _FeedForward(feed_forward))  # type: ignore[arg-type]
            for attention, feed_forward in zip(encoder.attention, encoder.feed_forward, strict=True)
        ]
        self._norm = _Norm(encoder.norm)
        self._cos, self._sin = encoder.cos[:, None, None].clone(), encoder.sin[:, None, None].clone()

    def newest_states(self, vectors: Tensor, histories: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """vectors (N, W) V; histories of any length, of which the last `max_history` rows are read.

        (B, M, W) states, newest first, zero where there are fewer, and (B, M) which there are. What comes out for a
        history is the same, up to rounding, whoever is read beside it.
        """
        shape, device = self._shape, vectors.device
        tails = [history[-shape.max_history :] for history in histories]
        items = vectors[torch.from_numpy(np.concatenate(tails)).to(device)] * math.sqrt(shape.width)
        lengths = [len(tail) + 1 for tail in tails]
        x = torch.cat([part for tail in items.split([n - 1 for n in lengths]) for part in (self._bos, tail)])
        place = torch.cat([torch.arange(n) for n in lengths]).to(device)
        cos, sin = self._cos[place], self._sin[place]
        last = np.cumsum(lengths)[:, None] - 1
        back = np.arange(shape.memory)
        there = back < np.array(lengths)[:, None]
        for attention, feed_forward in self._layers[:-1]:
            x = feed_forward(attention.add(x, attention(x, lengths, cos, sin)))
        attention, feed_forward = self._layers[-1]
        needed = torch.from_numpy((last - back)[there]).to(device)  # of the last layer the newest alone are asked for
        mixed = attention(x, lengths, cos, sin)
        newest = self._norm(feed_forward(attention.add(x[needed], mixed[needed])))
        states = newest.new_zeros(there.size, shape.width)
        states.index_copy_(0, torch.from_numpy(np.flatnonzero(there)).to(device), newest)
        return states.view(*there.shape, shape.width), torch.from_numpy(there).to(device)


class ContextMaker:
    """`Decoder.context`: the keys and values of all layers in one product."""

    def __init__(self, decoder: Decoder) -> None:
        self._heads = decoder.shape.heads
        self._weight = torch.cat([layer.key_value.weight.detach() for layer in _layers(decoder)]).T.contiguous()

    def __call__(self, states: Tensor, real: Tensor) -> Context:
        """states (B, M, W), newest first; real (B, M): which of them there are."""
        batch, memory, width = states.shape
        pairs = (states.reshape(-1, width) @ self._weight).view(batch, memory, -1, 2, self._heads, width // self._heads)
        keys, values = pairs.permute(3, 2, 0, 4, 1, 5).unbind()
        return Context(states[:, 0], list(keys.unbind()), list(values.unbind()), real)


@dataclass(frozen=True, slots=True)
class _DecoderLayer:
    among: _Norm
    qkv: Tensor
    among_out: Tensor
    across: _Norm
    query: Tensor
    across_out: Tensor
    feed_forward: _FeedForward


class FirstPass:
    """The decoder when no digit is shown, which every request needs: what it reads is the same for all but for the
    newest state."""

    def __init__(self, network: SemanticNetwork) -> None:
        shape, decoder = network.shape, network.decoder
        self._heads, self._digits = shape.heads, shape.digits
        layers = _layers(decoder)
        self._recency = torch.stack([layer.recency.detach() for layer in layers])[:, None]  # (layers, 1, H, 1, M)
        self._start, self._anchor = _columns(decoder.start), _columns(network.anchor)
        self._hidden = (decoder.hidden + decoder.slot).detach()
        self._layers = [self._packed(layer) for layer in layers]
        self._norm, self._out = _Norm(decoder.norm), _columns(decoder.out)
        self._table = network.table.detach().transpose(1, 2).contiguous()  # (n, digit_dim, C)
        self._table_bias = network.table_bias.detach()[:, None].clone()

    def _packed(self, layer: DecoderLayer) -> _DecoderLayer:
        scale = math.sqrt(layer.query.out_features // self._heads)
        q, k, v = layer.qkv.weight.detach().chunk(3)
        return _DecoderLayer(
            _Norm(layer.among.norm),
            torch.cat([q / scale, k, v]).T.contiguous(),
            _columns(layer.among_out),
            _Norm(layer.across.norm),
            _columns(layer.query) / scale,
            _columns(layer.across_out),
            _FeedForward(layer.feed_forward),
        )

    def __call__(self, context: Context) -> tuple[Tensor, Tensor]:
        """What `decoding.masked_pass` gives: log-probabilities (B, n, C) and preference vectors (B, W)."""
        newest, n = context.newest, self._digits
        batch, width = newest.shape
        bias = self._recency.masked_fill(~context.real[:, None, None], -torch.inf)
        x = ((newest @ self._start)[:, None] + self._hidden).view(-1, width)  # (B * n, W)
        for layer, keys, values, of_layer in zip(self._layers, context.keys, context.values, bias, strict=True):
            parts = (layer.among(x) @ layer.qkv).view(batch, n, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            mixed = (parts[0] @ parts[1].transpose(2, 3)).softmax(dim=3) @ parts[2]
            x = torch.addmm(x, mixed.transpose(1, 2).reshape(x.shape), layer.among_out)
            q = (layer.across(x) @ layer.query).view(batch, n, self._heads, -1).transpose(1, 2)
            mixed = (q @ keys.transpose(2, 3)).add_(of_layer).softmax(dim=3) @ values
            x = layer.feed_forward(torch.addmm(x, mixed.transpose(1, 2).reshape(x.shape), layer.across_out))
        outputs = (self._norm(x) @ self._out).view(batch, n, -1).transpose(0, 1)
        logits = torch.baddbmm(self._table_bias, outputs, self._table)  # (n, B, C)
        return logits.log_softmax(dim=2).transpose(0, 1).contiguous(), newest @ self._anchor
