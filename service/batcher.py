"""Micro-batching: one task owns the bounded queue, one thread computes; everyone else sends messages.

Whatever waits when the thread is free is computed together, up to `max_batch`; nobody waits for a batch to fill.

Who has waited for longer than `max_wait` is refused as long as `max_batch` others wait behind, by the thread's clock
and not by a guess; a batch is no larger than what can be computed in that time, as the last ones took; and where far
more wait than that, who comes is refused at the door. That is for a burst, which one may sit out. Under a flood, when
more than two such batches have waited for all of `max_wait`, whoever is accepted would wait that long: so who comes now
has a tenth of it, until all that wait fit into one batch, and those who are let in keep their latency (controlled
delay: Nichols and Jacobson 2012; Maurer 2015).
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
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


_LATELY = 5  # batches
_IN_A_FLOOD = 0.1  # of `max_wait`
_AT_LEAST = 4  # questions a batch in a flood: handed over one by one they leave the thread idle between them


class Overloaded(Exception):
    """The queue is full, or the batcher is closing."""


@dataclass(frozen=True, slots=True)
class _Ask(Generic[Question, Answer]):
    question: Question
    future: asyncio.Future[Answer] = field(compare=False)
    deadline: float  # of the loop's clock
    asked: float  # of the thread's: see `_spent`
    patience: float  # seconds of the thread's clock


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
        self._costs: deque[float] = deque(maxlen=_LATELY)  # seconds on the thread for each question of a batch
        self._cost = 0.0  # their median: one batch that was held up says nothing of the next
        self._busy = 0.0  # seconds that the thread has spent on batches
        self._calm = 0.0  # what `_busy` was when a flood was last out of sight
        self._began: float | None = None  # the batch that is being computed, by time.perf_counter
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
            self._queue.put_nowait(_Ask(question, future, deadline, self._spent(), self._patience()))
        except asyncio.QueueFull:
            raise Overloaded(f"{self._queue.maxsize} requests wait already") from None
        async with asyncio.timeout(timeout):
            return await future

    def check(self) -> None:
        """Raises Overloaded where `ask` would: worth asking before anything is spent on a question."""
        if self._closing:
            raise Overloaded("the service is shutting down")
        waiting = self._queue.qsize()
        if waiting >= min(self._queue.maxsize, max(4 * self._max_batch, self._room(self._max_wait))):
            raise Overloaded(f"{waiting} requests wait already")

    def _room(self, seconds: float) -> float:
        """How many can be computed in so many seconds."""
        return seconds / self._cost if self._cost else math.inf

    def _flooded(self) -> bool:
        return self._busy - self._calm > self._max_wait

    def _patience(self) -> float:
        """Seconds for which who comes now may wait while others wait behind."""
        if not self._flooded():
            return self._max_wait
        return min(self._max_wait, max(_IN_A_FLOOD * self._max_wait, _AT_LEAST * self._cost))

    def _spent(self) -> float:
        """Seconds of the thread on batches: how much of them somebody waits through is what counts, not how long the
        loop takes to come round, or a crowd of clients would be a flood. One batch that was held up is not one."""
        began = self._began
        return self._busy + (0.0 if began is None else min(self._max_wait, time.perf_counter() - began))

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
            if self._queue.empty():
                self._calm = self._busy
            message = await self._queue.get()
            batch: list[_Ask[Question, Answer]] = []
            dropped, now, found = 0, asyncio.get_running_loop().time(), 1 + self._queue.qsize()
            most = max(1, min(self._max_batch, self._room(self._patience())))
            while not isinstance(message, _Stop):
                # A loop that lags may not have told the caller yet that its time is up.
                if message.future.done() or message.deadline <= now:
                    dropped += 1
                elif self._too_late(message, most):
                    message.future.set_exception(Overloaded("too many came before"))
                else:
                    batch.append(message)
                if len(batch) + 1 > most or self._queue.empty():
                    break
                message = self._queue.get_nowait()
            waiting = self._queue.qsize()
            if not waiting or (found <= 2 * self._max_batch and not self._flooded()):
                self._calm = self._busy
            self._on_batch(len(batch), dropped, waiting)
            if batch:
                await self._answer(batch)
            if isinstance(message, _Stop):
                return

    def _too_late(self, ask: _Ask[Question, Answer], most: float) -> bool:
        """Whether it has waited for too long while a whole batch waits behind; in a flood a batch is a small one."""
        whole = self._max_batch if ask.patience == self._max_wait else most
        return self._busy - ask.asked > ask.patience and self._queue.qsize() >= whole

    def _timed(self, questions: Sequence[Question]) -> Sequence[Answer]:
        self._began = began = time.perf_counter()
        try:
            return self._work(questions)
        finally:
            seconds = time.perf_counter() - began
            self._costs.append(seconds / len(questions))
            self._cost = statistics.median(self._costs)
            self._busy, self._began = self._busy + min(self._max_wait, seconds), None

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
