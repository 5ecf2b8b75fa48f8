"""The trunk at serving: the state after the last item, and nothing else.

The plain twin is `Backbone.forward`, which gives every position's state because training needs them. Serving needs
one: the last layer is computed at that position only, projections that read the same input are one product, and the
rotary tables are made once. Weights are copied when a recommender is built; a backbone that trains on afterwards needs
a new reader.

    reader = Reader(trunk.backbone)
    states = reader.last_states(items, lengths, profile, has_profile)      # (B, W)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.continuous.backbone import PREFIX, Backbone, convolved


@dataclass(frozen=True, slots=True)
class _Layer:
    """Packed weights of one layer: qkv (3W, W), out (W, W), gate_up (2F, W), down (W, F), both norms (W,).

    short: (kernel, W) of the convolution before it, where there is one.
    """

    short: Tensor | None

    norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Reader:
    """See the module."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        lm = backbone.lm
        self._heads = backbone.shape.heads
        self._eps = lm.norm.variance_epsilon
        self._norm = lm.norm.weight.detach().clone()
        self._layers = []
        for layer, short in itertools.zip_longest(lm.layers, backbone.short):
            attention, mlp = layer.self_attn, layer.mlp
            qkv = [part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            gate_up = [part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj)]
            self._layers.append(
                _Layer(
                    short=None if short is None else short.detach().clone(),
                    norm=layer.input_layernorm.weight.detach().clone(),
                    qkv=torch.cat(qkv),
                    out=attention.o_proj.weight.detach().clone(),
                    mlp_norm=layer.post_attention_layernorm.weight.detach().clone(),
                    gate_up=torch.cat(gate_up),
                    down=mlp.down_proj.weight.detach().clone(),
                )
            )
        positions = torch.arange(backbone.shape.max_history + PREFIX, device=self._norm.device)[None]
        with torch.no_grad():
            cos, sin = lm.rotary_emb(self._norm, positions)
        self._cos, self._sin = cos[0].clone(), sin[0].clone()  # (positions, head width)

    def last_states(
        self, items: Tensor, lengths: Tensor, profile: Tensor, has_profile: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Vectors (B, L, W), right-padded; lengths (B,); profile (B, W); has_profile (B,) -> (B, W).

        Row b is `Backbone.forward(items, profile, has_profile)[b, lengths[b]]`; it reads no rows.
        """
        backbone = self._backbone
        scale = math.sqrt(backbone.shape.width)
        prefix = torch.where(has_profile[:, None], backbone.profile(profile * scale), backbone.no_profile)
        x = torch.cat([backbone.bos.expand(len(items), 1, -1), prefix[:, None], items * scale], dim=1)
        last = lengths + (PREFIX - 1)  # (B,) the position of the last item, or of the profile where there is none
        for layer in self._layers[:-1]:
            x = _convolved(layer, x)
            query, key, value = self._projected(layer, x)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = self._rest(layer, x, mixed)
        layer, rows = self._layers[-1], torch.arange(len(x), device=x.device)
        x = _convolved(layer, x)
        query, key, value = self._projected(layer, x)
        query = query[rows, :, last][:, :, None]  # (B, heads, 1, head width)
        visible = torch.arange(x.shape[1], device=x.device) <= last[:, None]  # (B, L): nothing behind the last item
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None, None])
        x = self._rest(layer, x[rows, last][:, None], mixed)
        return F.rms_norm(x[:, 0], x.shape[2:], self._norm, self._eps)

    def _projected(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, W), convolved -> query, key, value (B, heads, L, head width), the first two turned by positions."""
        batch, length, width = x.shape
        qkv = F.linear(F.rms_norm(x, (width,), layer.norm, self._eps), layer.qkv)
        query_key, value = qkv.view(batch, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4).split([2, 1])
        first, second = query_key.chunk(2, dim=-1)
        turned = query_key * self._cos[:length] + torch.cat([-second, first], dim=-1) * self._sin[:length]
        return turned[0], turned[1], value[0]

    def _rest(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """x (B, L, W) and what attention mixed (B, heads, L, head width) -> (B, L, W), through the MLP."""
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), layer.out)
        gate, up = F.linear(F.rms_norm(x, x.shape[2:], layer.mlp_norm, self._eps), layer.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, layer.down)


def _convolved(layer: _Layer, x: Tensor) -> Tensor:
    return x if layer.short is None else convolved(x, layer.short)
