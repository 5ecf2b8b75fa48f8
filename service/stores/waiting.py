"""A time limit on somebody else's answer that does not count the time in which we ourselves were not listening.

A process that is held up (by the machine, by a crowd, by a long step of its own) finds the answer and the end of the
time limit waiting side by side when it goes on, and asyncio cancels first. Then a store that had answered at once would
be called silent, its event refused, and a breaker opened. So the limit is a number of looks at even distances: a look
that comes late counts as one. Knows no store.

    record = await within(0.1, read())          # raises TimeoutError
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

T = TypeVar("T")

LOOKS: Final = 5


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """The answer, which is cancelled and TimeoutError raised when it takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    left = LOOKS
    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds / LOOKS, lambda: look())

        def look() -> None:
            nonlocal left, timer
            left -= 1
            if left:
                timer = loop.call_later(seconds / LOOKS, look)
            else:
                limit.reschedule(loop.time())

        try:
            return await answer
        finally:
            timer.cancel()
