"""Asking together: whoever asks while a call is under way is answered by the next call, with everyone else who came.

One call at a time, so that nobody waits for a batch to fill and a busy store is asked in fewer, larger questions: a
round trip to Redis or a hop to SQLite's thread costs more than what it carries. Knows no store.

    read = Gather(read_many, most=64)        # read_many(questions) -> one answer for each, in order
    record = await read.ask(("42", "movies/1"))
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Gather(Generic[Question, Answer]):
    """See the module. What `work` raises is raised to everyone whom that call would have answered."""

    def __init__(self, work: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]], most: int = 64) -> None:
        self._work = work
        self._most = most
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to one question."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                asked = [(question, future) for question, future in asked if not future.done()]
                if asked:
                    await self._answer(asked)
        finally:
            self._task = None

    async def _answer(self, asked: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._work([question for question, _ in asked])
            pairs = list(zip(asked, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it was, those who asked must hear of it
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in pairs:
            if not future.done():
                future.set_result(answer)
