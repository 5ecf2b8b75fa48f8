"""What it saves that the batches of a training have few shapes, for which oneDNN need not make code again.

    python -m bench.training.shapes prepared/ml-1m [--steps 40] [--set trunk.width=192]

The same steps of the trunk twice, in turns of ten: with sizes rounded up to a few (`few_sizes` and the chunks of the
softmax), as training does, and each of its own size.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import torch

from model.continuous.space import ItemSpace
from training.data.prepared import Prepared
from training.recipe import load_recipe
from training.recipes.continuous import TrunkPart
from training.stages import softmax, trunk
from training.stages.windows import Windows

TURN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--steps", type=int, default=40, help="of each kind")
    parser.add_argument("--skip", type=int, default=10, help="steps before those that count")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE")
    given = parser.parse_args()
    prepared, part = Prepared.read(given.prepared), load_recipe("contrec", "small", given.overrides).trunk
    few, every = Steps(prepared, part), Steps(prepared, part)
    seconds: dict[str, list[float]] = {"few": [], "every": []}
    for turn in range(math.ceil((given.skip + given.steps) / TURN)):
        counts = turn * TURN >= given.skip
        with (
            mock.patch.object(trunk, "few_sizes", lambda size: size),
            mock.patch.object(softmax, "_chunk", lambda positions, most: max(1, min(positions, most))),
        ):
            took = [every.one() for _ in range(TURN)]
        seconds["every"] += took if counts else []
        took = [few.one() for _ in range(TURN)]
        seconds["few"] += took if counts else []
    for name, found in seconds.items():
        median = 1e3 * statistics.median(found)
        sys.stdout.write(f"{name:>6}: {sum(found):.1f} s for {len(found)} steps, {median:.0f} ms in the median\n")
    sys.stdout.write(f"ratio of the sums: {sum(seconds['few']) / sum(seconds['every']):.2f}\n")


class Steps:
    """A trunk and its training, step by step."""

    def __init__(self, prepared: Prepared, part: TrunkPart) -> None:
        torch.manual_seed(0)
        self.part, self.trunk = part, trunk.new_trunk(part).train()
        self.space = ItemSpace(torch.randn(len(prepared.catalogue), 2, 64), part.width)
        self.optimiser = trunk._optimiser(self.trunk, self.space, part, given=False)
        windows = Windows(*prepared.train_histories(), part.max_history, part.max_profile)
        self.batches = windows.forever(windows.step(part.tokens_per_step), seed=0)

    def one(self) -> float:
        """Seconds."""
        batch, started = next(self.batches), time.perf_counter()
        self.optimiser.zero_grad()
        loss, _ = trunk._loss(self.trunk, self.space, batch, self.part)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(itertools.chain(self.trunk.parameters(), self.space.parameters()), 1.0)
        self.optimiser.step()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
