"""The evaluator: equal to a plain twin that sorts, pessimistic with ties, honest about what is seen."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.recommender import Popular
from training.evaluate import (
    MISS,
    compare,
    evaluate,
    lead,
    markdown,
    measure,
    paired_bootstrap,
    recommender_scorer,
)


def plain_rank(scores, target, seen):
    """The twin: sort by falling score, the target behind everything that equals it."""
    if target in seen:
        return math.inf
    lines = sorted(
        (row for row in range(len(scores)) if row not in seen), key=lambda row: (-scores[row], row == target)
    )
    return 1 + lines.index(target)


def plain_ndcg(rank, k):
    return 1 / math.log2(rank + 1) if rank <= k else 0.0


@st.composite
def questions(draw):
    """Histories with repeats, scores with many ties (and with none), catalogues from tiny to beyond every cutoff."""
    size = draw(st.integers(2, 40))
    row = st.integers(0, size - 1)
    histories = draw(st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=6))
    score = st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 1.0]) if draw(st.booleans()) else st.floats(-9, 9, width=32)
    scores = draw(st.lists(st.lists(score, min_size=size, max_size=size), min_size=6, max_size=6))
    return size, histories, np.array(scores, dtype=np.float32)


@settings(max_examples=150, deadline=None)
@given(question=questions(), batch=st.integers(1, 7))
def test_equals_its_plain_twin(prepared_of, question, batch):
    size, histories, table = question
    prepared = prepared_of(histories, size)
    for part in ("validation", "test"):
        asked = prepared.evaluation(part)
        if len(asked) == 0:
            continue
        metrics = evaluate(lambda users, _: table[users], prepared, part, batch=batch)
        masked, unmasked, lists = [], [], set()
        for user, history, target in zip(asked.users, asked.histories, asked.targets, strict=True):
            scores = table[user].tolist()
            masked.append(plain_rank(scores, target, set(history.tolist())))
            unmasked.append(plain_rank(scores, target, set()))
            free = [row for row in range(size) if row not in history]
            lists.update(sorted(free, key=lambda row: -scores[row])[:10])
        assert [math.inf if rank == MISS else rank for rank in metrics.ranks.tolist()] == masked
        assert metrics.unmasked_ranks.tolist() == unmasked
        assert metrics.coverage == len(lists) / size
        told = metrics.as_dict()
        for k in (5, 10, 20):
            assert told[f"hr@{k}"] == pytest.approx(np.mean([rank <= k for rank in masked]))
            assert told[f"ndcg@{k}"] == pytest.approx(np.mean([plain_ndcg(rank, k) for rank in masked]))
            assert told["unmasked"][f"ndcg@{k}"] == pytest.approx(np.mean([plain_ndcg(rank, k) for rank in unmasked]))


def test_by_eye(prepared_of):
    """Items score 9, 8, ..., 0. History 0, 1, 2; target 4. Masked only 3 is above it: rank 2. Unmasked 0..3: rank 5."""
    prepared = prepared_of([[0, 1, 2, 4]], 10)
    metrics = evaluate(lambda users, _: np.arange(10)[::-1][None], prepared, "test")
    assert (metrics.ranks.tolist(), metrics.unmasked_ranks.tolist()) == ([2], [5])
    assert metrics.ndcg(10) == pytest.approx(1 / math.log2(3))
    assert metrics.ndcg(10, masked=False) == pytest.approx(1 / math.log2(6))
    assert metrics.coverage == 0.7  # the seven items that are not in the history


def test_one_score_for_everything_finds_nothing(prepared_of):
    prepared = prepared_of([[0, 1, 2, 4], [3, 2, 1]], 50)
    metrics = evaluate(lambda users, _: np.zeros((len(users), 50)), prepared, "test")
    assert metrics.hr(20) == 0.0
    assert metrics.ranks.tolist() == [47, 48]  # behind every item that was not seen


def test_a_target_that_was_seen_is_missed_when_masked_and_can_be_found_unmasked(prepared_of):
    prepared = prepared_of([[1, 0, 1]], 4)
    metrics = evaluate(lambda users, _: np.array([[0, 1, 0, 0]]), prepared, "test")
    assert metrics.ranks.tolist() == [MISS]
    assert (metrics.hr(20), metrics.hr(5, masked=False)) == (0.0, 1.0)


def test_a_scorer_is_given_neither_the_target_nor_anything_after_it(prepared_of):
    prepared = prepared_of([[0, 1, 2, 3, 4, 5]], 6)
    given_histories = []

    def scorer(users, histories):
        given_histories.extend(history.tolist() for history in histories)
        return np.zeros((len(users), 6))

    evaluate(scorer, prepared, "validation")
    evaluate(scorer, prepared, "test")
    assert given_histories == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_nan_and_wrong_shapes_are_refused(prepared_of):
    prepared = prepared_of([[0, 1, 2], [1, 2, 0]], 3)
    with pytest.raises(ValueError, match="NaN for user number 1"):
        evaluate(lambda users, _: np.array([[0, 1, 2], [0, math.nan, 2]]), prepared, "test")
    with pytest.raises(ValueError, match=r"shape \(2, 4\), not \(2, 3\)"):
        evaluate(lambda users, _: np.zeros((2, 4)), prepared, "test")


def test_data_without_targets_is_refused(prepared_of):
    with pytest.raises(ValueError, match="no user has a test target"):
        evaluate(lambda users, _: np.zeros((1, 3)), prepared_of([[0, 1]], 3), "test")


def test_a_subset_is_the_same_for_a_seed_and_has_the_ranks_of_the_whole(prepared_of):
    generator = np.random.default_rng(5)
    prepared = prepared_of([generator.permutation(30)[:6].tolist() for _ in range(40)], 30)
    table = generator.standard_normal((40, 30))

    def scorer(users, _):
        return table[users]

    whole = evaluate(scorer, prepared, "test")
    subset = evaluate(scorer, prepared, "test", users=10, seed=1)
    assert len(subset.users) == 10
    np.testing.assert_array_equal(subset.ranks, whole.ranks[subset.users])
    np.testing.assert_array_equal(subset.users, evaluate(scorer, prepared, "test", users=10, seed=1).users)
    assert subset.users.tolist() != evaluate(scorer, prepared, "test", users=10, seed=2).users.tolist()


def test_a_recommender_scores_as_it_recommends(prepared_of):
    prepared = prepared_of([[0, 1, 2, 3], [4, 3, 2]], 5)
    counts = np.array([9, 7, 5, 3, 1])
    recommender = Popular(prepared.catalogue, counts)
    metrics = evaluate(recommender_scorer(recommender), prepared, "test")
    for rank, history, target in zip(metrics.ranks, *_asked(prepared), strict=True):
        assert recommender.recommend(history, 5)[0][rank - 1] == target


def _asked(prepared):
    asked = prepared.evaluation("test")
    return asked.histories, asked.targets


def test_the_dictionary_is_ready_for_json_and_the_table_holds_its_numbers(prepared_of):
    prepared = prepared_of([[0, 1, 2, 4]], 10)
    rows = compare({"falling": lambda users, _: np.arange(10)[::-1][None]}, prepared, "test")
    assert json.loads(json.dumps(rows)) == rows
    assert set(rows[0]) == {"scorer", "part", "users", "unmasked", "coverage@10"} | {
        f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)
    }
    head, rule, line = markdown(rows).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|")
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (cells["ndcg@10"], cells["ndcg@10 unmasked"]) == ("0.6309", "0.3869")


def test_the_bootstrap_finds_a_difference_and_only_where_there_is_one(prepared_of):
    prepared = prepared_of([[0, 1, 2 + user % 3] for user in range(60)], 30)

    def good(users, _):
        return np.tile(-np.arange(30), (len(users), 1))

    def noisy(users, _):
        return np.random.default_rng(0).standard_normal((len(users), 30))

    first, second = evaluate(good, prepared, "test"), evaluate(noisy, prepared, "test")
    mean, low, high = paired_bootstrap(first, second)
    assert 0 < low < mean < high
    assert mean == pytest.approx(first.ndcg(10) - second.ndcg(10))
    assert paired_bootstrap(first, first) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap(first, evaluate(good, prepared, "test", users=7))


def test_the_lead_names_the_best_rival_and_the_bounds(prepared_of):
    prepared = prepared_of([[user + 6, 5, 1, 2] for user in range(3)], 12)
    right = np.arange(12, dtype=np.float32)[None].repeat(3, axis=0)
    right[:, 2] = 99  # the test target of all three
    scorers = {
        "mine": lambda users, _: right[users],
        "worse": lambda users, _: -right[users],
        "nearly": lambda users, _: np.where(np.arange(12) == 11, 100, right[users]).astype(np.float32),
    }
    assert lead(measure(scorers, prepared, "test")) == (
        "mine less nearly, the best of the others, in NDCG@10: +0.3691 "
        "(95 % interval over users, paired bootstrap: +0.3691 to +0.3691)"
    )
