"""How often somebody may ask: a token bucket for each, in memory, never more than a bounded number of them.

One process counts for itself: behind a balancer with N replicas a caller gets up to N times the rate. Knows no HTTP.

    limiter = RateLimiter(rate=50, burst=100)
    wait = limiter.take("key shop")       # 0.0: go ahead; else the seconds until the next may pass
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

MAX_BUCKETS: Final = 10_000


class RateLimiter:
    """rate: requests a second, in the long run; 0 lets everything pass. burst: how many at once.

    When more callers come than there are buckets, the one that was silent longest loses its own and starts afresh:
    under pressure the limiter lets too much pass rather than too little.
    """

    def __init__(
        self,
        rate: float,
        burst: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self.rate = rate
        self.burst = float(burst or max(1, math.ceil(2 * rate)))
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when that was so

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._buckets)

    def take(self, who: str) -> float:
        """Takes one token. Returns 0.0, or the seconds until there is one; a refusal costs nothing."""
        if not self.rate:
            return 0.0
        now = self._clock()
        tokens, then = self._buckets.pop(who, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        allowed = tokens >= 1
        self._buckets[who] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self.rate


def network_of(address: str) -> str:
    """Whom an address stands for: itself, or for IPv6 its /64, which one subscriber holds whole."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> 64 << 64)}/64")
    return address
