"""The trunk: a Hugging Face causal LM that reads one position per item and gives the condition.

    [BOS] [profile] [item 1] [item 2] ... [item n]     through inputs_embeds
      |       |         |
      -   predicts 1  predicts 2 ...                   every position is supervised in one pass

It knows vectors, not items, users or losses. The history that is read is a bounded tail; the profile is made only
from what lies before that tail (long-term memory), never from items that are themselves targets. Layout, padding
and positions are the same in training and serving: sequences are padded on the right, where a causal model cannot
look, and rotary positions are relative, so the most recent item has a stable place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.files import read_json, read_tensors, write_json

if TYPE_CHECKING:
    from model.continuous.language import LanguageBackbone, LanguageShape

PREFIX = 2  # BOS and profile
_ATTENTION = "sdpa-float32-on-cpu"


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """`sdpa` of transformers, on a CPU always in float32: in bfloat16 forward and backward take up to three times as
    long there (`python bench/training/attention.py`). Query, key and value (B, heads, L, head width)."""
    if query.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            floats = (query.float(), key.float(), value.float())
            out, _ = sdpa_attention_forward(module, *floats, attention_mask, **settings)
    else:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    found: Tensor = out.to(query.dtype)
    return found, None


AttentionInterface.register(_ATTENTION, attention)


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Sizes that the weights depend on. max_history: longest tail that is read, in items.

    kernel: positions that a short convolution reads before each layer; 1 is none, as in bundles from before it.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    max_history: int
    kernel: int = 1


class Backbone(nn.Module):
    """A Llama-shaped causal LM of our own (RMSNorm, rotary positions, SwiGLU), without a vocabulary.

    Before each layer every position takes something of the few before it, each feature by weights of its own: two
    layers need not spend a head on what came last. Depthwise convolutions in transformers: Primer (arXiv 2109.08668).
    dropout acts on the input, on every residual branch and on the state, in training only.
    """

    def __init__(self, shape: BackboneShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.drop = nn.Dropout(dropout)
        self.bos = nn.Parameter(torch.randn(shape.width))
        self.no_profile = nn.Parameter(torch.randn(shape.width))
        self.profile = nn.Linear(shape.width, shape.width)
        self.lm = LlamaModel(
            LlamaConfig(
                vocab_size=1,
                bos_token_id=None,
                eos_token_id=None,
                hidden_size=shape.width,
                intermediate_size=shape.feed_forward,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=shape.max_history + PREFIX,
                use_cache=False,
                attn_implementation=_ATTENTION,
            )
        )
        self.lm.embed_tokens = nn.Identity()  # items come as vectors; an unused table would only travel along
        short = shape.layers if shape.kernel > 1 else 0
        # Zero: training starts from the plain transformer.
        self.short = nn.ParameterList(nn.Parameter(torch.zeros(shape.kernel, shape.width)) for _ in range(short))
        # The hooks hold what they need and not the backbone, which would then hold itself and outlive its last user.
        for number in range(short):
            self.lm.layers[number].register_forward_pre_hook(functools.partial(_convolve, self.short, number))
        # The Llama of transformers has no dropout on its residual branches, and small data needs it.
        for layer in self.lm.layers:
            layer.self_attn.register_forward_hook(functools.partial(_drop_branch, self.drop))
            layer.mlp.register_forward_hook(functools.partial(_drop_branch, self.drop))

    @property
    def dropout(self) -> float:
        """The rate in training."""
        return self.drop.p

    @dropout.setter
    def dropout(self, rate: float) -> None:
        self.drop.p = rate

    def forward(self, items: Tensor, profile: Tensor, has_profile: Tensor, rows: Tensor | None = None) -> Tensor:
        """Vectors (B, L, W), right-padded; profile (B, W); has_profile (B,) bool -> states (B, L + 1, W).

        State j has read items 0..j-1 and is the condition for item j. rows are for a backbone that reads words too
        (model/continuous/language.py).
        """
        scale = math.sqrt(self.shape.width)  # vectors of about unit length -> elements of about unit size
        prefix = torch.where(has_profile[:, None], self.profile(profile * scale), self.no_profile)
        x = torch.cat([self.bos.expand(len(items), 1, -1), prefix[:, None], items * scale], dim=1)
        x = self.drop(x)
        states: Tensor = self.lm(inputs_embeds=x).last_hidden_state
        return states[:, 1:]


def _convolve(short: nn.ParameterList, number: int, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (convolved(inputs[0], short[number]), *inputs[1:])


def _drop_branch(drop: nn.Dropout, module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (drop(output[0]), *output[1:])
    return drop(output)


class Trunk(nn.Module):
    """Backbone and anchor together: the condition h and the trunk's own answer, the vector g(h)."""

    def __init__(
        self, shape: BackboneShape | LanguageShape, dropout: float = 0.0, backbone: LanguageBackbone | None = None
    ) -> None:
        super().__init__()
        self.backbone: Backbone | LanguageBackbone
        if backbone is not None:
            self.backbone = backbone
        else:
            assert isinstance(shape, BackboneShape)
            self.backbone = Backbone(shape, dropout)
        self.anchor = nn.Linear(shape.width, shape.width, bias=False)
        nn.init.eye_(self.anchor.weight)

    def g(self, condition: Tensor) -> Tensor:
        """(..., W) conditions -> (..., W) preference vectors, to be multiplied with the item vectors."""
        vector: Tensor = self.anchor(F.dropout(condition, self.backbone.dropout, self.training))
        return vector

    def save(self, folder: Path, *, include_base: bool = True) -> None:
        """Into an existing folder, as safetensors and JSON. include_base: of a pretrained model, its weights too."""
        if isinstance(self.backbone, Backbone):
            save_file(self.state_dict(), folder / "weights.safetensors")
            write_json(folder / "shape.json", asdict(self.backbone.shape))
        else:
            self.backbone.save(folder, include_base=include_base)
            save_file(self.anchor.state_dict(), folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Trunk:
        """Reads what `save` wrote."""
        weights = read_tensors(folder / "weights.safetensors")
        if (folder / "language.json").exists():
            from model.continuous.language import LanguageBackbone

            backbone = LanguageBackbone.load(folder)
            trunk = cls(backbone.shape, backbone=backbone)
            trunk.anchor.load_state_dict(weights)
            return trunk
        trunk = cls(BackboneShape(**read_json(folder / "shape.json")))
        trunk.load_state_dict(weights)
        return trunk


def convolved(x: Tensor, weights: Tensor) -> Tensor:
    """x (B, L, W), weights (kernel, W) -> x_t + sum over j < kernel of weights_j * x_(t-j), features apart."""
    out = x + x * weights[0]
    for back in range(1, min(len(weights), x.shape[1])):
        out = out + F.pad(x[:, :-back] * weights[back], (0, 0, back, 0))
    return out


def pad(histories: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (n_b,) of each history -> (B, L) padded on the right with row 0, and lengths (B,)."""
    lengths = torch.tensor([len(h) for h in histories])
    rows = torch.zeros(len(histories), int(lengths.max()) if len(histories) else 0, dtype=torch.long)
    for n, history in enumerate(histories):
        rows[n, : len(history)] = history
    return rows, lengths


def alike(lengths: Sequence[int], positions: float) -> Iterator[list[int]]:
    """Numbers of histories to be read together, shortest first: at most so many positions each time, padding and prefix
    included, or one history that has more."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * (lengths[number] + PREFIX) > positions:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
