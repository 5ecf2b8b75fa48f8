"""A sentence encoder as transformers writes one to disk: a BERT of random weights over a dozen whole words."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "orchard", "thieves", "harbour", "lights", "part", "one"]
WIDTH = 16


def write_encoder(path: Path) -> Path:
    """Nothing of it is asked of a model hub; loading it by the folder asks for nothing either."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(path)
    BertTokenizerFast(vocab={word: n for n, word in enumerate(WORDS)}).save_pretrained(path)
    return path
