"""Cleaning: what is left out is counted, what was disliked is kept apart, and ties fall as they were asked to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from model.catalogue import Catalogue, Item
from training.data.clean import Cleaning, clean
from training.data.prepare import prepare
from training.data.prepared import TEST, TRAIN, VALIDATION, DataError, Negatives, Prepared
from training.data.rows import DISLIKE_BELOW, TYPES, UNTYPED, Interactions, Numbers

HEADER = "user_id,item_id,timestamp,rating,type"


def _rows(rows) -> Interactions:
    """From (user, item, seconds, value) tuples."""
    users, items = Numbers(), Numbers()
    user, item, seconds, values = zip(*rows, strict=True)
    numbers = users(user), items(item)
    types = np.full(len(rows), UNTYPED, dtype=np.int8)
    return Interactions(
        users.strings(),
        items.strings(),
        *numbers,
        np.array(seconds, dtype=np.float64),
        np.array(values, dtype=np.float32),
        types,
        read=len(rows),
    )


def _told(rows: Interactions, events) -> list[tuple[str, str, int, float]]:
    named = zip(events.users, events.items, events.times.tolist(), events.values.tolist(), strict=True)
    return [(rows.user_ids[user], rows.item_ids[item], time, value) for user, item, time, value in named]


@pytest.fixture
def bring(tmp_path):
    """Prepares rows of CSV text."""

    def bring(*rows: str, items: str | None = None, split: str = "leave-one-out", **cleaning) -> Prepared:
        (tmp_path / "x.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        table = None
        if items is not None:
            table = tmp_path / "items.csv"
            table.write_text(items)
        only = cleaning.pop("only_interacted", False)
        return prepare(
            *("table", tmp_path / "x.csv", tmp_path / "out"),
            items=table,
            split=split,
            cleaning=Cleaning(**cleaning),
            only_interacted=only,
        )

    return bring


def _plain(rows, threshold, min_user, min_item, once):
    """Everything again, row by row."""
    liked = [row for row in rows if not row[3] < threshold]
    kept, met = [], set()
    for row in sorted(liked, key=lambda row: row[2]):  # stable
        key = row[:2] if once else (*row[:2], int(row[2]))
        if key not in met:
            met.add(key)
            kept.append(row)
    while True:
        users, items = Counter(row[0] for row in kept), Counter(row[1] for row in kept)
        left = [row for row in kept if users[row[0]] >= min_user and items[row[1]] >= min_item]
        if len(left) == len(kept):
            break
        kept = left
    order = {user: at for at, user in enumerate(dict.fromkeys(row[0] for row in rows))}
    return [(u, i, int(s), v) for u, i, s, v in sorted(kept, key=lambda row: order[row[0]])]


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(("min_user", "min_item"), [(1, 1), (4, 1), (3, 3), (6, 5)])
def test_it_takes_what_the_plain_twin_takes(once, min_user, min_item):
    rng = np.random.default_rng(min_user)
    drawn = [
        (f"u{u}", f"i{i}", s / 4, float(v))
        for u, i, s, v in zip(
            rng.integers(0, 30, 600), rng.integers(0, 40, 600), rng.integers(0, 60, 600), rng.integers(1, 6, 600),
            strict=True,
        )
    ]  # fmt: skip
    rows = _rows(drawn)
    cleaned = clean(rows, Cleaning(2, min_user, min_item, once))
    expected = _plain(drawn, 2, min_user, min_item, once)
    assert len(expected) > 50
    assert _told(rows, cleaned.events) == expected
    counts = cleaned.counts
    assert counts["duplicates_dropped"] > 0
    liked = sum(row[3] >= 2 for row in drawn)
    assert liked - counts["duplicates_dropped"] - counts["events_dropped_with_them"] == len(expected)


def test_ties_keep_the_order_of_the_file_or_are_shuffled_by_seed():
    rows = _rows([("u", "late", 9, 1), *(("u", f"i{n:02}", 5, 1) for n in range(30)), ("u", "early", 1, 1)])
    told = [item for _, item, _, _ in _told(rows, clean(rows, Cleaning()).events)]
    assert told == ["early", *(f"i{n:02}" for n in range(30)), "late"]

    def shuffled(seed):
        events = clean(rows, Cleaning(ties="shuffle", seed=seed)).events
        return [item for _, item, _, _ in _told(rows, events)]

    assert shuffled(1) == shuffled(1) != shuffled(2) != told
    assert sorted(shuffled(1)) == sorted(told)
    assert (shuffled(1)[0], shuffled(1)[-1]) == ("early", "late")


def test_the_first_of_repeated_rows_stays_even_when_ties_are_shuffled():
    rows = _rows([("u", "a", 5, 3), ("u", "a", 5, 1), ("u", "b", 5, 1)])
    for seed in range(5):
        assert sorted(_told(rows, clean(rows, Cleaning(ties="shuffle", seed=seed)).events)) == [
            ("u", "a", 5, 3.0),
            ("u", "b", 5, 1.0),
        ]


def test_low_ratings_and_dislikes_are_true_negatives_of_the_part_they_lie_in(bring):
    prepared = bring(
        "u,bad,5,2,rating",
        "u,a,10,5,rating",
        "u,hated,15,,dislike",
        "u,b,20,4,rating",
        "u,c,30,,click",  # the validation target
        "u,worse,30,1,rating",  # at its very time: not before it
        "u,d,40,4,rating",  # the test target
        "u,worst,50,1,rating",
        "v,hated,1,1,rating",  # a user with nothing else
        items="item_id\nbad\nhated\nworse\nworst\n",
        threshold=4,
    )
    assert prepared.users == ("u",)
    assert prepared.catalogue.ids(prepared.history(0)) == ["a", "b", "c", "d"]
    negatives = prepared.negatives
    assert negatives is not None
    assert prepared.catalogue.ids(negatives.items) == ["bad", "hated", "worse", "worst"]
    assert negatives.split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST]
    assert negatives.times.tolist() == [5, 15, 30, 50]
    np.testing.assert_array_equal(negatives.values, np.array([2, np.nan, 1, 1], dtype=np.float32))
    offsets, items = prepared.train_negatives()
    assert (offsets.tolist(), prepared.catalogue.ids(items)) == ([0, 2], ["bad", "hated"])
    offsets, items = prepared.later_negatives()
    assert (offsets.tolist(), prepared.catalogue.ids(items)) == ([0, 2], ["worse", "worst"])
    facts = prepared.facts
    assert (facts["counts"]["negatives"], facts["counts"]["train_negatives"]) == (4, 2)
    assert facts["cleaning"]["true_negatives"] == 5
    assert facts["cleaning"]["threshold"] == 4


def test_negatives_follow_the_cuts_of_a_split_by_time(bring):
    start, day = 1_600_000_000, 86_400
    rows = [f"u{n % 3},i{n},{start + n * day},5," for n in range(100)]
    low = [f"u0,i{n},{start + n * day + 1},1," for n in (10, 79, 80, 85, 95)]
    prepared = bring(*rows, *low, split="time", threshold=3)
    assert prepared.negatives is not None
    assert prepared.negatives.split.tolist() == [TRAIN, TRAIN, VALIDATION, VALIDATION, TEST]


def test_a_negative_that_the_user_also_trains_on_is_no_train_negative(bring):
    rows = ["u,a,1,5,", "u,b,2,5,", "u,c,3,5,", "u,d,4,5,", "v,a,1,5,", "v,b,2,1,"]
    prepared = bring(*rows, "u,a,1,1,", "u,d,1,1,", threshold=3)
    offsets, items = prepared.train_negatives()
    assert prepared.negatives is not None
    assert prepared.catalogue.ids(prepared.negatives.items) == ["a", "d", "b"]
    # d is u's test target: leaving it out here would tell what the test holds
    assert (offsets.tolist(), prepared.catalogue.ids(items)) == ([0, 1, 2], ["d", "b"])


def test_a_later_negative_is_one_that_training_and_the_user_said_nothing_else_about():
    """u meets 0..3 (3 is the test's target), v meets 0..2."""
    negatives = Negatives(
        np.array([0, 6, 8], dtype=np.int64),
        np.array([4, 5, 5, 3, 0, 6, 4, 3], dtype=np.int32),
        np.arange(8, dtype=np.int64),
        np.full(8, np.nan, dtype=np.float32),
        np.array([TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST, VALIDATION, TEST], dtype=np.int8),
    )
    prepared = Prepared(
        Catalogue(Item(f"i{n}", f"I{n}") for n in range(7)),
        ("u", "v"),
        np.array([0, 4, 7], dtype=np.int64),
        np.array([0, 1, 2, 3, 0, 1, 2], dtype=np.int32),
        np.arange(7, dtype=np.int64),
        np.full(7, np.nan, dtype=np.float32),
        np.array([TRAIN, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST], dtype=np.int8),
        negatives=negatives,
    )
    offsets, items = prepared.later_negatives()
    # Of u's: 5 was disliked in training as well, 3 and 0 are liked. v's are their own.
    assert (offsets.tolist(), items.tolist()) == ([0, 1, 3], [6, 4, 3])


def test_negatives_of_items_that_nobody_describes_or_likes_are_left_out(bring):
    prepared = bring("u,a,1,5,", "u,b,2,5,", "u,unknown,2,1,", threshold=3)
    assert prepared.negatives is None
    assert prepared.train_negatives()[0].tolist() == [0, 0]
    assert prepared.later_negatives()[0].tolist() == [0, 0]
    assert [item.item_id for item in prepared.catalogue] == ["a", "b"]


def test_negatives_are_written_read_and_fingerprinted(bring, tmp_path):
    prepared = bring("u,a,1,5,", "u,b,2,5,", "v,a,3,5,", "v,b,4,2,", threshold=3)
    again = Prepared.read(tmp_path / "out")
    assert again.negatives is not None
    assert prepared.negatives is not None
    for name in ("offsets", "items", "times", "values", "split"):
        np.testing.assert_array_equal(getattr(again.negatives, name), getattr(prepared.negatives, name))
    assert again.fingerprint == prepared.fingerprint != replace(prepared, negatives=None).fingerprint
    broken = replace(prepared.negatives, offsets=np.array([0, 0, 2]))
    with pytest.raises(DataError, match="negative_offsets must rise from 0 to the number of events, 1"):
        replace(prepared, negatives=broken)
    with pytest.raises(DataError, match="negative_split has 0 entries for 1 events"):
        replace(prepared, negatives=replace(prepared.negatives, split=np.zeros(0, np.int8)))
    with pytest.raises(DataError, match="outside the catalogue"):
        replace(prepared, negatives=replace(prepared.negatives, items=np.array([2], np.int32)))
    assert isinstance(broken, Negatives)


def test_a_row_without_a_rating_is_no_negative_and_other_types_are_events(bring):
    prepared = bring("u,a,1,,", "u,b,2,,purchase", "u,c,3,,like", threshold=5)
    assert prepared.catalogue.ids(prepared.history(0)) == ["a", "b", "c"]


def test_a_rating_below_three_is_a_dislike_where_it_is_called_one(bring):
    """As in the service, whose exports training reads. A value that nothing calls a rating may be seconds or pieces."""
    rows = ["u,a,1,5,rating", "u,b,2,2.5,rating", "u,c,3,3,rating", "u,d,4,1,view", "u,e,5,1,", "v,b,1,,like"]
    prepared = bring(*rows)
    assert prepared.catalogue.ids(prepared.history(0)) == ["a", "c", "d", "e"]
    assert prepared.negatives is not None
    assert prepared.catalogue.ids(prepared.negatives.items) == ["b"]
    given = bring(*rows, threshold=2)
    assert given.catalogue.ids(given.history(0)) == ["a", "b", "c"], "what is given counts instead, of every row"


def test_an_unknown_type_is_rejected_by_line(bring):
    prepared = bring("u,a,1,,stare", "u,b,2,,view")
    assert prepared.facts["cleaning"]["first_rejected"] == ["line 2: type 'stare' is none of " + ", ".join(TYPES)]


def test_the_core_leaves_items_out_of_the_catalogue_only_where_nothing_describes_them(bring):
    rows = ["u,a,1,,", "u,b,2,,", "v,a,1,,", "v,b,2,,", "v,rare,3,,", "w,rare2,1,,"]
    prepared = bring(*rows, min_user=2, min_item=2)
    assert [item.item_id for item in prepared.catalogue] == ["a", "b"]
    cleaning = prepared.facts["cleaning"]
    assert (cleaning["users_dropped"], cleaning["items_dropped"], cleaning["events_dropped_with_them"]) == (1, 2, 2)
    items = "item_id\na\nb\nrare\n"
    assert len(bring(*rows, items=items, min_user=2, min_item=2).catalogue) == 3
    assert len(bring(*rows, items=items, min_user=2, min_item=2, only_interacted=True).catalogue) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ties": "random"}, "ties must be one of file, shuffle, not 'random'"),
        ({"min_item": 0}, "min_user and min_item must be 1 or more"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"threshold": 6}, "every rating lies below the threshold 6"),
        ({"min_user": 2, "min_item": 9}, "no user has min_user = 2 and no item min_item = 9 events or more"),
    ],
)
def test_impossible_cleaning_is_refused(bring, options, says):
    with pytest.raises(DataError, match=says):
        bring("u,a,1,5,", "u,b,2,5,", **options)


def test_the_types_are_those_of_the_service():
    from typing import get_args

    from service.schemas import EventType
    from service.stores.contract import DISLIKE_BELOW as IN_THE_SERVICE

    assert get_args(EventType) == TYPES
    assert DISLIKE_BELOW == IN_THE_SERVICE
