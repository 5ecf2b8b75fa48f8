"""A pretrained language model as the backbone: words first, then one position for each item.

    [prompt words] [profile] [title 1] [item 1] [title 2] [item 2] ... [item n]     through inputs_embeds
                    |                   |                   |
                    predicts 1          predicts 2          predicts 3 ...

Any Hugging Face causal LM serves: its own word embeddings read prompt and titles, and an item's position is its vector
(the K tokens, projected together) brought into the model's embedding width. The layout is the same in training and
serving. Titles travel in the bundle as token numbers, so that serving needs no tokenizer and no text.

What was tuned is a LoRA adapter in peft's own format (adapter_config.json, adapter_model.safetensors), which is added
to the weights here without peft, or whole weights, or nothing. The base model lies in the bundle, or is named by id,
revision and sha256 and must already be on the machine: loading never asks the network, and runs no code of a model's
repository. This module knows no users, no files but a bundle's, and nothing of how the adapter was trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from model.bundle import BundleError
from model.files import own_memory, read_json, read_tensors, sha256_of, write_json

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class LanguageShape:
    """width: of item vectors and conditions. base, revision, sha256: which model, as it was before tuning."""

    width: int
    max_history: int
    base: str
    revision: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Words:
    """prompt (P,) and titles (N, T) as token numbers, lengths (N,) of the titles; an item without words has 0."""

    prompt: Tensor
    titles: Tensor
    lengths: Tensor


class LanguageBackbone(nn.Module):
    """The interface of `Backbone`, over a pretrained model without its vocabulary head.

    dropout acts on what the trunk adds: item positions and the state. adapter: peft's configuration of the LoRA
    layers that are inside lm, while it is being trained.
    """

    size: Tensor
    prompt: Tensor
    titles: Tensor
    lengths: Tensor

    def __init__(self, shape: LanguageShape, lm: nn.Module, words: Words, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.lm, self.dropout = shape, lm, dropout
        self.adapter: Mapping[str, Any] | None = None
        hidden: int = lm.config.hidden_size  # type: ignore[union-attr, assignment]
        # Of an element of a word's embedding. Kept with the weights: tuning may change the words themselves.
        self.register_buffer("size", self._table().weight.detach().float().std())
        self.items = nn.Linear(shape.width, hidden, bias=False)
        self.profile = nn.Linear(shape.width, hidden)
        self.no_profile = nn.Parameter(torch.randn(hidden))
        self.state = nn.Linear(hidden, shape.width)
        # An item's vector has unit length and its position about the size of a word.
        nn.init.orthogonal_(self.items.weight, gain=math.sqrt(max(1.0, hidden / shape.width)))
        nn.init.normal_(self.state.weight, std=1 / math.sqrt(hidden))
        self.register_buffer("prompt", words.prompt, persistent=False)
        self.register_buffer("titles", words.titles, persistent=False)
        self.register_buffer("lengths", words.lengths, persistent=False)

    def _table(self) -> nn.Embedding:
        table: nn.Embedding = self.lm.get_input_embeddings()  # type: ignore[operator]
        return table

    def forward(self, items: Tensor, profile: Tensor, has_profile: Tensor, rows: Tensor) -> Tensor:
        """Vectors (B, L, W) and rows (B, L), right-padded; profile (B, W), has_profile (B,) -> states (B, L + 1, W).

        State j has read items 0..j-1 with their titles, and is the condition for item j. Rows beyond the titles (items
        that came after training) have no words.
        """
        batch, scale = len(items), math.sqrt(self.shape.width)
        known = rows < len(self.lengths)
        rows = torch.where(known, rows, 0)
        lengths = self.lengths[rows] * known  # (B, L)
        first = len(self.prompt)  # where the profile is
        places = first + (lengths + 1).cumsum(dim=1)  # (B, L) of the items
        total = int(places[:, -1].max()) + 1 if places.numel() else first + 1
        words = rows.new_zeros(batch, total)
        words[:, :first] = self.prompt
        if self.titles.shape[1]:
            letter = torch.arange(self.titles.shape[1], device=rows.device)
            user, place, word = torch.nonzero(letter < lengths[..., None], as_tuple=True)
            words[user, (places - lengths)[user, place] + word] = self.titles[rows[user, place], word]
        x = self._table()(words)  # (B, S, H)
        prefix = torch.where(has_profile[:, None], self.profile(profile * scale), self.no_profile)
        vectors = torch.cat([prefix[:, None], self.items(items * scale)], dim=1) * self.size
        vectors = F.dropout(vectors, self.dropout, self.training).to(x.dtype)
        places = torch.cat([places.new_full((batch, 1), first), places], dim=1)  # (B, L + 1)
        x = x.scatter(1, places[..., None].expand(-1, -1, x.shape[2]), vectors)
        states = self.lm(inputs_embeds=x, use_cache=False).last_hidden_state
        states = states.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        conditions: Tensor = self.state(states)
        return conditions

    def last_states(self, items: Tensor, lengths: Tensor, profile: Tensor, has_profile: Tensor, rows: Tensor) -> Tensor:
        """What serving reads (`Reader.last_states`): (B, W), the states after the last of `lengths` (B,) items."""
        return self(items, profile, has_profile, rows)[torch.arange(len(items), device=items.device), lengths]  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------------------
    # Files of a bundle

    def save(self, folder: Path, *, include_base: bool) -> None:
        """Into an existing folder: what the trunk adds, words, the adapter, and the model itself if it is included."""
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("lm.")}
        words = {"prompt": self.prompt, "titles": self.titles, "lengths": self.lengths}
        save_file({name: tensor.contiguous() for name, tensor in (own | words).items()}, folder / "words.safetensors")
        write_json(folder / "language.json", asdict(self.shape))
        plain, lora = split_adapter(self.lm)
        if self.adapter is not None:
            save_file(lora, folder / ADAPTER[1], metadata={"format": "pt"})
            write_json(folder / ADAPTER[0], dict(sorted(self.adapter.items())))
        if include_base:
            (folder / "base").mkdir()
            self.lm.config.save_pretrained(folder / "base")  # type: ignore[operator, union-attr]
            save_file(plain, folder / "base" / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> LanguageBackbone:
        """Reads what `save` wrote. Raises BundleError where the base model is not at hand, or is another one."""
        shape = LanguageShape(**read_json(folder / "language.json"))
        included = (folder / "base").is_dir()
        place, revision = (str(folder / "base"), None) if included else (shape.base, shape.revision)
        lm = load_base(place, revision, local=True)
        if not included and sha256_of(lm) != shape.sha256:
            raise BundleError(f"the language model {shape.base!r} on this machine is not the one that was tuned")
        if (folder / ADAPTER[0]).exists():
            add_adapter(lm, folder)
        own = read_tensors(folder / "words.safetensors")
        backbone = cls(shape, lm, Words(*(own.pop(name) for name in ("prompt", "titles", "lengths"))))
        _, unexpected = backbone.load_state_dict(own, strict=False)
        if unexpected:
            raise BundleError(f"the adapter in {folder} holds weights that this version does not know: {unexpected[0]}")
        return backbone


def load_base(name_or_folder: str, revision: str | None = None, *, local: bool) -> nn.Module:
    """A causal LM without its vocabulary head, in float32. local: only what is on this machine, never the network.

    Raises BundleError with the reason when it cannot be loaded.
    """
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(
            name_or_folder, revision=revision or None, local_files_only=local, trust_remote_code=False
        )
        config.use_cache = False
        lm: nn.Module = AutoModel.from_pretrained(
            name_or_folder,
            config=config,
            revision=revision or None,
            local_files_only=local,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = " (serving never downloads: fetch it first, or train with language.include_base=true)" if local else ""
        raise BundleError(f"the language model {name_or_folder!r} cannot be loaded: {reason}{hint}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    own_memory(lm)
    return lm


def split_adapter(lm: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's own weights under their own names, and the LoRA matrices under the names that peft gives them."""
    plain: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    for name, tensor in lm.state_dict().items():
        if ".lora_" in name:
            lora[f"base_model.model.{name.replace('.default.', '.')}"] = tensor.detach().cpu().contiguous()
        else:
            plain[name.replace(".base_layer.", ".")] = tensor.detach().cpu().contiguous().clone()
    return plain, lora


@torch.no_grad()
def add_adapter(lm: nn.Module, folder: Path) -> None:
    """Adds a LoRA adapter in peft's format to the weights: W + alpha / r * B A (Hu et al. 2021, section 4.1).

    Raises BundleError for a kind of adapter that this sum does not describe.
    """
    config = read_json(folder / ADAPTER[0])
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    others = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "lora_bias")
    if not plain or any(config.get(name) for name in others):
        raise BundleError(f"the adapter in {folder} is no plain LoRA adapter")
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    matrices = read_tensors(folder / ADAPTER[1])
    for name, a in matrices.items():
        path, found, _ = name.removeprefix("base_model.model.").partition(".lora_A.")
        if not found:
            continue
        module = lm.get_submodule(path)
        change = scale * matrices[name.replace(".lora_A.", ".lora_B.")].float() @ a.float()
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight += (change if isinstance(module, nn.Linear) else change.T).to(weight.dtype)  # GPT-2's Conv1D: (in, out)
