"""A pretrained language model made ready to be tuned: weights, words, and which of them may change.

    trunk = language_trunk(recipe.language, recipe.trunk, prepared.catalogue, seed=0)
    fit_trunk(prepared, tokens, recipe.trunk, trunk=trunk, ...)

lora: low-rank matrices beside the linear layers (peft), the model itself stays as it is. full: everything changes.
frozen: nothing but what the trunk adds. Fetching a model by its id is the one thing here that may use the network.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from model.bundle import BundleError
from model.catalogue import Catalogue
from model.continuous.backbone import PREFIX, Trunk
from model.continuous.language import LanguageBackbone, LanguageShape, Words, load_base
from model.files import sha256_of
from training.recipes.continuous import LanguagePart, TrunkPart
from training.stages.loop import own_randomness


def language_trunk(part: LanguagePart, trunk: TrunkPart, catalogue: Catalogue, *, seed: int) -> Trunk:
    """Raises ValueError where the model or its tokenizer cannot be loaded, or is too short for such histories."""
    try:
        lm = load_base(part.base, part.revision or None, local=False)
    except BundleError as error:
        raise ValueError(str(error)) from error
    config: Any = lm.config
    words = _words(part, catalogue, getattr(config, "_commit_hash", None))
    longest = len(words.prompt) + PREFIX + trunk.max_history * (1 + words.titles.shape[1])
    room = getattr(config, "max_position_embeddings", None)
    if room is not None and longest > room:
        raise ValueError(
            f"{trunk.max_history} items with {words.titles.shape[1]} words each take {longest} positions, and the "
            f"language model {part.base!r} has {room}: lower trunk.max_history or language.title_tokens"
        )
    revision = getattr(config, "_commit_hash", None) or part.revision or None
    base = str(Path(part.base).resolve()) if Path(part.base).is_dir() else part.base
    shape = LanguageShape(trunk.width, trunk.max_history, base, revision, sha256_of(lm))
    with own_randomness(seed):
        for weight in lm.parameters():
            weight.requires_grad_(part.tuning == "full")
        adapter = _with_lora(lm, part) if part.tuning == "lora" else None
        backbone = LanguageBackbone(shape, lm, words, trunk.dropout)
        backbone.adapter = adapter
        return Trunk(shape, trunk.dropout, backbone)


def _with_lora(lm: nn.Module, part: LanguagePart) -> dict[str, Any]:
    """Puts LoRA layers into lm, in place, and returns peft's description of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        from peft import LoraConfig, inject_adapter_in_model

        targets = part.targets[0] if len(part.targets) == 1 else list(part.targets)
        config = LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=targets, lora_dropout=0.0)
        config.inference_mode = True
        try:
            inject_adapter_in_model(config, lm)
        except ValueError as error:
            raise ValueError(f"language.targets: {' '.join(str(error).split())}") from error
    for name, weight in lm.named_parameters():
        weight.requires_grad_(".lora_" in name)
    paths = [name.partition(".lora_A")[0] for name, _ in lm.named_parameters() if ".lora_A" in name]
    found = sorted({path.rpartition(".")[2] for path in paths})
    described: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in described.items()}
    return {
        **{name: getattr(value, "value", value) for name, value in plain.items() if name != "runtime_config"},
        "target_modules": found,
        "base_model_name_or_path": part.base,
        "revision": getattr(lm.config, "_commit_hash", None) or part.revision or None,
    }


def _words(part: LanguagePart, catalogue: Catalogue, revision: str | None) -> Words:
    """Prompt and titles in the model's own tokens; a title is cut after `title_tokens` of them."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            part.base, revision=revision or part.revision or None, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the tokenizer of {part.base!r} cannot be loaded: {reason}") from error
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompt = start + tokenizer(part.prompt, add_special_tokens=False)["input_ids"]
    titles: list[list[int]] = [[] for _ in catalogue]
    if part.title_tokens:
        texts = [item.title for item in catalogue]
        titles = [ids[: part.title_tokens] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in titles], dtype=torch.long)
    table = torch.zeros(len(titles), int(lengths.max()) if len(titles) else 0, dtype=torch.long)
    for row, ids in enumerate(titles):
        table[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return Words(torch.tensor(prompt, dtype=torch.long), table, lengths)
