"""A language model as the trunk: the contract, its words, LoRA as peft has it, a bundle that needs no network."""

from __future__ import annotations

import functools
import json
import math
import shutil
import socket
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from model.bundle import BundleError
from model.catalogue import Item
from model.continuous.language import LanguageBackbone, add_adapter, load_base
from model.continuous.recommender import ContinuousRecommender
from model.files import sha256_of
from model.recommender import Recommender, UserTokens
from tests.contracts.recommender_contract import WORLD, RecommenderContract, everything, rows_of, toy_catalogue
from tests.model import fitted as toy
from tests.model.test_files import outlives_its_files
from tests.model.tiny_language import language_model
from training.language import language_trunk
from training.recipe import load_recipe
from training.stages.trunk import FittedTrunk, fit_trunk

TUNED = (
    *toy.OVERRIDES,
    "language.tuning=lora",
    "language.rank=4",
    "language.alpha=8",
    "language.title_tokens=3",
    "language.prompt=they walked",
    "trunk.pretrained_rate=1e-2",
    "trunk.epochs=6",
    "trunk.accumulate=2",
)


SHELF: list[Path] = []  # where the base model lies: pytest's own folder, which it also clears after a killed run


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory) -> None:
    SHELF.append(tmp_path_factory.mktemp("language"))


@functools.cache
def base() -> Path:
    words = [word for item in toy_catalogue() for word in item.title.split()]
    return language_model(SHELF[0], [*words, "they", "walked"])


@functools.cache
def tuned(tuning: str = "lora") -> FittedTrunk:
    """Fitted once a session for each way of tuning."""
    toys = toy.fitted()
    recipe = load_recipe("contrec", "tiny", [*TUNED, f"language.base={base()}", f"language.tuning={tuning}"])
    trunk = language_trunk(recipe.language, recipe.trunk, toys.prepared.catalogue, seed=0)
    return fit_trunk(
        toys.prepared,
        toys.trunk.space.tokens.view(len(toys.prepared.catalogue), 2, 8),
        recipe.trunk,
        seed=0,
        trunk=trunk,
    )


def recommender(tuning: str = "lora") -> ContinuousRecommender:
    return tuned(tuning).recommender(toy.fitted().prepared, 12)


def saved(folder: Path, tuning: str = "lora", **how: bool) -> Path:
    folder.mkdir()
    recommender(tuning).save(folder, **how)
    return folder


class TestLanguageTrunk(RecommenderContract):
    def build(self) -> Recommender:
        return recommender()

    def answers_visible_by_eye(self, recommender: Recommender) -> None:
        for history, answer in (([0, 1, 2, 3], 4), ([3], 4), ([15, 16, 17], 18), ([9, 10, 11], 0)):
            rows, _ = recommender.recommend(rows_of(*history), k=1)
            assert rows.tolist() == [answer]
        near, _ = recommender.neighbours(rows_of(3, 4), everything(), 4)
        assert (near < WORLD).all()


class TestLoadedLanguageTrunk(TestLanguageTrunk):
    """The same of a bundle that was read back: LoRA is added to the weights there, by our own lines."""

    def build(self) -> Recommender:
        with tempfile.TemporaryDirectory() as parent:
            return ContinuousRecommender.load(saved(Path(parent) / "bundle"))


def test_once_loaded_it_needs_none_of_its_files(tmp_path: Path) -> None:
    outlives_its_files(tmp_path, recommender())


# ----------------------------------------------------------------------------------------------------------------
# Words


def forward(backbone: LanguageBackbone, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        nothing = torch.zeros(len(rows), vectors.shape[1])
        return backbone(vectors[rows], nothing, torch.zeros(len(rows), dtype=torch.bool), rows)


def test_no_state_sees_a_later_item_or_its_words() -> None:
    trunk = tuned().trunk.eval()
    vectors = recommender().vectors
    rows = torch.tensor([[0, 1, 2, 3, 4]])
    other = torch.tensor([[0, 1, 2, 17, 9]])
    before, after = forward(trunk.backbone, rows, vectors), forward(trunk.backbone, other, vectors)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_the_words_of_an_item_are_read_and_padding_is_not() -> None:
    backbone = tuned().trunk.eval().backbone
    vectors = recommender().vectors
    alone = forward(backbone, torch.tensor([[3, 5]]), vectors)
    batch = forward(backbone, torch.tensor([[3, 5, 0, 0], [7, 8, 9, 10]]), vectors)
    torch.testing.assert_close(batch[:1, :3], alone, rtol=1e-4, atol=1e-5)
    titles = backbone.titles.clone()
    backbone.titles[3] = backbone.titles[20]  # the title of the other world
    changed = forward(backbone, torch.tensor([[3, 5]]), vectors)
    backbone.titles.copy_(titles)
    assert torch.equal(changed[:, 0], alone[:, 0])
    assert not torch.allclose(changed[:, 1], alone[:, 1])


def test_the_layout_is_the_one_that_is_documented() -> None:
    """Prompt, profile, then title and item in turn: put together by hand for one history, word by word."""
    trunk = tuned().trunk.eval()
    backbone, vectors = trunk.backbone, recommender().vectors
    history = [2, 14, 7]
    with torch.inference_mode():
        table = backbone.lm.get_input_embeddings()
        own = backbone.size * math.sqrt(vectors.shape[1])
        parts = [table(backbone.prompt), backbone.size * backbone.no_profile[None]]
        for row in history:
            parts.append(table(backbone.titles[row, : backbone.lengths[row]]))
            parts.append(own * backbone.items(vectors[row])[None])
        states = backbone.lm(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
        expected = backbone.state(states[-1])
    (tokens,) = recommender().encode([np.array(history)])
    np.testing.assert_allclose(tokens.condition, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert backbone.lengths.tolist() == [3] * len(backbone.lengths), "'Harbour part 4' is three words"


def test_an_item_that_came_later_has_no_words_and_is_read_all_the_same() -> None:
    known = recommender()
    more = known.with_items([Item("new", title="Harbour part 99")])
    (tokens,) = more.encode([np.array([3, len(known.catalogue)])])
    assert np.isfinite(tokens.condition).all()


# ----------------------------------------------------------------------------------------------------------------
# LoRA


def test_the_adapter_is_pefts_and_gives_what_peft_gives(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        folder = saved(tmp_path / "bundle") / "adapter"
        plain = AutoModel.from_pretrained(base(), use_safetensors=True)
        theirs = PeftModel.from_pretrained(plain, folder, use_safetensors=True).eval()
    ours = load_base(str(base()), local=True)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    add_adapter(ours, folder)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(ours(inputs_embeds=x).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
        training = tuned().trunk.eval().backbone.lm(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(training, expected, rtol=1e-4, atol=1e-5)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["base_model_name_or_path"] == str(base())
    assert set(config["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"q": 2}}]
)
def test_an_adapter_that_is_more_than_lora_is_refused(tmp_path: Path, change: dict) -> None:
    folder = saved(tmp_path / "bundle") / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(BundleError, match="is no plain LoRA adapter"):
        add_adapter(load_base(str(base()), local=True), folder)


@pytest.mark.parametrize("tuning", ["lora", "full", "frozen"])
def test_what_may_change_is_what_the_dial_says(tuning: str, tmp_path: Path) -> None:
    untouched = load_base(str(base()), local=True).state_dict()
    folder = saved(tmp_path / "bundle", tuning) / "adapter"
    weights = load_file(folder / "base" / "model.safetensors")
    same = all(torch.equal(tensor, untouched[name]) for name, tensor in weights.items())
    assert weights.keys() == untouched.keys()
    assert same == (tuning != "full")
    assert (folder / "adapter_model.safetensors").exists() == (tuning == "lora")
    loaded = ContinuousRecommender.load(tmp_path / "bundle")
    history = [np.array([0, 1, 2, 3])]
    one, other = recommender(tuning).encode(history)[0], loaded.encode(history)[0]
    np.testing.assert_allclose(one.condition, other.condition, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------
# The bundle


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*where: object) -> None:
        raise AssertionError(f"something asked the network: {where[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("no_network")
def test_a_bundle_with_its_model_loads_without_the_network_and_without_the_folder_it_came_from(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bundle")
    shape = json.loads((folder / "adapter" / "language.json").read_text(encoding="utf-8"))
    (folder / "adapter" / "language.json").write_text(json.dumps(shape | {"base": "gone/away"}), encoding="utf-8")
    history = np.array([0, 1, 2, 3])
    assert (
        ContinuousRecommender.load(folder).recommend(history, k=3)[0].tolist()
        == recommender().recommend(history, k=3)[0].tolist()
    )


@pytest.mark.usefixtures("no_network")
def test_a_bundle_that_names_its_model_takes_that_very_one_from_this_machine_or_says_what_is_missing(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "bundle", include_base=False)
    assert not (folder / "adapter" / "base").exists()
    loaded = ContinuousRecommender.load(folder)
    history = [np.array([5, 6])]
    np.testing.assert_allclose(
        loaded.encode(history)[0].condition, recommender().encode(history)[0].condition, rtol=1e-4, atol=1e-5
    )
    moved = shutil.copytree(base(), tmp_path / "moved")
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    shape = json.loads((folder / "adapter" / "language.json").read_text(encoding="utf-8"))
    for place, sentence in (
        (str(moved), "is not the one that was tuned"),
        ("no/such-model", "serving never downloads"),
    ):
        (folder / "adapter" / "language.json").write_text(json.dumps(shape | {"base": place}), encoding="utf-8")
        with pytest.raises(BundleError, match=sentence) as error:
            ContinuousRecommender.load(folder)
        assert "\n" not in str(error.value)


def test_user_tokens_are_cached_as_any_others(tmp_path: Path) -> None:
    loaded = ContinuousRecommender.load(saved(tmp_path / "bundle"))
    (tokens,) = loaded.encode([np.array([0, 1, 2])])
    assert UserTokens.from_bytes(tokens.to_bytes()).condition.tolist() == tokens.condition.tolist()
    assert tokens.condition.shape == (32,), "as wide as an item vector, whatever the language model is"


def test_the_hash_of_a_model_knows_every_weight() -> None:
    lm = load_base(str(base()), local=True)
    before = sha256_of(lm)
    assert before == sha256_of(load_base(str(base()), local=True))
    with torch.no_grad():
        lm.norm.weight[0] += 1e-3
    assert sha256_of(lm) != before


# ----------------------------------------------------------------------------------------------------------------
# What cannot be tuned


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("language.base=no/such/folder", "the language model 'no/such/folder' cannot be loaded: "),
        ('language.targets=["nothing"]', "language.targets: "),
        ("trunk.max_history=60", "60 items with 3 words each take 245 positions, and the language model "),
    ],
)
def test_a_model_that_cannot_be_tuned_is_told_in_one_sentence(override: str, sentence: str) -> None:
    recipe = load_recipe("contrec", "tiny", [*TUNED, f"language.base={base()}", override])
    with pytest.raises(ValueError, match=r".") as error:
        language_trunk(recipe.language, recipe.trunk, toy_catalogue(), seed=0)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)
