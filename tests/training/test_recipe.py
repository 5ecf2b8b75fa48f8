"""Recipes: complete files, sizes and overrides that fit, and one sentence naming whatever does not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from training import recipe as module
from training.recipe import RecipeError, load_recipe
from training.recipes.continuous import (
    ContinuousRecipe,
    HeadPart,
    LanguagePart,
    SignalsPart,
    TextHalfPart,
    TokenizerPart,
    TransitionsPart,
    TrunkPart,
)

PARTS: dict[str, type[BaseModel]] = {
    "signals": SignalsPart,
    "tokenizer": TokenizerPart,
    "language": LanguagePart,
    "trunk": TrunkPart,
    "head": HeadPart,
    "text_half": TextHalfPart,
    "transitions": TransitionsPart,
}
FILE = Path(module.__file__).parent / "recipes" / "contrec.toml"


def refusal(*overrides: str, name: str = "contrec", size: str | None = "tiny") -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(name, size, overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the recipes' folder in place of the package's; returns the file to alter."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    copy = folder / FILE.name
    copy.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    return copy


# ----------------------------------------------------------------------------------------------------------------
# Files


def sizes() -> list[str]:
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return [raw["size"], *raw["sizes"]]


@pytest.mark.parametrize("size", sizes())
def test_every_size_reads_and_differs_from_the_file_in_what_it_says_alone(size: str) -> None:
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    recipe = load_recipe("contrec", size)
    assert (recipe.name, recipe.size) == ("contrec", size)
    changes = raw["sizes"].get(size, {})
    for part in PARTS:
        expected = raw[part] | changes.get(part, {})
        found = getattr(recipe, part).model_dump(mode="json")
        assert found == expected


def test_without_a_size_the_file_decides() -> None:
    assert load_recipe("contrec") == load_recipe("contrec", "small")


def test_no_setting_has_a_default_in_the_code() -> None:
    """So the file is complete by construction."""
    for part in (ContinuousRecipe, *PARTS.values()):
        assert all(field.is_required() for field in part.model_fields.values())


def test_every_setting_has_its_line_in_the_file() -> None:
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    assert set(raw) == {"kind", "size", "sizes", *PARTS}
    for part, kind in PARTS.items():
        assert set(raw[part]) == set(kind.model_fields)


@pytest.mark.parametrize("key", [f"{part}.{key}" for part, kind in PARTS.items() for key in kind.model_fields])
def test_a_file_that_misses_a_setting_is_refused_by_name(altered: Path, key: str) -> None:
    part, name = key.split(".")
    lines = altered.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"[{part}]")
    line = next(n for n in range(start, len(lines)) if lines[n].split("=")[0].strip() == name)
    altered.write_text("\n".join([*lines[:line], *lines[line + 1 :]]), encoding="utf-8")
    assert refusal(size="small") == f"{key}: Field required"


def test_a_file_with_a_setting_too_many_is_refused_by_name(altered: Path) -> None:
    text = altered.read_text(encoding="utf-8")
    altered.write_text(text.replace("[trunk]\n", "[trunk]\nspeed = 9\n", 1), encoding="utf-8")
    assert refusal(size="small").startswith("trunk.speed: Extra inputs are not permitted")


def test_a_size_that_sets_what_does_not_exist_is_refused_by_name(altered: Path) -> None:
    text = altered.read_text(encoding="utf-8")
    altered.write_text(
        text.replace("[sizes.tiny]", "[sizes.odd]\ntrunk = { spead = 2 }\n[sizes.tiny]"), encoding="utf-8"
    )
    assert refusal(size="odd") == "there is no setting trunk.spead in this recipe"
    assert load_recipe("contrec", "tiny").size == "tiny"


def test_an_unknown_recipe_or_size_is_answered_with_those_there_are() -> None:
    assert refusal(name="contrek") == "there is no recipe 'contrek'; there are: contrec, deftrec, diffgrm"
    sentence = refusal(size="huge")
    assert sentence.startswith("the recipe 'contrec' has no size 'huge'; it has: small, ")
    assert all(size in sentence for size in sizes())


# ----------------------------------------------------------------------------------------------------------------
# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("trunk.epochs=3", 3),
        (" trunk.epochs = 3 ", 3),
        ("trunk.dropout=0.35", 0.35),
        ("trunk.learning_rate=1", 1.0),
        ("trunk.learning_rate=5e-3", 0.005),
        ("trunk.bf16=false", False),
        ("head.epochs=0", 0),
        ("head.times=[0.8, 0.4]", (0.8, 0.4)),
        ("head.weights=[0.0]", (0.0,)),
        ("signals.text_encoder=models/my encoder", "models/my encoder"),
        ('signals.text_encoder="hashed"', "hashed"),
        ("signals.text_encoder=a=b", "a=b"),
    ],
)
def test_an_override_sets_one_value_of_its_type(override: str, value: Any) -> None:
    before, after = load_recipe("contrec", "tiny"), load_recipe("contrec", "tiny", [override])
    part, key = override.split("=")[0].strip().split(".")
    found = getattr(getattr(after, part), key)
    assert found == value
    assert type(found) is type(value)
    left = before.model_dump(), after.model_dump()
    for side in left:
        side[part].pop(key)
    assert left[0] == left[1], "an override changed something else"


def test_overrides_come_after_the_size_and_the_last_one_holds() -> None:
    recipe = load_recipe("contrec", "tiny", ["trunk.width=32", "trunk.epochs=7", "trunk.epochs=8"])
    assert (recipe.trunk.width, recipe.trunk.epochs) == (32, 8)
    assert load_recipe("contrec", "tiny").trunk.epochs != 8, "an override outlived its call"


@pytest.mark.parametrize("override", ["trunk.epochs", "trunk=3", "epochs=3", "", "=", "name=mine"])
def test_what_is_no_override_is_told_how_one_looks(override: str) -> None:
    sentence = f"{override!r} is not an override; write part.key=value, for example trunk.epochs=3"
    assert refusal(override) == sentence


@pytest.mark.parametrize(
    "key", ["trunk.depth", "trnk.epochs", "trunk.", ".epochs", "trunk.epochs.x", "size.x", "name.x"]
)
def test_an_override_of_what_does_not_exist_names_it(key: str) -> None:
    assert refusal(f"{key}=3") == f"there is no setting {key} in this recipe"


@pytest.mark.parametrize(
    "override",
    [
        "trunk.epochs=three",
        "trunk.epochs=2.5",
        "trunk.epochs=1e3",
        "trunk.epochs=0",
        "trunk.epochs=-1",
        "trunk.epochs=",
        "trunk.epochs=true",
        "trunk.epochs=[3]",
        "trunk.epochs={a = 1}",
        "trunk.epochs=1979-05-27",
        "trunk.dropout=1",
        "trunk.dropout=-0.1",
        "trunk.learning_rate=0",
        "trunk.learning_rate=nan",
        "trunk.learning_rate=inf",
        "trunk.bf16=1",
        "trunk.bf16=yes",
        "tokenizer.sigma=-1",
        "tokenizer.feature_mask=1.0",
        "head.times=0.5",
        "head.times=[]",
        "head.weights=[]",
        "signals.text_encoder=3",
    ],
)
def test_a_value_that_does_not_fit_names_its_setting_and_itself(override: str) -> None:
    key, _, value = override.partition("=")
    sentence = refusal(override)
    assert sentence.startswith(f"{key}: ")
    if not value.startswith("{"):
        assert "(given: " in sentence


@pytest.mark.parametrize("override", ["head.times=[0.5, 1.0]", "head.weights=[0.5, 1.5]"])
def test_a_value_inside_a_list_names_its_place(override: str) -> None:
    assert refusal(override).startswith(f"{override.partition('=')[0]}.1: ")


def test_numbers_that_do_not_fit_one_another_are_refused_before_anything_is_trained() -> None:
    assert refusal("trunk.width=64", "trunk.heads=3") == "trunk: width 64 must be an even multiple of heads 3"
    assert refusal("trunk.width=6", "trunk.heads=2") == "trunk: width 6 must be an even multiple of heads 2"
    assert refusal("transitions.floor=0") == (
        "transitions: floor must be above 0: the logarithm of nothing has no place in a score"
    )
    nothing = refusal("text_half.weights=[0.0]")
    assert nothing == "text_half: weights has none above 0: say epochs = 0 to serve without a text half"
    assert refusal("head.times=[0.4, 0.6]") == "head: times must fall, as noise is taken away: not [0.4, 0.6]"


def test_what_full_tuning_learns_cannot_be_left_out_of_the_bundle() -> None:
    left_out = ["language.base=any", "language.include_base=false"]
    with pytest.raises(RecipeError, match="include_base=false would leave out what was learnt"):
        load_recipe("contrec", "llm", [*left_out, "language.tuning=full"])
    for tuning in ("lora", "frozen"):
        assert load_recipe("contrec", "llm", [*left_out, f"language.tuning={tuning}"]).language.tuning == tuning  # type: ignore[attr-defined]


def test_a_file_of_an_unknown_kind_is_refused(altered: Path) -> None:
    text = altered.read_text(encoding="utf-8")
    altered.write_text(text.replace('kind = "continuous"', 'kind = "oracular"'), encoding="utf-8")
    assert refusal() == "there is no kind of recipe 'oracular'"
