"""The baselines: right by eye, equal to plain twins, and blind to every validation and test event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.recommender import Popular
from training.baselines import Ease, Popularity, Transitions, fit_baselines
from training.data.prepared import TEST, TRAIN
from training.evaluate import compare, recommender_scorer

CHAINS = [[0, 1, 2, 3, 9, 9], [0, 1, 2, 3, 9, 9], [4, 5, 6, 7, 9, 9], [4, 5, 6, 7, 9, 9]]


def _scores(scorer, *histories):
    return scorer(np.arange(len(histories)), [np.array(history, dtype=np.int64) for history in histories])


def test_popularity_counts_training_events(prepared_of):
    prepared = prepared_of([[0, 1, 1, 2], [1, 0, 3]], 5)
    assert Popularity.fit(prepared).counts.tolist() == [1, 2, 0, 0, 0]
    np.testing.assert_array_equal(_scores(Popularity.fit(prepared), [0], [3]), [[1, 2, 0, 0, 0]] * 2)


def test_transitions_go_forward_along_the_chain(prepared_of):
    scores = _scores(Transitions.fit(prepared_of(CHAINS, 10)), [0, 1], [4], [3])
    assert scores[0].argmax() == 2  # next to both, once near, once one away
    assert np.flatnonzero(scores[1]).tolist() == [5, 6, 7]
    assert not scores[2].any()  # in training nothing follows the end of a chain


def test_transitions_equal_their_plain_twin(prepared_of):
    generator = np.random.default_rng(1)
    prepared = prepared_of([generator.integers(0, 12, size=length).tolist() for length in (30, 4, 2, 17)], 12)
    window, decay, power_from, power_to = 5, 0.7, 0.5, 0.25
    offsets, items = prepared.train_histories()
    raw, counts = np.zeros((12, 12)), np.zeros(12)
    for user in range(4):
        history = items[offsets[user] : offsets[user + 1]]
        for late in range(len(history)):
            counts[history[late]] += 1
            for early in range(max(0, late - window), late):
                raw[history[early], history[late]] += decay ** (late - early - 1)
    counts = np.maximum(counts, 1)
    history = prepared.history(0)
    expected = np.zeros(12)
    for back, row in enumerate(history[::-1][:window]):
        expected += decay**back * raw[row] / counts[row] ** power_from / counts**power_to
    fitted = Transitions.fit(prepared, window=window, decay=decay, from_power=power_from, to_power=power_to)
    np.testing.assert_allclose(_scores(fitted, history)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("double", [True, False])
def test_ease_equals_the_formula_in_float64_and_float32(prepared_of, monkeypatch, double):
    if not double:
        monkeypatch.setattr("training.baselines.FLOAT64_UP_TO", 0)
    generator = np.random.default_rng(2)
    prepared = prepared_of([generator.integers(0, 15, size=9).tolist() for _ in range(40)], 15)
    offsets, items = prepared.train_histories()
    seen = np.zeros((40, 15))
    for user in range(40):
        seen[user, items[offsets[user] : offsets[user + 1]]] = 1
    inverse = np.linalg.inv(seen.T @ seen + 3.0 * np.eye(15))
    expected = np.eye(15) - inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    ease = Ease.fit(prepared, penalty=3.0)
    assert ease.weights.dtype == (np.float64 if double else np.float32)
    np.testing.assert_allclose(ease.weights, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(_scores(ease, [1, 1, 4])[0], expected[1] + expected[4], rtol=1e-3, atol=1e-6)


def test_ease_chooses_its_penalty_on_validation(demo):
    grid = (1.0, 30.0, 3000.0)
    rows = compare({str(penalty): Ease.fit(demo, penalty=penalty) for penalty in grid}, demo, "validation")
    best = max(rows, key=lambda row: row["ndcg@10"])["scorer"]
    assert Ease.chosen(demo, grid=grid).penalty == float(best)


def test_ease_without_validation_targets_takes_the_middle(prepared_of):
    assert Ease.chosen(prepared_of([[0, 1], [1, 2]], 3), grid=(1.0, 2.0, 3.0)).penalty == 2.0


def test_transition_knn_chooses_window_and_decay_on_validation(demo):
    grid = ((1, 0.5), (4, 0.9), (10, 0.2))
    fits = {str(one): Transitions.fit(demo, window=one[0], decay=one[1]) for one in grid}
    best = max(compare(fits, demo, "validation"), key=lambda row: row["ndcg@10"])["scorer"]
    chosen = Transitions.chosen(demo, grid=grid)
    assert str((chosen.window, chosen.decay)) == best
    assert (chosen.follows != fits[best].follows).nnz == 0


def test_transition_knn_without_validation_targets_takes_the_first(prepared_of):
    chosen = Transitions.chosen(prepared_of([[0, 1], [1, 2]], 3), grid=((3, 0.5), (2, 0.8)))
    assert (chosen.window, chosen.decay) == (3, 0.5)


def test_nothing_is_fitted_on_a_validation_or_test_event(demo):
    generator = np.random.default_rng(0)
    held_out = demo.split != TRAIN
    items = demo.items.copy()
    items[held_out] = generator.integers(0, len(demo.catalogue), size=int(held_out.sum()))
    other = replace(demo, items=items)
    assert (other.items != demo.items).any()
    np.testing.assert_array_equal(Popularity.fit(demo).counts, Popularity.fit(other).counts)
    assert (Transitions.fit(demo).follows != Transitions.fit(other).follows).nnz == 0
    np.testing.assert_array_equal(Ease.fit(demo, penalty=9.0).weights, Ease.fit(other, penalty=9.0).weights)


def test_no_choice_reads_a_test_event(demo):
    items = demo.items.copy()
    items[demo.split == TEST] = 0
    other = replace(demo, items=items)
    first, second = Ease.chosen(demo), Ease.chosen(other)
    assert first.penalty == second.penalty
    np.testing.assert_array_equal(first.weights, second.weights)
    one, two = Transitions.chosen(demo), Transitions.chosen(other)
    assert (one.window, one.decay) == (two.window, two.decay)
    assert (one.follows != two.follows).nnz == 0


def test_a_recommender_and_the_baselines_have_one_row_each(demo):
    recommender = Popular(demo.catalogue, Popularity.fit(demo).counts)
    scorers = {"popular bundle": recommender_scorer(recommender)} | fit_baselines(demo)
    rows = compare(scorers, demo, "test", users=50)
    assert [row["scorer"] for row in rows] == ["popular bundle", "popularity", "transition kNN", "EASE"]
    assert rows[0] | {"scorer": ""} == rows[1] | {"scorer": ""}  # the same counts, once through the interface
    assert list(fit_baselines(demo, ease=False)) == ["popularity", "transition kNN"]
