"""What attention in float32 saves under bfloat16 training on a CPU, beside bfloat16 throughout, in one run.

    .venv/bin/python bench/training/attention.py

Prints the median milliseconds of forward and backward of one layer's attention, for batches as training makes them:
many short histories (Amazon) to a few long ones (MovieLens-1M).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.continuous.backbone import attention

BATCHES = ((85, 13), (53, 20), (20, 52), (31, 103), (31, 203))  # histories, positions
HEADS, HEAD_WIDTH, REPEATS = 2, 64, 9


def main() -> None:
    torch.set_num_threads(1)
    out = [f"{'histories':>9} {'positions':>9} {'bfloat16, ms':>12} {'float32, ms':>11} {'ratio':>6}"]
    for histories, positions in BATCHES:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(histories, HEADS, positions, HEAD_WIDTH, generator=generator) for _ in range(3)]
        query, key, value = (one.bfloat16().requires_grad_() for one in drawn)
        forms: tuple[Callable[[], Tensor], ...] = (
            lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True),  # noqa: B023 - called at once
            lambda: attention(torch.nn.Module(), query, key, value, None)[0],  # noqa: B023
        )
        times: tuple[list[float], ...] = ([], [])
        for _ in range(REPEATS + 1):  # the first warms up; interleaved, so that a noisy neighbour disturbs both alike
            for form, own in zip(forms, times, strict=True):
                started = time.perf_counter()
                form().float().sum().backward()
                own.append(1e3 * (time.perf_counter() - started))
        slow, fast = (statistics.median(own[1:]) for own in times)
        out.append(f"{histories:>9} {positions:>9} {slow:>12.1f} {fast:>11.1f} {slow / fast:>6.1f}")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
