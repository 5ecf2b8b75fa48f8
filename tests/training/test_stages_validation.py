"""How much of an expert is taken, on users whose ranks are known."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate import Metrics
from training.stages.validation import FEWEST, best_weight, lead_over

USERS = 400


def ranked(*first: range) -> Metrics:
    """These users find their target in the first place, the rest in none of the first ten."""
    ranks = np.full(USERS, 50, dtype=np.int64)
    for some in first:
        ranks[some] = 1
    return Metrics("validation", np.arange(USERS), ranks, ranks, coverage=0.5)


@pytest.mark.parametrize(("gained", "lost", "taken"), [(5, 10, False), (0, 0, False), (8, 8, False), (10, 8, True)])
def test_an_expert_is_taken_where_it_gains(gained: int, lost: int, taken: bool) -> None:
    """Surely or not: the interval of each of these reaches below zero."""
    mean = (gained - lost) / USERS
    found = {0.5: ranked(range(lost, 100 + gained)), 1.0: ranked(range(50))}
    weight, tried, lead = best_weight(found, ranked(range(100)))
    assert weight == (0.5 if taken else 0.0)
    assert tried == {"0": 0.25, "0.5": pytest.approx(0.25 + mean), "1": 0.125}
    assert lead[0] == pytest.approx(mean)
    assert lead[1] <= 0 <= lead[2]


def test_the_best_of_several_weights_is_taken() -> None:
    found = {weight: ranked(range(first)) for weight, first in ((0.25, 120), (0.5, 140), (1.0, 130))}
    assert best_weight(found, ranked(range(100)))[0] == 0.5


def test_few_users_lead_nobody() -> None:
    """The bootstrap of one who gained has no width, and would be sure."""

    def of(users: int, rank: int) -> Metrics:
        ranks = np.full(users, rank, dtype=np.int64)
        return Metrics("validation", np.arange(users), ranks, ranks, coverage=0.5)

    for users in (0, 1, FEWEST - 1):
        assert lead_over(of(users, 1), of(users, 50)) is None
    assert lead_over(of(FEWEST, 1), of(FEWEST, 50)) == (1.0, 1.0, 1.0)
