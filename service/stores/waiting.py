"""A time limit on somebody else's answer that does not count the time in which we ourselves were not listening.

A process that is held up (by the machine, by a long step of its own) finds the answer and the end of the time limit
waiting side by side when it goes on, and asyncio cancels first. Then a store that had answered at once would be called
silent, its event refused, and a breaker opened. So who comes late to the end of the limit listens for as long again as
it was late. Knows no store.

    record = await within(0.1, read())          # raises TimeoutError
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """The answer, which is cancelled and TimeoutError raised when it takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    async with asyncio.timeout(None) as limit:

        def over() -> None:
            now = loop.time()
            limit.reschedule(now + (now - due))

        timer = loop.call_at(due, over)
        try:
            return await answer
        finally:
            timer.cancel()
