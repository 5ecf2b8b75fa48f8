"""The sieve: no product is off by more than its slack, nothing that belongs in a list is sieved out."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import sieve as module
from model.recommender import best
from model.sieve import ByteSieve, PlainSieve, Sieve, Slack, greatest_code, make_sieve, possible

CPU = torch.device("cpu")
TOPS = [top for top in module._TOPS if top <= greatest_code()]  # where 8 bits are right, 7 are as well
BYTES: list[Callable[[np.ndarray], Sieve]] = [functools.partial(ByteSieve, top=top) for top in TOPS]
SIEVES: list[Callable[[np.ndarray], Sieve]] = [*BYTES, lambda matrix: PlainSieve(matrix, CPU)]
NOTHING = np.zeros(0, dtype=np.int64)

pytestmark = pytest.mark.skipif(not TOPS, reason="this torch has no packed products of bytes")


def draw_case(data: st.DataObject) -> tuple[np.ndarray, np.ndarray]:
    """Items (N, W + 1) and queries (M, W): ordinary, spiky (one dimension swallows the scale), tied, or tiny."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    items, width, queries = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 67)), data.draw(st.integers(1, 5))
    matrix = draw.standard_normal((items, width + 1))
    kind = data.draw(st.sampled_from(["ordinary", "spiky", "tied", "tiny", "zero"]))
    if kind == "spiky":
        matrix[:, draw.integers(width)] *= 1000
    if kind == "tied":
        matrix = np.rint(matrix)
    if kind == "tiny":
        matrix *= 1e-6
    if kind == "zero":
        matrix[draw.random(items) < 0.5] = 0
    wanted = draw.standard_normal((queries, width)) * data.draw(st.sampled_from([1e-3, 1.0, 20.0]))
    return matrix.astype(np.float32), wanted.astype(np.float32)


@pytest.mark.parametrize("make", SIEVES)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_no_product_is_off_by_more_than_its_slack(make: Callable[[np.ndarray], Sieve], data: st.DataObject) -> None:
    matrix, queries = draw_case(data)
    sieve = make(matrix)
    exact = queries.astype(np.float64) @ matrix[:, :-1].T.astype(np.float64) + matrix[:, -1].astype(np.float64)
    found = sieve.logits(torch.from_numpy(queries)).numpy()
    assert found.dtype == np.float32
    slack = sieve.slack(queries)
    of_all = slack.of(np.arange(len(matrix)))
    assert (np.abs(found - exact) <= of_all).all()
    assert of_all.max() <= slack.most * (1 + 1e-6)


@pytest.mark.parametrize("make", BYTES)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_nothing_that_belongs_in_a_list_is_sieved_out(make: Callable[[np.ndarray], Sieve], data: st.DataObject) -> None:
    matrix, queries = draw_case(data)
    sieve, query = make(matrix), queries[:1]
    draw = np.random.default_rng(0)
    eligible = draw.random(len(matrix)) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))
    exact = (query @ matrix[:, :-1].T + matrix[:, -1])[0]
    k = data.draw(st.integers(0, 40))
    rough = sieve.logits(torch.from_numpy(query))[0].numpy()
    candidates = possible(rough, sieve.slack(query), eligible, k)
    assert eligible[candidates].all()
    rows, _ = best(exact, eligible, k)
    assert set(rows.tolist()) <= set(candidates.tolist())


@pytest.mark.parametrize("make", BYTES)
def test_it_leaves_few_more_than_asked_for(make: Callable[[np.ndarray], Sieve]) -> None:
    """Else it would be of no use: of 20,000 items a few dozen."""
    draw = np.random.default_rng(0)
    matrix = (draw.standard_normal((20_000, 65)) / 8).astype(np.float32)
    query = draw.standard_normal((1, 64)).astype(np.float32)
    sieve = make(matrix)
    rough = sieve.logits(torch.from_numpy(query))[0].numpy()
    candidates = possible(rough, sieve.slack(query), np.ones(20_000, dtype=np.bool_), 10)
    assert 10 <= len(candidates) < 60


def test_what_is_less_known_than_the_rest_stays_possible_longer() -> None:
    scores, everything = np.array([-3, -60, -60, -200], dtype=np.float32), np.ones(4, dtype=np.bool_)
    for slack, wanted, left in ((0.1, 1, [0]), (58, 1, [0, 2]), (0.1, 2, [0, 1, 2])):
        one = np.array([0.1, 0.1, slack, 0.1], dtype=np.float32)
        assert possible(scores, Slack(one.__getitem__, slack), everything, wanted).tolist() == left


@pytest.mark.parametrize("apart", [0, 5, 1024])  # rows that are packed apart before all are packed anew
@pytest.mark.parametrize("make", SIEVES)
def test_items_added_and_moved_are_as_if_they_had_been_there(
    make: Callable[[np.ndarray], Sieve], apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_APART", apart)
    draw = np.random.default_rng(1)
    matrix = draw.standard_normal((40, 9)).astype(np.float32)
    before = make(matrix[:30])
    moved = matrix.copy()
    moved[[3, 7]] = draw.standard_normal((2, 9)).astype(np.float32) * 5
    grown = before.extended(matrix[30:], np.array([3, 7]), moved[[3, 7]])
    more = grown.extended(matrix[:2], NOTHING, matrix[:0])
    queries = draw.standard_normal((4, 8)).astype(np.float32)
    for found, expected in ((before, matrix[:30]), (grown, moved), (more, np.concatenate([moved, matrix[:2]]))):
        fresh = make(expected)
        assert len(found) == len(expected)
        torch.testing.assert_close(found.logits(torch.from_numpy(queries)), fresh.logits(torch.from_numpy(queries)))
        rows = np.arange(len(expected))
        assert (found.slack(queries).of(rows) >= fresh.slack(queries).of(rows)).all()
        assert found.slack(queries).most >= fresh.slack(queries).most


@pytest.mark.parametrize("make", BYTES)
def test_a_batch_gives_each_query_what_it_gets_alone(make: Callable[[np.ndarray], Sieve]) -> None:
    draw = np.random.default_rng(2)
    sieve = make(draw.standard_normal((500, 33)).astype(np.float32))
    queries = torch.from_numpy(draw.standard_normal((7, 32)).astype(np.float32))
    together = sieve.logits(queries)
    for n in range(7):
        assert torch.equal(together[n], sieve.logits(queries[n : n + 1])[0])


@pytest.mark.parametrize("right", [(127, 63), (63,), ()])
def test_a_processor_gets_the_largest_codes_that_it_multiplies_right(
    monkeypatch: pytest.MonkeyPatch, right: tuple[int, ...]
) -> None:
    monkeypatch.setattr(module, "_exact", lambda top: top in right)
    assert greatest_code.__wrapped__() == max(right, default=0)


def test_codes_are_as_great_as_the_processor_may_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.ones((3, 4), dtype=np.float32)
    monkeypatch.setattr(module, "greatest_code", lambda: 63)
    sieve = make_sieve(matrix, CPU)
    assert isinstance(sieve, ByteSieve)
    grown = sieve.extended(2 * matrix, np.array([0]), -matrix[:1])
    assert grown._codes.view.max() == -grown._codes.view.min() == 63
    monkeypatch.setattr(module, "greatest_code", lambda: 0)
    assert isinstance(make_sieve(matrix, CPU), PlainSieve)
