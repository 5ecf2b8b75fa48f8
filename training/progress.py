"""How long work tells where it is: one function, called by every fit function, shown or logged by the front door.

progress("trunk", epoch=3, of=30, values={"loss": 6.1, "ndcg@10": 0.05})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """stage: what is being fitted; epoch of `of`; values: losses and metrics worth showing."""

    def __call__(self, stage: str, epoch: int, of: int, values: Mapping[str, float]) -> None: ...


def silent(stage: str, epoch: int, of: int, values: Mapping[str, float]) -> None:
    """Shows nothing."""
