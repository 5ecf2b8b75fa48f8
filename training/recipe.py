"""Recipes: named, complete configurations, read from the commented TOML files in training/recipes.

    recipe = load_recipe("contrec", "tiny", overrides=["trunk.epochs=3"])

A file gives every value once, for its own default size; the other sizes are tables of what differs. An unknown
key, a wrong type or a value out of bounds is refused with its name. This module knows no data and no torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class RecipeError(ValueError):
    """A recipe, size or override that cannot be used, told in one sentence."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SignalsPart(_Part):
    """What is known of an item before any sequence is read."""

    spectral_dim: Count
    text_encoder: str  # "hashed", or a sentence encoder by id or folder
    text_dim: Count  # of the hashed encoder; a sentence encoder brings its own
    text_buckets: Count


class TokenizerPart(_Part):
    """The sigma-VAE K-way tokenizer (model/continuous/tokenizer.py)."""

    ways: Count
    token_dim: Count
    hidden: Count
    sigma: Annotated[float, Field(ge=0)]
    feature_mask: Share
    block_mask: Share
    decorrelation: Annotated[float, Field(ge=0)]
    epochs: Count
    batch: Count
    learning_rate: Positive


class TrunkPart(_Part):
    """The causal language model (model/continuous/backbone.py) and its training by catalogue softmax."""

    width: Count
    layers: Count
    heads: Count
    feed_forward: Count
    max_history: Count
    max_profile: Count
    dropout: Share
    residual_drop: Share
    tokens_per_step: Count
    epochs: Count
    patience: Count
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    validation_users: Count
    bf16: bool

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % (2 * self.heads):  # rotary positions turn pairs of features
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        return self


class HeadPart(_Part):
    """The anchored diffusion head (model/continuous/head.py), trained on the frozen trunk."""

    hidden: Count
    blocks: Count
    norm: Positive
    time_shift: Positive
    direction: Annotated[float, Field(ge=0)]
    dispersive: Annotated[float, Field(ge=0)]
    epochs: Annotated[int, Field(ge=0)]
    steps_per_epoch: Count
    positions_per_step: Count
    learning_rate: Positive
    samples: Count
    times: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _times_fall(self) -> Self:
        if any(earlier <= later for earlier, later in pairwise(self.times)):
            raise ValueError(f"times must fall, as noise is taken away: not {list(self.times)}")
        return self


class Recipe(_Part):
    """One complete configuration."""

    name: str
    size: str
    signals: SignalsPart
    tokenizer: TokenizerPart
    trunk: TrunkPart
    head: HeadPart


def load_recipe(name: str, size: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` in a size (default: the file's own), with overrides such as "trunk.epochs=3" on top.

    Raises RecipeError naming the recipe, size or key that does not exist or does not fit.
    """
    folder = files("training") / "recipes"
    known = sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r}; there are: {', '.join(known)}")
    raw = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
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
        return Recipe.model_validate_json(json.dumps({"name": name, "size": size, **raw}, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        raise RecipeError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _assign(raw: dict[str, Any], part: str, key: str, value: Any) -> None:
    if part not in raw or not isinstance(raw[part], dict) or key not in raw[part]:
        raise RecipeError(f"there is no setting {part}.{key} in this recipe")
    raw[part][key] = value
