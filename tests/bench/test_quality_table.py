"""bench/quality: cells are kept whole, compared user by user, and a page is made of whatever is there."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from bench.quality import __main__ as command
from bench.quality import cells, graph, models, neural, page, sets, tuning
from model import load_recommender
from model.continuous.transitions import WithTransitions
from model.recommender import Dials
from tests.contracts.recommender_contract import HISTORIES
from tests.model.fitted import fitted, toy_prepared
from training.data.prepare import prepare
from training.data.synthetic import Sizes
from training.evaluate import Metrics
from training.stages.transitions import fit_transitions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def _cell(model: str, ranks: str, seed: int = 0) -> cells.Cell:
    found = [cells._MARKS.index(mark) + 1 if mark != "." else 99 for mark in ranks]
    rank_array = np.array(found, dtype=np.int64)
    metrics = Metrics("test", np.arange(len(ranks)), rank_array, rank_array, 0.5)
    return cells.Cell("beauty", model, seed, metrics.as_dict(), 0.1, {"a": 1}, 10, 1.5, "command", cells.marks(metrics))


def test_a_cell_comes_back_as_it_was_written(results: Path) -> None:
    cell = _cell("sasrec-ce", "1.A.2")
    assert cells.write(cell) == results / "beauty" / "sasrec-ce" / "0.json"
    assert cells.read_all(results) == [cell]
    assert cell.metrics["ndcg@10"] == pytest.approx(cell.user_ndcg().mean())


def test_a_cell_from_before_commits_were_kept_is_read(results: Path) -> None:
    path = cells.write(_cell("sasrec-ce", "1.A.2"))
    record = json.loads(path.read_text())
    del record["commit"]
    path.write_text(json.dumps(record))
    assert cells.read_all(results) == [_cell("sasrec-ce", "1.A.2")]


def test_a_commit_is_marked_where_code_has_changed_since_and_not_where_results_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_ROOT", tmp_path)
    assert cells.commit() == ""  # no checkout
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "a.py").write_text("one = 1\n")
    (tmp_path / "result.json").write_text("{}\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert cells.commit()
    assert head.startswith(cells.commit())
    (tmp_path / "result.json").write_text("[]\n")
    assert head.startswith(cells.commit())
    (tmp_path / "a.py").write_text("one = 2\n")
    assert cells.commit().endswith("+")


def test_the_interval_is_over_users_and_over_the_mean_of_seeds() -> None:
    better = [_cell("a", "1" * 400 + "." * 400), _cell("a", "1" * 400 + "." * 400, seed=1)]
    worse = [_cell("b", "1" * 100 + "." * 700)]
    mean, low, high = cells.compare(better, worse)
    assert mean == pytest.approx(300 / 800)
    assert 0.3 < low < mean < high < 0.45
    assert cells.compare(better, better) == (0.0, 0.0, 0.0)


def test_the_page_shows_every_cell_and_its_lead(tmp_path: Path) -> None:
    found = [_cell("sasrec-ce", "1..."), _cell("contrec", "11.."), _cell("contrec", "1.2.", seed=1)]
    found[1] = replace(found[1], commit="abc1234")
    page.write_page(found, tmp_path)
    text = (tmp_path / "table.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| contrec")]
    assert "| 0, 1 |" in line
    assert "± " in line
    assert "| abc1234, older |" in line, "one of its two seeds names none"
    assert " % (" in line
    assert "contrec" in (tmp_path / "beauty.svg").read_text()


def test_the_longest_name_begins_within_the_plot() -> None:
    name = "id-text-transition-ensemble-unseen"
    drawn = page.plot({name: [_cell(name, "12..")], "ease": [_cell("ease", "1...")]}, "a set")
    ends = float(re.search(rf'<text x="([\d.]+)"[^>]*text-anchor="end">{name}', drawn)[1])  # type: ignore[index]
    assert ends >= 6.5 * len(name)  # of 13 pixels a letter of these names is 6.4 wide on average


def test_parts_and_ablations_stand_apart_against_the_trunk_alone(tmp_path: Path) -> None:
    found = [
        *(_cell("sasrec-ce", "1..." * 50), _cell("contrec", "11.." * 50), _cell("contrec-trunk-only", "1..." * 50)),
        *(_cell("contrec-mixture-half", "1.3." * 50), _cell("contrec-one-sample", "1..." * 50)),
        replace(_cell("contrec-without-norm", "...." * 50), milliseconds={"history": 4.25, "list": 1.5}),
    ]
    page.write_page(found, tmp_path, tmp_path)
    text = (tmp_path / "table.md").read_text()
    whole, parts, guards = text.split("## Amazon Beauty")[1].split("\n### ")
    assert "| contrec |" in whole
    assert "contrec-mixture-half |" not in whole
    assert "against contrec-trunk-only" in parts
    assert "surely above the trunk alone (an interval over users, not over seeds): contrec-mixture-half." in parts
    assert guards.count("| contrec-trunk-only |") == 1, "what the others are compared with stands first"
    assert "| -100.0 % (" in guards
    assert "| 4.2, 1.5 |" in guards
    assert "surely" not in guards


def test_a_part_is_compared_with_the_trunk_of_its_own_bundle(tmp_path: Path) -> None:
    """Seed 1's mixture with seed 1's trunk, DeftRec's with DeftRec's: another trunk is another model."""
    found = [
        *(_cell("contrec-trunk-only", "...." * 50), _cell("contrec-trunk-only", "1..." * 50, seed=1)),
        _cell("contrec-mixture-half", "1..." * 50, seed=1),
        *(_cell("deftrec-without-transitions", "1..." * 50), _cell("deftrec-mixture-half", "1..." * 50)),
    ]
    page.write_page(found, tmp_path, tmp_path)
    text = (tmp_path / "table.md").read_text()
    (ours,) = [line for line in text.splitlines() if line.startswith("| contrec-mixture-half")]
    assert ours.endswith("| +0.0 % (+0.0 to +0.0) |")
    (theirs,) = [line for line in text.splitlines() if line.startswith("| deftrec-mixture-half")]
    assert theirs.endswith("| +0.0 % (+0.0 to +0.0) |")
    assert text.count("surely above the trunk alone (an interval over users, not over seeds): none.") == 2


@pytest.mark.parametrize(
    ("configuration", "notes", "edge"),
    [
        ({}, {}, False),
        ({"weight": 1.0, "tried": {"0.5": 0.1, "1.0": 0.2}}, {}, True),
        ({"weight": 0.5, "tried": {"0.5": 0.2, "1.0": 0.1}}, {}, False),
        (
            {
                "weight": 0.5,
                "tried": {"0.5": 0.2, "1.0": 0.1},
                "transitions": {"weight": 2, "tried": {"2": 0.3, "1": 0.2}},
            },
            {},
            True,
        ),
        ({"alpha": 1.0, "transitions": 0.5}, {"text_half_fit": {"tried": {"0": 0.1, "1": 0.2}}}, True),
        ({"alpha": 0.0, "transitions": 0.5}, {"text_half_fit": {"tried": {"0": 0.2, "1": 0.1}}}, False),
        ({"alpha": 0.0, "transitions": 1.0}, {"transitions_fit": {"tried": {"0": 0.1, "1": 0.2}}}, True),
        ({"lambda": 0.0, "transitions": 1.0, "tried": {"0": 0.1, "1": 0.2}}, {}, True),
        ({"lambda": 0.0, "transitions": 0.0, "tried": {"0": 0.1}}, {}, False),
    ],
)
def test_the_page_says_where_a_greater_weight_may_be_better(
    tmp_path: Path, configuration: dict[str, Any], notes: dict[str, Any], edge: bool
) -> None:
    cell = replace(_cell("contrec", "1.2."), configuration=configuration, notes=notes)
    assert page.at_the_edge(cell) is edge
    page.write_page([cell, _cell("ease", "1...")], tmp_path, tmp_path)
    assert ("may be better: contrec.\n" in (tmp_path / "table.md").read_text()) is edge


def test_the_page_of_this_checkout_is_made_of_its_cells(tmp_path: Path) -> None:
    page.write_page(cells.read_all(page.RESULTS), tmp_path)
    made, kept = ((folder / "table.md").read_text().splitlines() for folder in (tmp_path, ROOT / page.FOLDER))
    # Rows stand in the order in which their modules were imported, which other tests decide.
    assert sorted(made) == sorted(kept), "python -m bench.quality page"


def test_a_name_that_is_not_in_the_table_is_refused_before_anything_runs() -> None:
    with pytest.raises(SystemExit, match="'popularitty' is no set and no model"):
        command.run_missing(["beauty"], ["popularitty"], None)


QUICK = (
    "tokenizer.epochs=2",
    "tokenizer.hidden=16",
    "trunk.width=32",
    "trunk.layers=1",
    "trunk.heads=2",
    "trunk.feed_forward=32",
    "trunk.max_history=20",
    "trunk.epochs=2",
    "trunk.warmup_steps=5",
    "head.hidden=16",
    "head.epochs=1",
    "head.steps_per_epoch=5",
    "text_half.epochs=6",
    "text_half.dropout=0.0",
    "text_half.weights=[0.5]",
)


@pytest.fixture
def toy_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic world as a set of the table."""
    for module in (sets, models):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    sizes = Sizes(users=250, items=200, events=20, seed=3)
    prepare("synthetic", None, tmp_path / "runs" / "prepared" / "toy", sizes=sizes)
    toy = MappingProxyType({"toy": sets.Set("toy", "Toy", QUICK)})
    for module in (sets, command):
        monkeypatch.setattr(module, "SETS", toy)


def test_a_cell_is_computed_from_data_to_json(results: Path, toy_set: None) -> None:
    for model in ("popularity", "transition-knn", "ease"):
        assert command.compute("toy", model, 0) == 0
    by_model = {cell.model: cell for cell in cells.read_all(results)}
    assert by_model["ease"].metrics["ndcg@10"] > by_model["popularity"].metrics["ndcg@10"]
    assert len(by_model["ease"].ranks) == by_model["ease"].metrics["users"]
    assert by_model["ease"].configuration["penalty"] > 0


def test_lightgcn_is_chosen_by_validation(
    results: Path, toy_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST", 40), ("EVERY", 5), ("PATIENCE", 10)):
        monkeypatch.setattr(graph, name, value)
    looked: list[float] = []
    measure = tuning.evaluate

    def noted(*args: Any, **how: Any) -> Metrics:
        metrics = measure(*args, **how)
        assert metrics.part == "validation"
        looked.append(metrics.ndcg(10))
        return metrics

    monkeypatch.setattr(tuning, "evaluate", noted)
    for model in ("popularity", "lightgcn"):
        assert command.compute("toy", model, 0) == 0
    popularity, found = sorted(cells.read_all(results), key=lambda cell: cell.validation)
    assert (popularity.model, found.model) == ("popularity", "lightgcn")
    assert found.metrics["ndcg@10"] > popularity.metrics["ndcg@10"]
    assert found.validation == max(looked), "the cell is of the embeddings that were best on validation"
    assert found.configuration["epochs"] % 5 == 0
    assert found.configuration["rate"] in graph.RATES


def test_trained_rows_share_what_they_can(
    results: Path, toy_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One SASRec and one bundle are trained, whichever rows are asked for; the rows say what they are made of."""
    trained: list[str] = []
    fit = neural.train
    monkeypatch.setattr(neural, "train", lambda *args, **kwargs: trained.append(args[1]) or fit(*args, **kwargs))
    of_contrec = ("contrec-trunk-only", "contrec-one-sample", "contrec-without-dispersive", "plain-diffusion")
    for model in ("contrec", *of_contrec, "sasrec-ce", "deftrec", "deftrec-preferdiff"):
        assert command.compute("toy", model, 0) == 0
    assert trained == ["contrec", "deftrec"]
    by_model = {cell.model: cell for cell in cells.read_all(results)}
    alone, sampled = by_model["contrec-trunk-only"], by_model["contrec-one-sample"]
    assert sampled.parameters > alone.parameters, "the head is counted where it is asked"
    assert by_model["sasrec-ce"].configuration["trunk"]["width"] == 32
    assert by_model["contrec"].seconds > 0
    assert by_model["contrec-trunk-only"].seconds == by_model["contrec"].seconds, "training counts once, in every row"
    assert by_model["contrec"].configuration["recipe"]["trunk"]["width"] == 32
    assert by_model["contrec"].milliseconds["list"] > 0
    assert by_model["contrec"].commit == cells.commit()
    assert by_model["plain-diffusion"].configuration["anchor"] is False
    assert by_model["deftrec-preferdiff"].configuration == {"head": ["head.negatives=preferdiff"]}
    (note,) = (tmp_path / "runs" / "toy" / "bundles").glob("deftrec*.json")
    assert not (Path(json.loads(note.read_text(encoding="utf-8"))["path"]) / "text_half").exists(), "DeftRec has none"
    (epoch,) = by_model["contrec-without-dispersive"].notes["epochs"]
    assert epoch["dispersive"] != 0, "it is measured, but has no weight"


def test_a_bundle_of_another_recipe_is_not_taken_for_this_one(
    toy_set: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one that is taken names the commit that trained it."""
    said = iter(("first", "second", "third"))
    monkeypatch.setattr(cells, "commit", lambda: next(said))
    ask = models.Ask(sets.load("toy"), sets.SETS["toy"], "toy", 0)
    short = ("text_half.epochs=0", "head.epochs=0")
    path, report = neural.contrec_bundle(ask, "contrec", short)
    assert neural.contrec_bundle(ask, "contrec", short) == (path, report)
    assert report["commit"] == "first"
    changed = replace(ask, set=replace(ask.set, overrides=(*QUICK, "trunk.dropout=0.4")))
    other, its = neural.contrec_bundle(changed, "contrec", short)
    assert other != path
    assert its["commit"] == "second"


def test_a_shared_model_of_another_recipe_is_not_taken_for_this_one(
    toy_set: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = models.Ask(sets.load("toy"), sets.SETS["toy"], "toy", 0)
    first, expert, _ = neural._sasrec(ask)
    assert expert.commit == cells.commit()
    assert neural._sasrec(ask)[1] == expert
    other = replace(sets.SETS["toy"], overrides=(*sets.SETS["toy"].overrides, "trunk.dropout=0.5"))
    second, its, _ = neural._sasrec(replace(ask, set=other))
    assert its.name != expert.name
    assert not torch.equal(first.vectors, second.vectors)


def test_without_text_is_the_behaviour_half_and_transitions(toy_set: None) -> None:
    ask = models.Ask(sets.load("toy"), sets.SETS["toy"], "toy", 0)
    mine, _ = neural.halves(load_recommender(neural.contrec_bundle(ask)[0]))
    fitted = models.MODELS["contrec-without-text"].fit(ask)
    tried = fitted.configuration["tried"]
    assert fitted.configuration["transitions"] == float(max(tried, key=lambda weight: tried[weight])) > 0
    whole = fitted.recommender
    assert isinstance(whole, WithTransitions)
    assert whole.base.vectors.equal(mine.vectors)


@pytest.mark.parametrize("seen", [True, False])
def test_sasrec_is_trained_over_all_items_unless_the_row_says_otherwise(toy_set: None, seen: bool) -> None:
    recipe = tuning.sasrec_recipe([*QUICK, *(neural.UNSEEN if seen else ())])
    assert recipe.trunk.exclude_seen is seen
    assert recipe.trunk.kernel == 1
    assert tuning.trunk_recipe(QUICK).trunk.exclude_seen


def test_the_best_trial_decides_and_trials_are_run_once(
    results: Path, toy_set: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SETS", sets.SETS)
    monkeypatch.setattr(tuning, "EPOCHS", {"toy": 2})
    monkeypatch.setattr(tuning, "TRIALS", ((), ("trunk.learning_rate=1e-7",)))
    assert tuning.tuned("toy", "sasrec-ce") == ()
    tuning.tune("toy", "sasrec-ce")
    found = json.loads((results / "toy" / "tuning.json").read_text())["sasrec-ce"]
    assert found[""] > found["trunk.learning_rate=1e-7"], "at that rate nothing is learnt"
    assert tuning.tuned("toy", "sasrec-ce") == ()
    for lead, chosen in ((1.005, ()), (1.02, ("trunk.learning_rate=1e-7",))):
        found["trunk.learning_rate=1e-7"] = found[""] * lead
        (results / "toy" / "tuning.json").write_text(json.dumps({"sasrec-ce": found}))
        assert tuning.tuned("toy", "sasrec-ce") == chosen
    monkeypatch.setattr(tuning, "fit_sasrec", None)
    tuning.tune("toy", "sasrec-ce")  # nothing is left to do
    monkeypatch.setattr(tuning, "INHERITS", {"child": "toy"})
    assert tuning.tuned("child", "sasrec-ce") == ("trunk.learning_rate=1e-7",)
    assert tuning.tuned("toy", "contrec") == ()


def test_scores_of_two_models_are_added_as_log_probabilities() -> None:
    first = np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32)) + 7
    second = np.log(np.array([[0.2, 0.2, 0.6]], dtype=np.float32)) - 3
    both = models.added(lambda users, histories: first, lambda users, histories: second, 0.5)(np.zeros(1, int), [])
    expected = np.log([0.5, 0.25, 0.25]) + 0.5 * np.log([0.2, 0.2, 0.6])
    np.testing.assert_allclose(both[0], expected, rtol=1e-5)


def test_the_ensemble_gets_every_expert_that_ours_has(results: Path, toy_set: None) -> None:
    """And what ours is without one of them is a row of its own."""
    for model in ("contrec", "contrec-without-transitions", "id-text-ensemble", "id-text-transition-ensemble"):
        assert command.compute("toy", model, 0) == 0
    by_model = {cell.model: cell for cell in cells.read_all(results)}
    whole, without = by_model["contrec"], by_model["contrec-without-transitions"]
    assert whole.configuration == without.configuration | {"transitions": whole.configuration["transitions"]}
    tried = whole.notes["transitions_fit"]["tried"]
    assert whole.validation == pytest.approx(tried[f"{whole.configuration['transitions']:g}"], abs=1e-9)
    assert without.validation == pytest.approx(tried["0"], abs=1e-9)
    two, three = by_model["id-text-ensemble"], by_model["id-text-transition-ensemble"]
    chosen = three.configuration["transitions"]
    assert set(map(float, chosen["tried"])) == set(map(float, tried)), "the same weights stand to choose from"
    assert three.validation == pytest.approx(max(chosen["tried"].values()), abs=1e-9)
    assert two.validation == pytest.approx(max(two.configuration["tried"].values()), abs=1e-9)
    assert three.validation >= two.validation


def test_an_expert_of_the_ensemble_is_fitted_where_validation_left_it_out_of_ours(
    results: Path, toy_set: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = models.Ask(sets.load("toy"), sets.SETS["toy"], "toy", 0)
    words, _ = neural._words(ask)
    whole = load_recommender(neural.contrec_bundle(ask)[0])
    assert neural.halves(whole)[1] is not None, "else the two below are the same"
    monkeypatch.setattr(neural, "load_recommender", lambda path: neural.halves(whole)[0])
    again, _ = neural._words(ask)
    for one, other in zip(words.trunk.parameters(), again.trunk.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    np.testing.assert_array_equal(words.index.matrix, again.index.matrix)
    assert command.compute("toy", "text-only", 0) == 0


def test_the_expert_of_the_ensemble_scores_as_the_one_that_is_served() -> None:
    prepared = toy_prepared()
    table, whole = fit_transitions(prepared, 5), fitted().recommender(0.0)
    served = WithTransitions(whole, table, 1.0, 1e-2)
    tastes = served.generate(served.encode(HISTORIES), [Dials()] * len(HISTORIES))
    expected = np.stack([served.score(taste) - whole.score(taste.base) for taste in tastes])
    scores = neural.followed(table, 1e-2)(np.arange(len(HISTORIES)), HISTORIES)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert (scores[1] > 0).any()


def test_the_real_sets_are_refused_in_one_sentence_where_they_are_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "RUNS", tmp_path)
    monkeypatch.setenv("CONTREC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="set CONTREC_DATA"):
        sets.load("beauty")
