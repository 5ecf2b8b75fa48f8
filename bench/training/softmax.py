"""What the fused catalogue softmax saves, beside the plain form of the same loss, in one run.

    .venv/bin/python bench/training/softmax.py --positions 6400 --items 3706 --width 128

Prints the median milliseconds of forward and backward of each form and the ratio to the plain one. Where the machine
has no units for bfloat16 the plain form shows what emulating costs; the fused one is then not there (training takes
float32, see training/stages/precision.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from training.stages.precision import has_bf16
from training.stages.softmax import catalogue_cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=6400)
    parser.add_argument("--items", type=int, default=3706)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(given.positions, given.width, generator=generator).mul_(0.1).requires_grad_()
    items = torch.randn(given.items, given.width, generator=generator).requires_grad_()
    bias = torch.zeros(given.items, requires_grad=True)
    targets = torch.randint(given.items, (given.positions,), generator=generator)

    def plain_bf16() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = vectors @ items.T
        return F.cross_entropy(logits.float() + bias, targets)

    forms: dict[str, Callable[[], torch.Tensor]] = {
        "plain float32": lambda: F.cross_entropy(vectors @ items.T + bias, targets),
        "plain bfloat16": plain_bf16,
        "fused float32": lambda: catalogue_cross_entropy(vectors, items, bias, targets),
    }
    if has_bf16(vectors.device):
        forms["fused bfloat16"] = lambda: catalogue_cross_entropy(vectors, items, bias, targets, bf16=True)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(given.repeats):  # interleaved, so that a noisy neighbour disturbs all alike
        for name, form in forms.items():
            started = time.perf_counter()
            form().backward()
            times[name].append(1e3 * (time.perf_counter() - started))
    plain = statistics.median(times["plain float32"])
    out = [f"{given.positions} positions, {given.items} items, width {given.width}, {torch.get_num_threads()} threads"]
    for name, values in times.items():
        median = statistics.median(values)
        out.append(f"{name:15s} {median:8.1f} ms   {plain / median:4.1f} x")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
