"""Recipes: named, complete configurations, read from the commented TOML files in training/recipes.

    recipe = load_recipe("contrec", "tiny", overrides=["trunk.epochs=3"])

A file names its kind, and the module of that kind beside the files (training/recipes/continuous.py) says which
settings there are. A file gives every value once, for its own default size; the other sizes are tables of what
differs. An unknown key, a wrong type or a value out of bounds is refused with its name. This module knows no data and
no torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class RecipeError(ValueError):
    """A recipe, size or override that cannot be used, told in one sentence."""


class Part(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Recipe(Part):
    """One complete configuration. A kind adds its tables; kind names the system that trains it."""

    kind: ClassVar[str]

    name: str
    size: str


def recipe_class(kind: str) -> type[Recipe]:
    """The settings of a kind. Raises RecipeError where there is no such kind."""
    if kind == "continuous":
        from training.recipes.continuous import ContinuousRecipe

        return ContinuousRecipe
    if kind == "semantic":
        from training.recipes.semantic import SemanticRecipe

        return SemanticRecipe
    raise RecipeError(f"there is no kind of recipe {kind!r}")


def load_recipe(name: str, size: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` in a size (default: the file's own), with overrides such as "trunk.epochs=3" on top.

    Raises RecipeError naming the recipe, size or key that does not exist or does not fit.
    """
    folder = files("training") / "recipes"
    known = sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r}; there are: {', '.join(known)}")
    raw = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    kind = recipe_class(raw.pop("kind"))
    sizes = raw.pop("sizes", {})
    own = raw.pop("size")
    size = size or own
    if size != own and size not in sizes:
        raise RecipeError(f"the recipe {name!r} has no size {size!r}; it has: {', '.join([own, *sorted(sizes)])}")
    for part, values in sizes.get(size, {}).items():
        for key, value in values.items():
            _assign(raw, part, key, value)
    for override in overrides:
        path, separator, text = override.partition("=")
        part, dot, key = path.strip().partition(".")
        if not separator or not dot:
            raise RecipeError(f"{override!r} is not an override; write part.key=value, for example trunk.epochs=3")
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is a string
        _assign(raw, part, key, value)
    try:
        # Through JSON mode: TOML arrays become the tuples of a frozen recipe, everything else stays strict.
        return kind.model_validate_json(json.dumps({"name": name, "size": size, **raw}, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        raise RecipeError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _assign(raw: dict[str, Any], part: str, key: str, value: Any) -> None:
    if part not in raw or not isinstance(raw[part], dict) or key not in raw[part]:
        raise RecipeError(f"there is no setting {part}.{key} in this recipe")
    raw[part][key] = value
