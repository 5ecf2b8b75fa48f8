"""Micro-batching: one task owns the bounded queue, one thread computes; everyone else sends messages.

Whatever waits when the thread is free is computed together, up to `max_batch`; nobody waits for a batch to fill. Who
would have to wait for longer than `max_wait` is refused at once, so that under a flood those who are accepted keep
their latency.
Work whose caller has left, or whose time is up, is dropped before it costs anything. Knows no model: `work` turns a
list of questions into a list of answers, on the thread.

    batcher = Batcher(work, queue_size=256, max_batch=32)
    batcher.start()
    answer = await batcher.ask(question, timeout=2)   # raises Overloaded when the queue is full
    await batcher.close()                     # answers what waits, then stops
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class Overloaded(Exception):
    """The queue is full, or the batcher is closing."""


@dataclass(frozen=True, slots=True)
class _Ask(Generic[Question, Answer]):
    question: Question
    future: asyncio.Future[Answer] = field(compare=False)
    deadline: float  # of the loop's clock


@dataclass(frozen=True, slots=True)
class _Stop:
    """Comes after everything that was asked before it."""


class Batcher(Generic[Question, Answer]):
    """See the module. `work` must return one answer for each question, in order.

    max_wait: seconds. on_batch(size, dropped, waiting): told once a batch, for the metrics.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Question]], Sequence[Answer]],
        *,
        queue_size: int,
        max_batch: int,
        max_wait: float = math.inf,
        on_batch: Callable[[int, int, int], None] = lambda size, dropped, waiting: None,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._batch_s = 0.0  # how long a batch takes on the thread, lately
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Ask[Question, Answer] | _Stop] = asyncio.Queue(queue_size)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Starts the task; call once, inside the event loop."""
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def ask(self, question: Question, timeout: float | None = None) -> Answer:
        """The answer, computed with whatever else waits. Raises Overloaded, what `work` raised, or TimeoutError once
        `timeout` seconds have gone by."""
        self.check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        deadline = math.inf if timeout is None else loop.time() + timeout
        try:
            self._queue.put_nowait(_Ask(question, future, deadline))
        except asyncio.QueueFull:
            raise Overloaded(f"{self._queue.maxsize} requests wait already") from None
        async with asyncio.timeout(timeout):
            return await future

    def check(self) -> None:
        """Raises Overloaded where `ask` would: worth asking before anything is spent on a question."""
        if self._closing:
            raise Overloaded("the service is shutting down")
        waiting = self._queue.qsize()
        too_long = self._batch_s * (1 + waiting // self._max_batch) > self._max_wait
        if waiting >= self._queue.maxsize or (waiting and too_long):
            raise Overloaded(f"{waiting} requests wait already")

    async def on_thread(self, work: Callable[[], Result]) -> Result:
        """Runs something on the model thread, between two batches: warming up, say."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Answers everything that waits, then frees the thread."""
        self._closing = True
        if self._task is not None:
            await self._queue.put(_Stop())
            await self._task
            self._task = None
        self._thread.shutdown(wait=True)

    async def _serve(self) -> None:
        while True:
            messages = [await self._queue.get()]
            while len(messages) < self._max_batch and not self._queue.empty():
                messages.append(self._queue.get_nowait())
            asked = [message for message in messages if isinstance(message, _Ask)]
            now = asyncio.get_running_loop().time()
            # A loop that lags may not have told the caller yet that its time is up.
            waited_for = [ask for ask in asked if not ask.future.done() and ask.deadline > now]
            self._on_batch(len(waited_for), len(asked) - len(waited_for), self._queue.qsize())
            if waited_for:
                await self._answer(waited_for)
            if len(asked) < len(messages):
                return

    def _timed(self, questions: Sequence[Question]) -> Sequence[Answer]:
        # On the thread: the loop's own lag under a flood must not pass for the model's slowness, and so refuse more.
        began = time.perf_counter()
        answers = self._work(questions)
        self._batch_s += 0.2 * (time.perf_counter() - began - self._batch_s)
        return answers

    async def _answer(self, asks: list[_Ask[Question, Answer]]) -> None:
        try:
            answers = await self.on_thread(lambda: self._timed([ask.question for ask in asks]))
            pairs = list(zip(asks, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it was, the callers must hear of it and the task must live
            for ask in asks:
                if not ask.future.done():
                    ask.future.set_exception(error)
            return
        for ask, answer in pairs:
            if not ask.future.done():
                ask.future.set_result(answer)
