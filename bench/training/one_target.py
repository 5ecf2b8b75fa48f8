"""What supervising every position saves, beside one target a prompt, with the same trunk, in one run.

    .venv/bin/python bench/training/one_target.py prepared/ml-1m
    .venv/bin/python bench/training/one_target.py prepared/ml-1m --set trunk.max_history=20    # as published

Takes batches of the data's own windows. In both forms the trunk reads each window once, forward and backward; one
form has every position of it as a target of the catalogue softmax, the other the last alone, as published code has.
Item vectors are given and the optimiser is left out, which is to the advantage of the second form: it would need
either once for every few targets. Prints the median milliseconds a supervised target.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from training.data.prepared import Prepared
from training.recipe import load_recipe
from training.recipes.continuous import ContinuousRecipe
from training.stages.precision import products
from training.stages.softmax import catalogue_cross_entropy
from training.stages.trunk import new_trunk, read_states
from training.stages.windows import Batch, Windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE")
    given = parser.parse_args()
    recipe = load_recipe("contrec", "small", given.overrides)
    assert isinstance(recipe, ContinuousRecipe)
    part = recipe.trunk
    prepared = Prepared.read(given.data)
    torch.manual_seed(0)
    trunk = new_trunk(part)
    vectors = (0.02 * torch.randn(len(prepared.catalogue), part.width)).requires_grad_()
    bias = torch.zeros(len(prepared.catalogue), requires_grad=True)
    windows = Windows(*prepared.train_histories(), part.max_history, part.max_profile)

    def step(batch: Batch, *, every: bool) -> float:
        """Milliseconds a target."""
        started = time.perf_counter()
        with products(vectors.device, part.bf16):
            _, preference, targets = read_states(trunk, vectors, batch)
            if not every:
                last = batch.lengths.cumsum(0) - 1
                preference, targets = preference[last], targets[last]
        catalogue_cross_entropy(preference.float(), vectors, bias, targets, bf16=part.bf16).backward()
        return 1e3 * (time.perf_counter() - started) / len(targets)

    batches = windows.batches(part.tokens_per_step, np.random.default_rng(0))[: given.batches]
    found = []
    for numbers in batches:  # in turns, so that a noisy neighbour disturbs both alike
        batch = windows.batch(numbers)
        found.append((step(batch, every=True), step(batch, every=False), float(batch.lengths.float().mean())))
    every, one, length = (statistics.median(column) for column in zip(*found, strict=True))
    sys.stdout.write(
        f"{len(found)} batches, windows of {length:.0f} items, {len(prepared.catalogue)} items in the catalogue, "
        f"{torch.get_num_threads()} threads\nevery position {every:8.4f} ms a target\n"
        f"one a prompt   {one:8.4f} ms a target   {one / every:.0f} x\n"
    )


if __name__ == "__main__":
    main()
