"""A language model of a few thousand weights with a tokenizer of its own, as a folder that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>")


def language_model(folder: Path, words: Iterable[str], seed: int = 0) -> Path:
    """Llama-shaped, random weights, 16 wide; every given word is a token."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *sorted(set(words))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                bos_token_id=1,
                eos_token_id=2,
                tie_word_embeddings=True,
            )
        )
    model.save_pretrained(folder)
    return folder
