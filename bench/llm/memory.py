"""One training step of a random Qwen3-shaped model of about 100 million parameters: seconds and memory.

    python -m bench.llm.memory lora          # or full, frozen: one process each, since peak memory is a process's

Twenty users with twenty items each, titles of eight words before them, bf16 products, one thread unless
OMP_NUM_THREADS says otherwise. encode_ms: reading one such history in float32, as serving does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from model.catalogue import Catalogue, Item
from model.continuous.backbone import Trunk
from model.continuous.space import ItemSpace
from training.language import language_trunk
from training.recipe import load_recipe
from training.stages.loop import peak_rss_mib
from training.stages.trunk import _loss, _optimiser
from training.stages.windows import Windows

USERS, LENGTH, ITEMS, WORDS = 20, 21, 1000, 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuning", choices=["lora", "full", "frozen"])
    given = parser.parse_args()
    draw = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        base = qwen3(Path(folder))
        titles = torch.randint(WORDS, (ITEMS, 8), generator=draw).tolist()
        catalogue = Catalogue(Item(f"i{n}", " ".join(f"w{word}" for word in words)) for n, words in enumerate(titles))
        overrides = [f"language.base={base}", f"language.tuning={given.tuning}", "trunk.max_history=20"]
        recipe = load_recipe("contrec", "llm", overrides)
        before = peak_rss_mib()
        trunk = language_trunk(recipe.language, recipe.trunk, catalogue, seed=0).train()
        loaded = peak_rss_mib()
        space = ItemSpace(torch.randn(ITEMS, 2, 64, generator=draw), recipe.trunk.width)
        rows = torch.randint(ITEMS, (USERS * LENGTH,), generator=draw).numpy().astype("int32")
        windows = Windows(torch.arange(0, USERS * LENGTH + 1, LENGTH).numpy(), rows, 20, 0)
        (batch,) = windows.epoch(USERS * LENGTH, 0, 0)
        optimiser = _optimiser(trunk, space, recipe.trunk, given=True)
        started = time.perf_counter()
        loss, positions = _loss(trunk, space, batch, recipe.trunk)
        loss.backward()
        optimiser.step()
        seconds = time.perf_counter() - started
        peak = peak_rss_mib()
        encode = _encode(trunk.eval(), space().detach(), batch.rows[:1, :20])
    lm = sum(weight.numel() for weight in trunk.backbone.lm.parameters())
    tuned = sum(weight.numel() for weight in trunk.parameters() if weight.requires_grad)
    found = {
        "tuning": given.tuning,
        "parameters": lm,
        "trained": tuned,
        "positions": positions,
        "loss": round(float(loss.detach()), 3),
        "step_seconds": round(seconds, 1),
        "mib_before": before,
        "mib_loaded": loaded,
        "mib_peak": peak,
        "encode_ms": round(1000 * encode),
    }
    print(json.dumps(found))  # noqa: T201


@torch.inference_mode()
def _encode(trunk: Trunk, vectors: Tensor, rows: Tensor) -> float:
    """Seconds to read one history, as serving does for a user whose tokens are not cached: the best of three."""
    spent = []
    for _ in range(3):
        started = time.perf_counter()
        trunk.backbone(vectors[rows], vectors[:1], torch.ones(1, dtype=torch.bool), rows)
        spent.append(time.perf_counter() - started)
    return min(spent)


def qwen3(folder: Path) -> Path:
    """Random weights in the shape of Qwen3, and a tokenizer that knows w0, w1, ..."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n + 3 for n in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=640,
        intermediate_size=1_920,
        num_hidden_layers=16,
        num_attention_heads=10,
        num_key_value_heads=5,
        head_dim=64,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
