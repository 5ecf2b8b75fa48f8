"""What nobody has met in training is as good as new: it is placed by its words, not buried by the softmax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import load_recommender
from model.catalogue import Item
from model.recommender import Dials
from model.semantic.recommender import SemanticRecommender
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.synthetic import Sizes, generate
from training.train import train

MET, UNMET = 60, 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films that users watch, and six more that are only described, with the words of the first six."""
    folder = tmp_path_factory.mktemp("unmet")
    world = generate(Sizes(users=120, items=MET, events=12))
    with (folder / "interactions.csv").open("w", encoding="utf-8") as file:
        file.write("user_id,item_id,timestamp\n")
        for user, (rows, times) in enumerate(zip(world.histories, world.times, strict=True)):
            file.writelines(f"u{user},i{row},{time}\n" for row, time in zip(rows, times, strict=True))
    with (folder / "items.csv").open("w", encoding="utf-8") as file:
        file.write("item_id,title,categories\n")
        for n in range(MET + UNMET):
            item = world.items[n % MET]
            file.write(f'i{n},"{item.title}",{"|".join(item.categories)}\n')
    prepare("table", folder, folder / "prepared")
    return folder / "prepared"


def trained(prepared: Path, folder: Path, recipe: str, *overrides: str) -> Any:
    path = train(prepared, recipe, "tiny", bundles=folder, name="toy", overrides=overrides)
    return load_recommender(path)


@pytest.mark.parametrize("residual", ["false", "true"])
def test_an_item_that_nobody_has_met_scores_as_if_it_had_come_after_training(
    prepared: Path, tmp_path: Path, residual: str
) -> None:
    """With either kind of text half, and with transitions, which have the nearest known items stand in for it."""
    recommender = trained(
        prepared,
        tmp_path,
        "contrec",
        *("tokenizer.epochs=5", "trunk.epochs=4", "head.epochs=0", "transitions.weights=[0.5]"),
        *("text_half.epochs=4", "text_half.weights=[0.5]", f"text_half.residual={residual}"),
    )
    catalogue = recommender.catalogue
    unmet = catalogue.rows(f"i{n}" for n in range(MET, MET + UNMET))
    again = [Item(f"n{n}", catalogue[row].title, catalogue[row].categories) for n, row in enumerate(unmet)]
    grown = recommender.with_items(again)
    added = grown.catalogue.rows(item.item_id for item in again)
    assert len(added) == UNMET
    histories = [np.zeros(0, dtype=np.int64), unmet[:2], *(Prepared.read(prepared).history(user) for user in range(20))]
    for taste in grown.generate(grown.encode(histories), [Dials()] * len(histories)):
        scores = grown.score(taste)
        np.testing.assert_allclose(scores[unmet], scores[added], atol=1e-4)
    np.testing.assert_allclose(grown.unit_vectors(unmet), grown.unit_vectors(added), atol=1e-5)


def test_with_semantic_ids_it_has_the_vector_of_its_id_and_starts_from_the_least_met(
    prepared: Path, tmp_path: Path
) -> None:
    recommender = trained(prepared, tmp_path, "diffgrm", "network.epochs=3")
    assert isinstance(recommender, SemanticRecommender)
    unmet = recommender.catalogue.rows(f"i{n}" for n in range(MET, MET + UNMET))
    met = np.setdiff1d(np.arange(len(recommender.catalogue)), unmet)
    residual, bias = recommender.network.residual.detach(), recommender.network.bias.detach()
    assert not residual[unmet].any()
    assert residual[met].abs().sum(dim=1).min() > 0
    assert set(bias[unmet].tolist()) == {recommender._starting_bias}
    assert recommender._starting_bias >= float(bias[met].min())
