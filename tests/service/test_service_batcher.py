"""The batcher: what waits is computed together, in bounds, and what nobody waits for is not computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from service.batcher import Batcher, Overloaded


class Doubling:
    """Work that can be held up, and that remembers its batches and its thread."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.begun.set()
        self.gate.wait(5)
        self.threads.add(threading.get_ident())
        self.batches.append(list(questions))
        if -1 in questions:
            raise ValueError("minus one")
        return [2 * question for question in questions]


@pytest.fixture
def work() -> Doubling:
    return Doubling()


@pytest.fixture
async def batcher(work: Doubling) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(work, queue_size=16, max_batch=4)
    batcher.start()
    yield batcher
    work.gate.set()
    await batcher.close()


async def hold_up(batcher: Batcher[int, int], work: Doubling) -> asyncio.Task[int]:
    """Keeps the thread busy with the question 0 until the gate is opened."""
    work.gate.clear()
    work.begun.clear()
    task = asyncio.create_task(batcher.ask(0))
    while not work.begun.is_set():
        await asyncio.sleep(0.001)
    return task


@pytest.mark.parametrize("size", [1, 4, 5, 11])
async def test_what_waits_is_computed_together_up_to_the_bound(
    batcher: Batcher[int, int], work: Doubling, size: int
) -> None:
    first = await hold_up(batcher, work)
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(1, size + 1)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await first == 0
    assert await asyncio.gather(*tasks) == [2 * n for n in range(1, size + 1)]
    everything = list(range(1, size + 1))
    assert work.batches == [[0]] + [everything[at : at + 4] for at in range(0, size, 4)]
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads


async def test_a_lone_question_does_not_wait_for_others(batcher: Batcher[int, int], work: Doubling) -> None:
    assert await asyncio.wait_for(batcher.ask(21), timeout=5) == 42
    assert work.batches == [[21]]


async def test_a_full_queue_refuses(batcher: Batcher[int, int], work: Doubling) -> None:
    first = await hold_up(batcher, work)
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="16 requests wait"):
        await batcher.ask(99)
    work.gate.set()
    await asyncio.gather(first, *tasks)
    assert await batcher.ask(5) == 10


async def test_what_nobody_waits_for_is_dropped_unseen(work: Doubling) -> None:
    told: list[tuple[int, int]] = []
    batcher = Batcher(
        work, queue_size=16, max_batch=4, on_batch=lambda size, dropped, waiting: told.append((size, dropped))
    )
    batcher.start()
    first = await hold_up(batcher, work)
    leaving = asyncio.create_task(batcher.ask(7))
    staying = asyncio.create_task(batcher.ask(8))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert [await first, await staying] == [0, 16]
    assert work.batches == [[0], [8]]
    assert told == [(1, 0), (1, 1)]
    await batcher.close()


async def test_a_caller_that_leaves_while_it_is_computed_harms_nobody(
    batcher: Batcher[int, int], work: Doubling
) -> None:
    first = await hold_up(batcher, work)
    first.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert await batcher.ask(3) == 6


async def test_an_exception_reaches_its_batch_and_the_task_lives_on(batcher: Batcher[int, int]) -> None:
    with pytest.raises(ValueError, match="minus one"):
        await batcher.ask(-1)
    assert await batcher.ask(4) == 8


async def test_work_that_answers_too_few_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda questions: [], queue_size=2, max_batch=2)
    batcher.start()
    with pytest.raises(ValueError, match="shorter"):
        await batcher.ask(1)
    await batcher.close()


async def test_closing_answers_what_waits_and_refuses_what_comes(work: Doubling) -> None:
    batcher = Batcher(work, queue_size=4, max_batch=2)
    batcher.start()
    first = await hold_up(batcher, work)
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(4)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="shutting down"):
        await batcher.ask(9)
    work.gate.set()
    await closing
    assert await asyncio.gather(first, *tasks) == [0, 0, 2, 4, 6]


async def test_what_is_out_of_time_is_not_computed(batcher: Batcher[int, int], work: Doubling) -> None:
    held = await hold_up(batcher, work)
    late = asyncio.create_task(batcher.ask(1, timeout=0.02))
    patient = asyncio.create_task(batcher.ask(2, timeout=30))
    with pytest.raises(TimeoutError):
        await late
    work.gate.set()
    assert (await held, await patient) == (0, 4)
    assert work.batches == [[0], [2]]


async def test_far_more_than_can_be_computed_in_time_are_refused_at_the_door(work: Doubling) -> None:
    batcher = Batcher(work, queue_size=100, max_batch=2, max_wait=0.05)
    batcher.start()
    held = await hold_up(batcher, work)
    await asyncio.sleep(0.2)
    work.gate.set()
    await held  # a question takes 0.2 s: not one can be computed in time, but four batches are no flood
    held = await hold_up(batcher, work)
    waiting = [asyncio.create_task(batcher.ask(n)) for n in range(8)]
    await asyncio.sleep(0.2)
    with pytest.raises(Overloaded, match="8 requests wait"):
        await batcher.ask(9)
    work.gate.set()
    await held
    await asyncio.gather(*waiting, return_exceptions=True)
    assert work.batches[:3] == [[0], [0], [0]]  # nor is a batch larger than what can be computed in time
    await batcher.close()


async def test_one_batch_that_was_held_up_refuses_nobody(work: Doubling) -> None:
    batcher = Batcher(work, queue_size=100, max_batch=8, max_wait=0.1)
    batcher.start()
    for n in range(4):
        assert await batcher.ask(n) == 2 * n
    held = await hold_up(batcher, work)
    await asyncio.sleep(0.3)
    work.gate.set()
    await held
    crowd = [asyncio.create_task(batcher.ask(n)) for n in range(50)]
    assert await asyncio.gather(*crowd) == [2 * n for n in range(50)]
    await batcher.close()


async def test_who_has_waited_through_too_much_is_refused_while_a_batch_waits_behind() -> None:
    def slow(questions: Sequence[int]) -> list[int]:
        time.sleep(0.06)
        return [2 * question for question in questions]

    batcher = Batcher(slow, queue_size=100, max_batch=4, max_wait=0.1)
    batcher.start()
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(40)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, Overloaded)]
    # Two batches of 0.06 s, and whoever is left has waited through more than 0.1 s: all but one last batch.
    assert refused == list(range(8, 36))
    accepted = [answer for answer in answers if not isinstance(answer, Overloaded)]
    assert accepted == [2 * n for n in (*range(8), *range(36, 40))]
    await batcher.close()


async def test_a_single_batch_that_was_held_up_makes_no_flood_of_those_behind(work: Doubling) -> None:
    batcher = Batcher(work, queue_size=100, max_batch=4, max_wait=0.1)
    batcher.start()
    held = await hold_up(batcher, work)
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(20)]
    await asyncio.sleep(0.3)
    work.gate.set()
    assert await asyncio.gather(held, *tasks) == [0, *range(0, 40, 2)]
    await batcher.close()


async def test_a_crowd_that_keeps_the_loop_busy_is_no_flood(work: Doubling) -> None:
    batcher = Batcher(work, queue_size=100, max_batch=4, max_wait=0.01)
    batcher.start()
    tasks = [asyncio.create_task(batcher.ask(n)) for n in range(40)]
    await asyncio.sleep(0)
    time.sleep(0.1)
    assert await asyncio.gather(*tasks) == list(range(0, 80, 2))
    await batcher.close()


async def test_in_a_flood_those_who_are_let_in_wait_for_a_tenth_and_a_burst_after_it_is_sat_out() -> None:
    def slow(questions: Sequence[int]) -> list[int]:
        time.sleep(0.005 * len(questions))
        return list(questions)

    batcher = Batcher(slow, queue_size=1000, max_batch=8, max_wait=0.4)
    batcher.start()

    async def waited(number: int) -> float | None:
        asked = time.perf_counter()
        try:
            await batcher.ask(number)
        except Overloaded:
            return None
        return time.perf_counter() - asked

    flood = []
    for number in range(300):  # five times what can be computed
        flood += [asyncio.create_task(waited(number)) for _ in range(5)]
        await asyncio.sleep(0.005)
    answers = await asyncio.gather(*flood)
    let_in = sorted(seconds for seconds in answers[len(answers) // 2 :] if seconds is not None)
    assert 20 < len(let_in) < len(answers) // 2
    assert let_in[len(let_in) // 2] < 0.2, "by the first rule alone it would be 0.4 s and a batch"

    crowd = await asyncio.gather(*(waited(number) for number in range(32)))
    assert None not in crowd
    await batcher.close()
