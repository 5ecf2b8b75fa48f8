"""Which preference vectors answer a request, and how much each weighs: what validation chose, as it lies in a bundle.

Knows neither trunk nor head, only how many samples are drawn, from which noise and along which times.

    mixture = Mixture(samples=8, times=(0.7,), weight=0.25)
    mixture.weights                                  # of the trunk's own vector and the samples
    noise = mixture.noise(width=128)                 # (S, T, W), the same for every request that does not explore
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixture:
    """How tastes are made: how many samples, at which falling times they are denoised, and their weight lambda.

    guidance: of these samples; 1 is none (head.py). explore_times: the longer walk of samples that are drawn for a
    request that explores. They are not guided: they are asked for what is less expected.
    """

    samples: int
    times: tuple[float, ...]
    weight: float
    explore_samples: int = 4
    explore_times: tuple[float, ...] = (0.9, 0.75, 0.6, 0.45)
    guidance: float = 1.0

    @property
    def weights(self) -> list[float]:
        """Of the trunk's own vector and, where they weigh anything, of each sample; they add up to 1."""
        if self.weight == 0:
            return [1.0]
        return [1 - self.weight, *[self.weight / self.samples] * self.samples]

    def noise(self, width: int) -> Tensor:
        """(S, T, width): the same in training, validation and serving, on every machine."""
        return _drawn(0, self.samples, self.times, width)

    def fresh_noise(self, width: int, seed: int) -> Tensor:
        """(explore_samples, explore times, width): what a request with this seed explores with."""
        return _drawn(seed, self.explore_samples, self.explore_times, width)


def _drawn(seed: int, samples: int, times: tuple[float, ...], width: int) -> Tensor:
    return torch.randn((samples, len(times), width), generator=torch.Generator().manual_seed(seed))
