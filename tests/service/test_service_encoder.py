"""A recommender whose texts are read by a sentence encoder: loaded before it is served, once, and not missed where it
cannot be loaded. The encoder is a real one, made here; weights and items are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from bench.serving.subject import NAME, WIDTH, make_recommender
from model import load_recommender
from model.bundle import activate, write_bundle
from model.continuous.cold import ColdWords
from model.continuous.hybrid import Hybrid
from model.continuous.space import TextPlace
from model.continuous.transitions import WithTransitions
from model.text import KeptEncoder
from tests.model import sentence
from tests.service.toy import running

ITEMS = 60


def reading_with(encoder: str) -> WithTransitions:
    """Random weights, both halves placing new items with this encoder, which nobody has loaded."""
    recommender = make_recommender(ITEMS, weight=0.0)
    assert isinstance(recommender.base, Hybrid)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for half in (recommender.base.behaviour, recommender.base.text):
            half.cold = ColdWords(TextPlace(sentence.WIDTH, WIDTH, 8), KeptEncoder(None, encoder))
    return recommender


def published(root: Path, encoder: str) -> Path:
    """The bundle of such a recommender."""
    fill = reading_with(encoder).save
    told: dict[str, Any] = {"config": {}, "data_fingerprint": "none", "metrics": {}}
    return write_bundle(root, NAME, kind="continuous", recipe="contrec", fill=fill, **told)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sentence.write_encoder(tmp_path_factory.mktemp("encoder")))


async def test_the_encoder_is_there_before_the_first_text(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(tmp_path, encoder)
    activate(tmp_path, NAME, path.name)
    async with running(bundles=tmp_path, bundle=NAME) as run:
        assert run.service.bundles.version == path.name
        with monkeypatch.context() as patch:
            patch.delattr("model.text.SentenceEncoder")  # whoever would load one now
            text = {"text": "the harbour lights part one"}
            assert (await run.client.put("/items/new", json=text)).status_code == 200
        assert not run.service.overlay.unplaced
        answer = (await run.client.get("/items/new/similar?k=3")).json()
        assert answer["source"] == "neighbours"
        assert answer["items"][0]["score"] > 0


def test_the_halves_of_a_bundle_share_it(tmp_path: Path, encoder: str) -> None:
    path = published(tmp_path, encoder)
    loaded = load_recommender(path)
    assert isinstance(loaded, WithTransitions)
    assert isinstance(loaded.base, Hybrid)
    behaviour, text = loaded.base.behaviour.cold, loaded.base.text.cold
    assert behaviour is not None
    assert text is not None
    loaded.expect_items()
    assert behaviour.encoder.ready() is text.encoder.ready()


async def test_one_that_cannot_be_loaded_keeps_nobody_from_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with running(reading_with("/no/such/encoder")) as run:
        assert "cannot place new items: the text encoder '/no/such/encoder'" in caplog.text
        assert (await run.recommend(history=["i1"], k=3))["source"] == "model"
        answer: httpx.Response = await run.client.put("/items/new", json={"text": "the harbour lights"})
        assert answer.status_code == 200
        assert run.service.overlay.unplaced == {"new"}
