"""What every recommender keeps, as a mixin that its test class inherits.

    class TestPopular(RecommenderContract):
        def build(self) -> Recommender: ...
        def answers_visible_by_eye(self, recommender: Recommender) -> None: ...

The toy data has two worlds of `WORLD` items each; in each world users walk a chain, item i before item i + 1, and
nobody ever crosses over. So after item 3 the right answer is item 4, and an item of the other world is plainly wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pytest

from model.catalogue import Catalogue, Item, Mask, Rows
from model.explain import LEFT_OUT, REASONS
from model.recommender import Dials, Floats, Recommender, UserTokens, best

WORLD = 12
ITEMS = 2 * WORLD


def toy_catalogue() -> Catalogue:
    """Rows 0 .. WORLD - 1 are the first world, the others the second; titles and categories say so."""
    worlds = ("harbour", "orchard")
    return Catalogue(
        Item(
            item_id=f"item-{row}",
            title=f"{worlds[row // WORLD].title()} part {row % WORLD + 1}",
            categories=(worlds[row // WORLD],),
            text=f"Part {row % WORLD + 1} of the {worlds[row // WORLD]} walk.",
        )
        for row in range(ITEMS)
    )


def toy_histories(users: int = 240, seed: int = 0) -> list[Rows]:
    """Walks of 4 to WORLD steps along one world's chain, which closes into a ring so that no item is rarer."""
    draw = np.random.default_rng(seed)
    walks = []
    for user in range(users):
        start, length = draw.integers(WORLD), draw.integers(4, WORLD + 1)
        walks.append((start + np.arange(length)) % WORLD + WORLD * (user % 2))
    return walks


def rows_of(*rows: int) -> Rows:
    return np.array(rows, dtype=np.int64)


def log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def everything() -> Mask:
    return np.ones(ITEMS, dtype=np.bool_)


HISTORIES = [rows_of(), rows_of(3), rows_of(0, 1, 2, 3), rows_of(15, 16, 17), rows_of(*range(ITEMS)), rows_of(5, 5, 5)]
AGAIN = rows_of(4, 16, 3, 4, 17, 3, 2, 16, 4)  # both worlds, items that come again, the newest among them


class RecommenderContract(ABC):
    """Inherit, name the class Test..., and give `build` and `answers_visible_by_eye`."""

    @abstractmethod
    def build(self) -> Recommender:
        """The recommender, trained on `toy_histories()` over `toy_catalogue()`. Called once a class."""

    @abstractmethod
    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        """Asserts what this recommender must answer on the toy data."""

    _built: ClassVar[Recommender]
    score_tolerance: ClassVar[float] = (
        1e-4  # between a batch and singles, and between retrieve and score: sums in another order
    )

    @pytest.fixture
    def recommender(self) -> Recommender:
        # Built once a class and kept there: training is dear, and pytest refuses class fixtures on methods.
        kind = type(self)
        if "_built" not in vars(kind):
            kind._built = self.build()
        return kind._built

    def tastes(self, recommender: Recommender, histories: list[Rows], dials: list[Dials] | None = None) -> list[Any]:
        tokens = recommender.encode(histories)
        return recommender.generate(tokens, dials or [Dials()] * len(histories))

    def answer(self, recommender: Recommender, taste: Any, eligible: Mask, k: int) -> tuple[Rows, Floats]:
        """retrieve, with everything asserted that holds of every answer."""
        kept = eligible.copy()
        rows, scores = recommender.retrieve(taste, eligible, k)
        np.testing.assert_array_equal(eligible, kept, err_msg="retrieve changed the mask it was given")
        assert rows.dtype == np.int64
        assert scores.dtype == np.float32
        assert len(rows) == len(scores) == min(k, int(eligible.sum()))
        assert eligible[rows].all(), "a row came back that may not be shown"
        assert len(set(rows.tolist())) == len(rows), "a row came back twice"
        assert (np.diff(scores) <= 0).all(), "the scores rise"
        assert np.isfinite(scores).all()
        return rows, scores

    def test_the_answer_visible_by_eye(self, recommender: Recommender) -> None:
        self.answers_visible_by_eye(recommender)

    def test_it_says_what_it_is(self, recommender: Recommender) -> None:
        assert recommender.kind
        assert len(recommender.catalogue) == ITEMS

    @pytest.mark.parametrize("explore", [0.0, 0.7])
    def test_a_batch_equals_singles(self, recommender: Recommender, explore: float) -> None:
        dials = [Dials(explore=explore, seed=seed) for seed in range(len(HISTORIES))]
        tokens = recommender.encode(HISTORIES)
        together = recommender.generate(tokens, dials)
        for position, history in enumerate(HISTORIES):
            (alone,) = recommender.encode([history])
            np.testing.assert_allclose(alone.condition, tokens[position].condition, atol=self.score_tolerance)
            np.testing.assert_allclose(alone.profile, tokens[position].profile, atol=self.score_tolerance)
            (taste,) = recommender.generate([alone], [dials[position]])
            np.testing.assert_allclose(
                recommender.score(taste), recommender.score(together[position]), atol=self.score_tolerance, rtol=1e-3
            )

    def test_an_empty_batch_is_answered_with_one(self, recommender: Recommender) -> None:
        assert list(recommender.encode([])) == []
        assert list(recommender.generate([], [])) == []

    def test_tokens_and_dials_must_be_as_many(self, recommender: Recommender) -> None:
        with pytest.raises(ValueError, match=r"2 user tokens.*1 dials"):
            recommender.generate(recommender.encode(HISTORIES[:2]), [Dials()])

    @pytest.mark.parametrize("dials", [Dials(), Dials(explore=0.8, seed=11)])
    def test_the_same_tokens_and_dials_give_the_same_taste(self, recommender: Recommender, dials: Dials) -> None:
        tokens = recommender.encode(HISTORIES)
        first = recommender.generate(tokens, [dials] * len(tokens))
        np.random.default_rng().standard_normal(7)
        second = recommender.generate(tokens, [dials] * len(tokens))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(recommender.score(one), recommender.score(other))

    def test_the_same_seed_gives_the_same_list_alone_or_in_a_batch(self, recommender: Recommender) -> None:
        asked = [(history, Dials(explore=0.7, seed=seed)) for seed in (7, 0) for history in [*HISTORIES, HISTORIES[1]]]
        histories, dials = map(list, zip(*asked, strict=True))
        together = [
            self.answer(recommender, one, everything(), 10)[0] for one in self.tastes(recommender, histories, dials)
        ]
        for (history, dial), listed in zip(asked, together, strict=True):
            alone, _ = recommender.recommend(history, 10, seen=rows_of(), dials=dial)
            assert listed.tolist() == alone.tolist()

    def test_user_tokens_survive_the_cache(self, recommender: Recommender) -> None:
        tokens = recommender.encode(HISTORIES)
        cached = [UserTokens.from_bytes(token.to_bytes()) for token in tokens]
        dials = [Dials(explore=0.5, seed=3)] * len(tokens)
        for one, other in zip(recommender.generate(tokens, dials), recommender.generate(cached, dials), strict=True):
            np.testing.assert_array_equal(recommender.score(one), recommender.score(other))

    @pytest.mark.parametrize("k", [0, 1, 5, ITEMS, 10 * ITEMS])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
    def test_never_an_ineligible_row_and_never_fewer_than_there_are(
        self, recommender: Recommender, k: int, share: float
    ) -> None:
        eligible = np.random.default_rng(k).random(ITEMS) < share
        for taste in self.tastes(recommender, HISTORIES):
            self.answer(recommender, taste, eligible, k)

    @pytest.mark.parametrize("explore", [0.0, 1.0])
    def test_retrieve_agrees_with_the_best_of_score(self, recommender: Recommender, explore: float) -> None:
        eligible = everything()
        eligible[::5] = False
        dials = [Dials(explore=explore, seed=n) for n in range(len(HISTORIES))]
        for taste in self.tastes(recommender, HISTORIES, dials):
            scores = recommender.score(taste)
            assert scores.shape == (ITEMS,)
            assert scores.dtype == np.float32
            rows, found = self.answer(recommender, taste, eligible, 7)
            _, expected = best(scores, eligible, 7)
            np.testing.assert_allclose(found, expected, atol=self.score_tolerance, rtol=1e-3)
            # Each row's own score: where two items tie within rounding, their order is free.
            np.testing.assert_allclose(scores[rows], expected, atol=self.score_tolerance, rtol=1e-3)

    def test_what_was_seen_is_never_recommended(self, recommender: Recommender) -> None:
        for history in HISTORIES:
            rows, _ = recommender.recommend(history, k=ITEMS)
            assert set(rows.tolist()) == set(range(ITEMS)) - set(history.tolist())
        rows, _ = recommender.recommend(rows_of(1), k=ITEMS, seen=rows_of(1, 2, 3))
        assert set(rows.tolist()) == set(range(ITEMS)) - {1, 2, 3}
        only = np.zeros(ITEMS, dtype=np.bool_)
        only[[4, 5]] = True
        rows, _ = recommender.recommend(rows_of(4), k=ITEMS, eligible=only)
        assert rows.tolist() == [5]
        assert only.sum() == 2, "recommend changed the mask it was given"

    def test_a_stranger_gets_an_answer(self, recommender: Recommender) -> None:
        rows, _ = recommender.recommend(rows_of(), k=5)
        assert len(rows) == 5

    @pytest.mark.parametrize("length", [1, 5000])
    def test_a_history_of_any_length_is_read_and_left_alone(self, recommender: Recommender, length: int) -> None:
        history = np.arange(length, dtype=np.int64) % WORLD
        kept = history.copy()
        history.flags.writeable = False
        (token,) = recommender.encode([history])
        assert np.isfinite(token.condition).all()
        assert np.isfinite(token.profile).all()
        (taste,) = recommender.generate([token], [Dials()])
        self.answer(recommender, taste, everything(), 5)
        np.testing.assert_array_equal(history, kept)

    def test_user_tokens_are_float32_vectors_of_one_size(self, recommender: Recommender) -> None:
        tokens = recommender.encode([*HISTORIES, np.arange(5000) % ITEMS])
        assert {token.condition.dtype for token in tokens} == {np.dtype(np.float32)}
        assert {token.profile.dtype for token in tokens} == {np.dtype(np.float32)}
        assert len({token.condition.shape for token in tokens}) == 1
        assert len({token.profile.shape for token in tokens} - {(0,)}) <= 1, "a profile is absent or of one length"

    @pytest.mark.parametrize("explore", [0.0, 0.4, 1.0])
    def test_a_trace_is_whole_or_none(self, recommender: Recommender, explore: float) -> None:
        dials = [Dials(explore=explore, seed=seed) for seed in range(len(HISTORIES))]
        traces = recommender.trace(recommender.encode(HISTORIES), dials)
        vectors = recommender.unit_vectors(np.arange(ITEMS))
        if traces is None:
            return
        assert len(traces) == len(HISTORIES)
        for walks in traces:
            assert sum(walk.share for walk in walks) == pytest.approx(1)
            for walk in walks:
                assert walk.times[0] == 1
                assert sorted(walk.times, reverse=True) == list(walk.times)
                assert walk.steps.shape == (len(walk.times), vectors.shape[1])
                assert walk.steps.dtype == vectors.dtype == np.float32
                assert np.isfinite(walk.steps).all()

    @pytest.mark.parametrize("rows", [rows_of(), rows_of(3), rows_of(3, 14, 3)])
    def test_neighbours_obey_the_filter(self, recommender: Recommender, rows: Rows) -> None:
        eligible = everything()
        eligible[[0, 4, 20]] = False
        for k in (0, 4, ITEMS, 3 * ITEMS):
            found, scores = recommender.neighbours(rows, eligible, k)
            assert found.dtype == np.int64
            assert scores.dtype == np.float32
            assert len(found) == len(scores) == min(k, int(eligible.sum()))
            assert eligible[found].all()
            assert len(set(found.tolist())) == len(found)
            assert (np.diff(scores) <= 0).all()
        assert len(recommender.neighbours(rows, np.zeros(ITEMS, dtype=np.bool_), 4)[0]) == 0

    # ------------------------------------------------------------------------------------------------------------
    # New items, likeness, reasons

    def test_a_new_item_comes_behind_the_others_and_can_be_found(self, recommender: Recommender) -> None:
        grown = recommender.with_items([Item("new", "Harbour part 13", ("harbour", "fresh"), "Part 13 of the walk.")])
        assert len(grown.catalogue) == ITEMS + 1
        assert grown.catalogue.row("new") == ITEMS
        assert grown.catalogue.ids(range(ITEMS)) == recommender.catalogue.ids(range(ITEMS))
        assert np.flatnonzero(grown.catalogue.in_categories(["fresh"])).tolist() == [ITEMS]
        only = np.zeros(ITEMS + 1, dtype=np.bool_)
        only[ITEMS] = True
        every = np.ones(ITEMS + 1, dtype=np.bool_)
        for taste in self.tastes(grown, HISTORIES):
            assert grown.retrieve(taste, only, 5)[0].tolist() == [ITEMS]
            assert np.isfinite(grown.score(taste)).all()
            assert sorted(grown.retrieve(taste, every, ITEMS + 1)[0].tolist()) == list(range(ITEMS + 1))
        assert recommender.catalogue.row("new") is None, "the first recommender stays as it is"
        assert grown.neighbours(rows_of(3), only, 1)[0].tolist() == [ITEMS]
        tokens = grown.encode([rows_of(3, ITEMS)])
        assert np.isfinite(grown.score(grown.generate(tokens, [Dials()])[0])).all(), "and it may be in a history"

    def test_a_known_item_keeps_its_row_and_what_was_learnt_of_it(self, recommender: Recommender) -> None:
        changed = recommender.with_items([Item("item-5", "Renamed", ("harbour", "sale"), "Another text altogether.")])
        assert len(changed.catalogue) == ITEMS
        assert changed.catalogue[5] == Item("item-5", "Renamed", ("harbour", "sale"), "Another text altogether.")
        assert recommender.catalogue[5].title == "Harbour part 6"
        pairs = zip(self.tastes(recommender, HISTORIES), self.tastes(changed, HISTORIES), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(recommender.score(one), changed.score(other))

    def test_items_one_by_one_are_items_all_at_once(self, recommender: Recommender) -> None:
        new = [Item(f"new-{n}", f"Orchard part {20 + n}", ("orchard",), f"Part {20 + n} of it.") for n in range(5)]
        new[3] = Item("new-1", "Again", ("harbour",), "The same id, another text.")
        grown = recommender
        for item in new:
            grown = grown.with_items([item])
        at_once = recommender.with_items(new)
        assert list(grown.catalogue) == list(at_once.catalogue)
        assert grown.catalogue.categories == at_once.catalogue.categories
        for one, other in zip(self.tastes(grown, HISTORIES), self.tastes(at_once, HISTORIES), strict=True):
            np.testing.assert_allclose(grown.score(one), at_once.score(other), atol=1e-5)
        assert recommender.with_items([]).catalogue.ids(range(ITEMS)) == recommender.catalogue.ids(range(ITEMS))

    def test_scores_of_rows_are_rows_of_the_scores(self, recommender: Recommender) -> None:
        for taste in self.tastes(recommender, HISTORIES):
            some = rows_of(7, 0, 23, 7)
            np.testing.assert_allclose(
                recommender.score_rows(taste, some), recommender.score(taste)[some], atol=1e-5, rtol=1e-5
            )

    def test_less_the_partition_scores_are_log_probabilities(self, recommender: Recommender) -> None:
        for taste in self.tastes(recommender, HISTORIES):
            scores = recommender.score(taste)
            np.testing.assert_allclose(scores - recommender.log_partition(taste), log_softmax(scores), atol=1e-3)

    def test_unit_vectors_are_unit_vectors(self, recommender: Recommender) -> None:
        vectors = recommender.unit_vectors(rows_of(0, 5, 13))
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert recommender.unit_vectors(rows_of()).shape == (0, vectors.shape[1])

    def test_similar_leaves_the_item_itself_out_and_obeys_the_filter(self, recommender: Recommender) -> None:
        eligible = everything()
        eligible[4] = False
        rows, scores = recommender.similar(3, eligible, ITEMS)
        assert set(rows.tolist()) == set(range(ITEMS)) - {3, 4}
        assert (np.diff(scores) <= 0).all()
        assert eligible[3], "similar changed the mask it was given"

    @pytest.mark.parametrize("history", HISTORIES, ids=len)
    def test_leaving_out_what_is_named_lowers_the_probability(self, recommender: Recommender, history: Rows) -> None:
        rows, _ = recommender.recommend(history, 4, seen=rows_of())
        explanation = recommender.explain(history, rows)
        assert len(explanation.because) == len(rows)
        (taste,) = self.tastes(recommender, [history])
        for row, reasons in zip(rows, explanation.because, strict=True):
            falls = [fall for _, fall in reasons]
            assert falls == sorted(falls, reverse=True)
            for named, fall in reasons:
                assert named in history
                (without,) = self.tastes(recommender, [history[history != named]])
                before, after = (log_softmax(recommender.score(one))[row] for one in (taste, without))
                measured = float(before - after)
                assert measured == pytest.approx(fall, abs=1e-3)
                assert fall > 0
        for _, probability in explanation.categories:
            assert 0 <= probability <= 1 + 1e-5

    @pytest.mark.parametrize("history", [*HISTORIES, AGAIN], ids=len)
    def test_nothing_that_is_not_named_matters_more(self, recommender: Recommender, history: Rows) -> None:
        """Of a history no longer than what is tried. An item that comes again is left out wherever it stands."""
        distinct = np.unique(history)
        assert len(distinct) <= LEFT_OUT
        rows, _ = recommender.recommend(history, 4, seen=rows_of())
        whole, *without = [
            log_softmax(recommender.score(self.tastes(recommender, [left])[0]))[rows]
            for left in (history, *(history[history != row] for row in distinct))
        ]
        for place, reasons in enumerate(recommender.explain(history, rows).because):
            falls = {int(row): float(whole[place] - one[place]) for row, one in zip(distinct, without, strict=True)}
            named = [falls.pop(row) for row, _ in reasons]
            # Fewer are named only where no other lowers it at all.
            least = named[-1] if len(named) == REASONS else 0
            assert max(falls.values(), default=0) <= least + 2e-3, "either side is rounded as in the test above"

    @pytest.mark.parametrize("history", HISTORIES, ids=len)
    def test_categories_are_the_catalogues_and_as_probable_as_their_items(
        self, recommender: Recommender, history: Rows
    ) -> None:
        rows, _ = recommender.recommend(history, 4, seen=rows_of())
        explanation = recommender.explain(history, rows)
        (taste,) = self.tastes(recommender, [history])
        probabilities = np.exp(log_softmax(recommender.score(taste)))
        names = [name for name, _ in explanation.categories]
        assert len(set(names)) == len(names)
        assert set(names) <= set(recommender.catalogue.categories)
        assert names or not any(explanation.because), "there are reasons but no categories"
        for name, probability in explanation.categories:
            of_it = recommender.catalogue.in_categories([name])
            assert probability == pytest.approx(probabilities[of_it].sum(), abs=1e-3)
