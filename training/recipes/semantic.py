"""What a recipe of kind `semantic` says: DiffGRM (training/systems/semantic.py).

No setting has a default here: the TOML files beside this module are complete.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from training.recipe import Count, Part, Positive, Recipe, Share
from training.recipes.continuous import AttentionPart, SignalsPart

Whole = Annotated[int, Field(ge=0)]


class CodesPart(Part):
    """Parallel semantic encoding (model/semantic/codes.py)."""

    digits: Annotated[int, Field(ge=1, le=6)]
    codes: Annotated[int, Field(ge=2, le=256)]
    text_dim: Whole
    collaborative_dim: Whole
    iterations: Count

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.codes & (self.codes - 1):
            raise ValueError(f"codes {self.codes} must be a power of two")
        return self


class NetworkPart(AttentionPart):
    """The masked-diffusion network over semantic ids (model/semantic/network.py) and its training."""

    feed_forward: Count
    decoder_feed_forward: Count
    encoder_layers: Count
    decoder_layers: Count
    digit_dim: Count
    memory: Count
    max_history: Count
    dropout: Share
    residual_drop: Share
    label_smoothing: Share
    item: Annotated[float, Field(ge=0)]
    joint: Annotated[float, Field(ge=0)]
    digits: Annotated[float, Field(ge=0)]
    decode_share: Annotated[float, Field(gt=0, le=1)]
    view_share: Annotated[float, Field(ge=0, le=1)]
    negatives: Count
    tokens_per_step: Count
    epochs: Count
    patience: Count
    learning_rate: Positive
    warmup_steps: Whole
    weight_decay: Annotated[float, Field(ge=0)]
    validation_users: Count
    bf16: bool


class DecodingPart(Part):
    """How lists are made (model/semantic/decoding.py); the weights are chosen on validation among those given."""

    beam: Whole
    candidates: Whole
    steps: Count
    digit_weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]


class SemanticRecipe(Recipe):
    """One complete configuration."""

    kind: ClassVar[str] = "semantic"

    signals: SignalsPart
    codes: CodesPart
    network: NetworkPart
    decoding: DecodingPart
