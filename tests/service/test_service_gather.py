"""Asking together: one call at a time, everyone who waits in the next one, and errors to those concerned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.stores.gather import Gather


class Slow:
    """Doubles, one loop turn later; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def __call__(self, questions: Sequence[int]) -> list[int]:
        self.calls.append(list(questions))
        await asyncio.sleep(0.01)
        if -1 in questions:
            raise ValueError("minus one")
        return [2 * question for question in questions]


async def test_who_asks_meanwhile_is_answered_together_and_in_order() -> None:
    work = Slow()
    gather = Gather(work, most=3)
    first = asyncio.create_task(gather.ask(0))
    await asyncio.sleep(0.001)
    rest = [asyncio.create_task(gather.ask(n)) for n in range(1, 6)]
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert work.calls == [[0], [1, 2, 3], [4, 5]]


async def test_an_error_reaches_those_who_asked_together_and_nobody_later() -> None:
    gather = Gather(Slow())
    asked = [asyncio.create_task(gather.ask(n)) for n in (-1, 5)]
    for one in asked:
        with pytest.raises(ValueError, match="minus one"):
            await one
    assert await gather.ask(4) == 8


async def test_who_has_left_is_not_asked_for() -> None:
    work = Slow()
    gather = Gather(work)
    first = asyncio.create_task(gather.ask(0))
    await asyncio.sleep(0.001)
    leaving, staying = asyncio.create_task(gather.ask(1)), asyncio.create_task(gather.ask(2))
    await asyncio.sleep(0.001)
    leaving.cancel()
    assert (await first, await staying) == (0, 4)
    assert work.calls == [[0], [2]]
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_too_few_answers_are_an_error_and_not_a_wait() -> None:
    async def short(questions: Sequence[int]) -> list[int]:
        return []

    with pytest.raises(ValueError, match="shorter"):
        await Gather(short).ask(1)
