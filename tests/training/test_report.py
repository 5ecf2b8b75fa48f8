"""The report: numbers that are the evaluation's own, a page that stands alone and escapes what data says."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from model.catalogue import Catalogue, Item
from model.recommender import Popular
from training import plots
from training import report as told
from training.breakdown import STEPS, by_history, by_popularity, exploring
from training.data.prepared import Prepared
from training.evaluate import Metrics, evaluate, recommender_scorer
from training.report import page, read_report, told_of_baselines, told_of_data, told_of_test, write_report


def popular_of(prepared: Prepared) -> Popular:
    """Without ties, which evaluation counts against a recommender."""
    _, items = prepared.train_histories()
    size = len(prepared.catalogue)
    return Popular(prepared.catalogue, np.bincount(items, minlength=size) * 1000 + np.arange(size))


@pytest.fixture(scope="module")
def test_metrics(demo: Prepared) -> Metrics:
    return evaluate(recommender_scorer(popular_of(demo)), demo, "test")


# ----------------------------------------------------------------------------------------------------------------
# Breakdowns


@pytest.mark.parametrize("breakdown", [by_history, by_popularity])
def test_the_parts_of_a_breakdown_make_the_whole(breakdown: Any, demo: Prepared, test_metrics: Metrics) -> None:
    rows = breakdown(test_metrics, demo)
    assert sum(row["users"] for row in rows) == len(test_metrics.users)
    for name, whole in (("ndcg@10", test_metrics.ndcg(10)), ("hr@10", test_metrics.hr(10))):
        assert sum(row["users"] * row[name] for row in rows if row["users"]) / len(test_metrics.users) == pytest.approx(
            whole
        )


def test_histories_fall_into_their_lengths(prepared_of: Any) -> None:
    histories = [[0] * (1 + length) for length in (2, 3, 5, 6, 20, 21, 40)]
    prepared = prepared_of(histories, 3)
    metrics = evaluate(recommender_scorer(popular_of(prepared)), prepared, "test")
    found = {row["history"]: row["users"] for row in by_history(metrics, prepared)}
    assert found == {"0": 0, "1 to 2": 1, "3 to 5": 2, "6 to 20": 2, "21 and more": 2}


def test_popularity_is_counted_in_tenths_of_the_catalogue(prepared_of: Any) -> None:
    """Twenty items, item 0 the most popular: a target of 0 or 1 is in the first tenth, of 19 in the last."""
    histories = [[0, 0, 1, 5, 0], [0, 1, 0, 5, 1], [0, 1, 0, 5, 19]]
    prepared = prepared_of(histories, 20)
    metrics = evaluate(recommender_scorer(popular_of(prepared)), prepared, "test")
    rows = by_popularity(metrics, prepared)
    assert [row["users"] for row in rows] == [2, *[0] * 8, 1]
    assert rows[0]["share"] == 1.0
    assert rows[4]["ndcg@10"] is None


def test_exploring_at_zero_is_the_evaluations_own_number(demo: Prepared, test_metrics: Metrics) -> None:
    rows = exploring(popular_of(demo), demo, users=10_000)
    assert [row["explore"] for row in rows] == list(STEPS)
    assert rows[0]["ndcg@10"] == pytest.approx(test_metrics.ndcg(10))
    assert rows[0]["coverage@10"] == pytest.approx(test_metrics.coverage)
    assert 0 <= rows[0]["diversity@10"] <= 2
    assert all(row["ndcg@10"] == rows[0]["ndcg@10"] for row in rows), "counts have no dial"
    assert all(row["changed@10"] == 0 for row in rows), "and no seed"


# ----------------------------------------------------------------------------------------------------------------
# The page


class _Page(HTMLParser):
    """What a page holds: tags in order, every attribute that could fetch something, and whether tags close."""

    VOID = frozenset(("meta", "circle", "rect", "path", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


EVIL = "<script>alert('x')</script>\"&"


@pytest.fixture
def report(demo: Prepared, test_metrics: Metrics) -> dict[str, Any]:
    epochs = [{"loss": 6.0 - n, "hr@10": 0.1 + n / 50, "ndcg@10": 0.05 + n / 100} for n in range(4)]
    head = [{"loss": 5.0, "ndcg@10 lambda=0.5": 0.07}, {"loss": 4.5, "ndcg@10 lambda=0.5": 0.08}]
    rivals = {"popularity": test_metrics, EVIL: test_metrics}
    return {
        "bundle": {"name": EVIL, "version": "abc", "recipe": EVIL, "seed": 0, "recipe_config": {"a": EVIL}},
        **told_of_data(demo),
        "seconds": {"trunk": 75.0, "head": 3.2},
        "peak_rss_mib": {"trunk": 900, "head": 950},
        "tokenizer": {
            "variance_min": 0.5, "variance_mean": 0.9, "effective_rank": 12.0, "dimensions": 32.0, "explained": 0.8,
            "neighbours_kept": 0.4,
        },
        "trunk": {"epochs": epochs, "best_epoch": 4},
        "head": {"epochs": head, "weight": 0.5, "lead": [0.01, 0.002, 0.02], "users": {"chose": 9, "lead": 8}},
        "trunk_alone": test_metrics.as_dict(),
        "beside": ["trunk_alone"],
        "metrics": {"test": test_metrics.as_dict()},
        **told_of_test(popular_of(demo), test_metrics, demo),
        **told_of_baselines(test_metrics, rivals),
    }  # fmt: skip


def test_the_page_stands_alone(report: dict[str, Any]) -> None:
    text = page(report)
    found = _Page(text)
    assert not found.open, "a tag is left open"
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(found.tags)
    assert found.fetched == []
    assert not re.search(r"url\(|@import|//", text.replace(report["data"]["facts"].get("source", ""), "")), (
        "the page would ask another host"
    )
    assert text.count("prefers-color-scheme:dark") == 1


def test_what_data_says_is_escaped(report: dict[str, Any]) -> None:
    text = page(report)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;" in text
    svg = plots.bars([(EVIL, 0.5, EVIL)], title=EVIL, across=EVIL, summary=EVIL)
    svg += plots.lines({EVIL: [(0, 1), (1, 2)], "b": [(0, 1)]}, title=EVIL, across=EVIL, summary=EVIL, mark=(1, EVIL))
    svg += plots.shares([(EVIL, 0.5, EVIL)], title=EVIL, summary=EVIL)
    ElementTree.fromstring(f"<div>{svg}</div>")  # well-formed: nothing broke out of its text
    assert "<script>" not in svg


def test_every_plot_says_in_words_what_it_shows(report: dict[str, Any]) -> None:
    labels = re.findall(r'<svg viewBox="[^"]*" role="img" aria-label="([^"]*)"', page(report))
    assert len(labels) == 7, "loss and NDCG of trunk and head, history, popularity, time; counts have no dial to show"
    assert all(len(label.split(". ")) >= 2 for label in labels)


def test_the_numbers_on_the_page_are_the_reports(report: dict[str, Any], test_metrics: Metrics) -> None:
    text = page(report)
    assert text.count(f"{test_metrics.ndcg(10):.4f}") >= 4, "card, this bundle, trunk alone, baselines"
    assert "best: epoch 4" in text
    assert "12.0 of 32" in text
    lead = "lead over the trunk alone +0.0100 (+0.0020 to +0.0200), on the half of the users that chose nothing."
    assert lead in text
    assert "1.2 min" in text or "1.3 min" in text
    for row in report["by_history"]:
        assert f">{row['history']}<" in text


@pytest.mark.parametrize(
    "absent",
    ["bundle", "data", "seconds", "tokenizer", "trunk", "by_history", "exploring", "baselines", "lead", "metrics"],
)
def test_what_a_report_lacks_is_left_out(report: dict[str, Any], absent: str) -> None:
    assert not _Page(page({key: value for key, value in report.items() if key != absent})).open
    assert not _Page(page({})).open


def test_both_files_are_written_and_read_again(report: dict[str, Any], tmp_path: Path) -> None:
    html = write_report(report, tmp_path / "abc")
    assert html == tmp_path / "abc.report.html"
    assert json.loads(json.dumps(report)) == read_report(tmp_path / "abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abc.report.html", "abc.report.json"]
    assert read_report(tmp_path / "other") == {}
    (tmp_path / "bad.report.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^the training report \S+ cannot be read"):
        read_report(tmp_path / "bad")


def test_titles_never_reach_the_page_raw(prepared_of: Any) -> None:
    prepared = prepared_of([[0, 1, 2, 0]] * 3, 3)
    titles = Catalogue(Item(f"i{n}", EVIL) for n in range(3))
    evil = dataclasses.replace(prepared, catalogue=titles, facts={"source": EVIL})
    assert "<script>" not in page(told_of_data(evil))


# ----------------------------------------------------------------------------------------------------------------
# Plots


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.031, 0.087), (5.2, 7.9), (-3, 4), (2, 2), (0, 0), (1e-6, 2e-6), (100, 100.00000000000003), (-7, -7)],
)
def test_ticks_are_round_and_hold_the_data(low: float, high: float) -> None:
    found = plots.ticks(low, high, 5)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 9
    np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-6)


def test_nothing_to_show_is_no_plot() -> None:
    assert plots.lines({}, title="t", across="x", summary="s") == ""
    assert plots.bars([("a", None, "")], title="t", across="x", summary="s") == ""
    assert plots.shares([], title="t", summary="s") == ""


def test_one_point_and_equal_points_are_drawn() -> None:
    for points in ([(1, 5.0)], [(1, 5.0), (2, 5.0)]):
        svg = plots.lines({"a": points}, title="t", across="x", summary="s")
        assert "nan" not in svg
        assert "inf" not in svg


@pytest.mark.parametrize("rising", [True, False])
def test_the_label_of_a_mark_stands_where_no_line_is(rising: bool) -> None:
    """The best epoch of a curve that rises is near its top, of a loss near its foot."""
    points = [(epoch, epoch if rising else 20.0 - epoch) for epoch in range(1, 20)]
    svg = plots.lines({"a": points}, title="t", across="x", summary="s", mark=(18, "best: epoch 18"))
    (label,) = re.findall(r'y="([\d.]+)" text-anchor="end" fill="var\(--soft\)">best', svg)
    nearest = [float(y) for x, y in re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', svg) if float(x) > 400]
    assert min(abs(float(label) - y) for y in nearest) > 60


def test_exploring_is_drawn_over_the_dial() -> None:
    rows = [
        {"explore": step, "users": 9, "ndcg@10": 0.2 - step / 10, "coverage@10": 0.4 + step / 10, "diversity@10": 0.0}
        for step in (0.0, 0.5, 1.0)
    ]
    drawn = told._exploring({"exploring": rows})
    assert "In percent of explore 0" in drawn
    assert "coverage@10</span>" in drawn
    assert "diversity@10</span>" not in drawn, "what is 0 at explore 0 has no percentage, and is in the table alone"
    assert ">100<" in drawn
    assert "<td>0.1000</td>" in drawn
    assert "changed" not in drawn, "a report of before it was measured"


def test_a_dial_that_moves_the_last_bit_alone_is_not_drawn() -> None:
    """The lists of a head that has learnt nothing are the same, their mean diversity in another order of adding."""
    rows = [
        {"explore": step, "users": 9, "ndcg@10": 0.2, "coverage@10": 0.4, "diversity@10": 0.7 * (1 + step * 3e-16)}
        for step in (0.0, 1.0)
    ]
    assert rows[0]["diversity@10"] != rows[1]["diversity@10"]
    assert told._exploring({"exploring": rows}) == ""


def test_exploring_tells_how_much_another_seed_changes() -> None:
    rows = [
        {"explore": step, "users": 9, "ndcg@10": 0.2, "coverage@10": 0.4, "diversity@10": 0.1, "changed@10": step / 2}
        for step in (0.0, 0.5, 1.0)
    ]
    drawn = told._exploring({"exploring": rows})
    assert "Another seed then replaces 50% of a list." in drawn
    assert "changed@10</span>" not in drawn
    assert "<td>0.2500</td>" in drawn
