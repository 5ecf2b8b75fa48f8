"""How fast the networks learn at each step of their training. Knows no network and no data.

group["lr"] = part.learning_rate * learning_rate(step, total, part.warmup_steps)
"""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to three percent; a share of the highest rate. step: from 0."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))
