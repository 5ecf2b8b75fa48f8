"""Training sequences: every training interaction is a target exactly once, cut into windows of one length.

A user's events are cut from the end. A window holds one item more than is read at once: its last item is a target
only, and the condition before it has read as many items as serving reads. What lies before a window makes its
profile. Windows of like length go into one batch, so little is spent on padding. The order of an
epoch is a function of seed and epoch alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.stages.softmax import Without

STEPS_PER_EPOCH = 150  # wanted
SMALLEST_STEP = 512  # positions


@dataclass(frozen=True, slots=True)
class Batch:
    """rows (B, L) padded with 0, lengths (B,), before: for each window the rows of its profile (may be empty).

    earlier: for each window the rows of all that lies before it. users: (B,) whose window it is.
    """

    rows: Tensor
    lengths: Tensor
    before: list[Tensor]
    earlier: list[Tensor] = field(default_factory=list)
    users: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def real(self) -> Tensor:
        """(B, L) True where a position holds an item."""
        return torch.arange(self.rows.shape[1])[None, :] < self.lengths[:, None]

    def seen(self, some: Tensor | None = None) -> Without:
        """What its user had met before each of `some` of the real positions (default: all, in their order). Positions
        are places in `some`."""
        window, place = self.real.nonzero(as_tuple=True)
        if some is not None:
            window, place = window[some], place[some]
        position = torch.arange(len(place)).repeat_interleave(place)
        # Each position reads its window's line from the beginning.
        begin = window * self.rows.shape[1] - (place.cumsum(0) - place)
        rows = self.rows.flatten()[torch.arange(len(position)) + begin.repeat_interleave(place)]
        groups = [
            ((window == number).nonzero()[:, 0], earlier.unique())
            for number, earlier in enumerate(self.earlier)
            if len(earlier)
        ]
        return Without(position, rows, groups)


class Windows:
    """offsets (U + 1,), items: training events as `Prepared.train_histories` gives them. length: items read at once."""

    def __init__(self, offsets: NDArray[np.int64], items: NDArray[np.int32], length: int, max_profile: int) -> None:
        self._items = torch.from_numpy(items.astype(np.int64))
        bounds: list[tuple[int, int, int, int]] = []  # where the user, the profile, the window and what follows begin
        users: list[int] = []
        for user, (first, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            end = stop
            while end > first:
                start = max(first, end - length - 1)
                bounds.append((first, max(first, start - max_profile), start, end))
                users.append(user)
                end = start
        self._bounds = np.array(bounds, dtype=np.int64).reshape(-1, 4)
        self._users = torch.tensor(users, dtype=torch.long)
        self._lengths = self._bounds[:, 3] - self._bounds[:, 2]

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def positions(self) -> int:
        """Training interactions, all windows together."""
        return int(self._lengths.sum())

    def step(self, at_most: int) -> int:
        """Positions a step for this much data: at most those, fewer where an epoch would have too few steps.

        A hundred thousand interactions in steps of 6,400 are sixteen steps an epoch, and the learning rate has
        fallen before anything is learnt. Below 512 positions a step costs more than it teaches.
        """
        return min(at_most, max(SMALLEST_STEP, self.positions // STEPS_PER_EPOCH))

    def batches(self, positions: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Numbers of the windows of each batch of an epoch: at most about `positions` padded positions a batch."""
        jitter = rng.uniform(-0.5, 0.5, len(self)) * np.maximum(2, 0.1 * self._lengths)
        order = np.argsort(self._lengths + jitter, kind="stable")
        batches: list[NDArray[np.int64]] = []
        current: list[int] = []
        longest = 0
        for window in order.tolist():
            longest = max(longest, int(self._lengths[window]))
            if current and longest * (len(current) + 1) > positions:
                batches.append(np.array(current))
                current, longest = [], int(self._lengths[window])
            current.append(window)
        if current:
            batches.append(np.array(current))
        rng.shuffle(batches)
        return batches

    def epoch(self, positions: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, without the first `skip`."""
        rng = np.random.default_rng((seed, epoch))
        for windows in self.batches(positions, rng)[skip:]:
            yield self.batch(windows)

    def forever(self, positions: int, seed: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of epoch after epoch, without the first `skip`."""
        for epoch in itertools.count():
            batches = self.batches(positions, np.random.default_rng((seed, epoch)))
            for windows in batches[skip:]:
                yield self.batch(windows)
            skip = max(0, skip - len(batches))

    def batch(self, windows: NDArray[np.int64]) -> Batch:
        """The given windows, padded."""
        bounds = self._bounds[windows].tolist()
        lengths = torch.tensor([end - start for _, _, start, end in bounds])
        rows = torch.zeros(len(bounds), int(lengths.max()), dtype=torch.long)
        for line, (_, _, start, end) in enumerate(bounds):
            rows[line, : end - start] = self._items[start:end]
        before = [self._items[profile:start] for _, profile, start, _ in bounds]
        earlier = [self._items[first:start] for first, _, start, _ in bounds]
        return Batch(rows, lengths, before, earlier, self._users[torch.from_numpy(windows)])
