"""Training windows: every event is a target once, and a profile never holds a target of its own window."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.stages.softmax import Without
from training.stages.windows import Windows


def windows_of(lengths: list[int], length: int, max_profile: int) -> Windows:
    """Event n is item n, so that where it went can be read off."""
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return Windows(offsets, np.arange(offsets[-1], dtype=np.int32), length, max_profile)


def user_bounds(lengths: list[int]) -> list[tuple[int, int]]:
    offsets = np.cumsum([0, *lengths]).tolist()
    return list(pairwise(offsets))


lengths = st.lists(st.integers(0, 40), max_size=12)


@settings(deadline=None, max_examples=100)
@given(lengths=lengths, length=st.integers(1, 12), max_profile=st.integers(1, 9), positions=st.integers(1, 60))
def test_every_event_is_a_target_once_and_its_profile_lies_before_it(
    lengths: list[int], length: int, max_profile: int, positions: int
) -> None:
    windows = windows_of(lengths, length, max_profile)
    assert windows.positions == sum(lengths)
    user_of = np.repeat(np.arange(len(lengths)), lengths)
    starts = [start for start, _ in user_bounds(lengths)]
    targets: list[int] = []
    for batch in windows.epoch(positions, seed=0, epoch=0):
        assert (batch.lengths >= 1).all()
        assert batch.rows.shape == (len(batch.lengths), int(batch.lengths.max()))
        assert batch.real.sum() == batch.lengths.sum()
        assert batch.rows.numel() <= positions or len(batch.rows) == 1
        for row, size, before in zip(batch.rows.tolist(), batch.lengths.tolist(), batch.before, strict=True):
            inside, earlier = row[:size], before.tolist()
            targets += inside
            assert size <= length + 1, "one target beyond what is read at once"
            user = user_of[inside[0]]
            assert inside == list(range(inside[0], inside[0] + size)), "a window is one stretch, in order"
            assert user_of[inside[-1]] == user, "a window crosses from one user to another"
            first = max(starts[user], inside[0] - max_profile)
            assert earlier == list(range(first, inside[0])), "exactly the bounded stretch before the window"
    assert sorted(targets) == list(range(sum(lengths)))


def test_windows_are_cut_from_the_end() -> None:
    """So the most recent window is whole; the oldest one is what is left."""
    batch = windows_of([12], length=4, max_profile=3).batch(np.arange(3))
    assert [row[:size].tolist() for row, size in zip(batch.rows, batch.lengths, strict=True)] == [
        [7, 8, 9, 10, 11],
        [2, 3, 4, 5, 6],
        [0, 1],
    ]
    assert [before.tolist() for before in batch.before] == [[4, 5, 6], [0, 1], []]


def order(windows: Windows, seed: int, epoch: int) -> list[list[int]]:
    return [batch.rows.flatten().tolist() for batch in windows.epoch(60, seed, epoch)]


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    windows = windows_of([5, 30, 12, 7, 22, 3, 18, 40, 11, 9], 10, 4)
    first = order(windows, 0, 0)
    np.random.default_rng().random(3)
    assert order(windows, 0, 0) == first
    assert order(windows_of([5, 30, 12, 7, 22, 3, 18, 40, 11, 9], 10, 4), 0, 0) == first
    assert order(windows, 0, 1) != first
    assert order(windows, 1, 0) != first


def test_windows_of_like_length_share_a_batch() -> None:
    """Little is spent on padding: at most a quarter here, where a random order wastes far more."""
    lengths = np.random.default_rng(0).integers(1, 60, 400).tolist()
    windows = windows_of(lengths, 60, 10)
    padded = sum(batch.rows.numel() for batch in windows.epoch(600, 0, 0))
    assert padded < 1.25 * sum(lengths)


def test_no_event_gives_no_window() -> None:
    windows = windows_of([0, 0], 5, 5)
    assert (len(windows), windows.positions, list(windows.epoch(10, 0, 0))) == (0, 0, [])


def test_small_data_takes_small_steps_and_large_data_what_the_recipe_allows() -> None:
    def windows(events: int) -> Windows:
        return Windows(np.array([0, events]), np.zeros(events, dtype=np.int32), length=50, max_profile=0)

    assert windows(1_000_000).step(6400) == 6400
    assert windows(150_000).step(6400) == 1000
    assert windows(1_000).step(6400) == 512
    assert windows(1_000).step(64) == 64


def told(seen: Without, positions: int) -> list[set[int]]:
    """What each position does without."""
    found: list[set[int]] = [set() for _ in range(positions)]
    assert seen.positions.tolist() == sorted(seen.positions.tolist())
    for place, row in zip(seen.positions.tolist(), seen.rows.tolist(), strict=True):
        found[place].add(row)
    for places, rows in seen.groups:
        assert len(rows) == len(set(rows.tolist())), "each once, however often it was met"
        for place in places.tolist():
            found[place].update(rows.tolist())
    return found


@settings(deadline=None, max_examples=100)
@given(
    histories=st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=6),
    length=st.integers(1, 12),
    max_profile=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_position_knows_the_whole_of_what_its_user_had_met(
    histories: list[list[int]], length: int, max_profile: int, seed: int
) -> None:
    """Few items, so that some come back: those are among what was met, and the softmax leaves a target in."""
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    windows = Windows(offsets, np.array([*itertools.chain(*histories)], dtype=np.int32), length, max_profile)
    draw = np.random.default_rng(seed)
    met: dict[int, list[tuple[int, list[int]]]] = {}  # of each user: (item, what came before), in the order of the file
    for batch in windows.epoch(40, seed, 0):
        rows = batch.rows[batch.real].tolist()
        without = told(batch.seen(), len(rows))
        users = batch.users[:, None].expand(batch.rows.shape)[batch.real].tolist()
        for user, row, found in zip(users, rows, without, strict=True):
            met.setdefault(user, []).append((row, sorted(found)))
        some = torch.from_numpy(draw.permutation(len(rows))[: max(1, len(rows) // 2)])
        assert told(batch.seen(some), len(some)) == [without[place] for place in some.tolist()]
    for user, history in enumerate(histories):
        expected = [(row, sorted(set(history[:n]))) for n, row in enumerate(history)]
        assert sorted(met.get(user, [])) == sorted(expected)


def test_what_was_met_long_ago_is_told_once_a_window() -> None:
    """In pairs a batch of windows of somebody who has met 10,000 items would be half a gigabyte."""
    events = np.arange(10_000, dtype=np.int32)
    windows = Windows(np.array([0, len(events)]), events, length=200, max_profile=0)
    seen = windows.batch(np.arange(len(windows))).seen()
    assert len(seen.positions) + sum(len(places) + len(rows) for places, rows in seen.groups) < 2_000_000
    assert sorted(len(rows) for _, rows in seen.groups)[-1] == len(events) - 201
