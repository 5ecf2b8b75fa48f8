"""What a recipe of kind `continuous` says: ContRec and DeftRec (training/systems/continuous.py).

No setting has a default here: the TOML files beside this module are complete.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.recipe import Count, Part, Positive, Recipe, Share

Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]  # to choose among on validation


class SignalsPart(Part):
    """What is known of an item before any sequence is read."""

    collaborative: Literal["spectral", "lightgcn"]
    spectral_dim: Count
    lightgcn_layers: Annotated[int, Field(ge=0)]
    lightgcn_epochs: Count
    lightgcn_rate: Positive
    text_encoder: str  # "hashed", or a sentence encoder by id or folder
    text_dim: Count  # of the hashed encoder; a sentence encoder brings its own
    text_buckets: Count


class TokenizerPart(Part):
    """The sigma-VAE K-way tokenizer (model/continuous/tokenizer.py)."""

    ways: Count
    token_dim: Count
    hidden: Count
    sigma: Annotated[float, Field(ge=0)]
    feature_mask: Share
    block_mask: Share
    decorrelation: Annotated[float, Field(ge=0)]
    normalise: bool
    epochs: Count
    batch: Count
    learning_rate: Positive


class LanguagePart(Part):
    """A pretrained language model as the trunk (model/continuous/language.py). Without a base, the rest is unused."""

    base: str
    revision: str
    tuning: Literal["lora", "full", "frozen"]
    rank: Count
    alpha: Count
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    title_tokens: Annotated[int, Field(ge=0)]
    prompt: str
    include_base: bool

    @model_validator(mode="after")
    def _tuned_weights_are_kept(self) -> Self:
        if self.tuning == "full" and not self.include_base:
            raise ValueError("tuning full changes the base itself: include_base=false would leave out what was learnt")
        return self


class AttentionPart(Part):
    """A transformer of some width, in heads."""

    width: Count
    heads: Count

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % (2 * self.heads):  # rotary positions turn pairs of features
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        return self


class TrunkPart(AttentionPart):
    """The causal language model (model/continuous/backbone.py) and its training by catalogue softmax."""

    layers: Count
    feed_forward: Count
    kernel: Count
    max_history: Count
    max_profile: Count
    exclude_seen: bool
    dropout: Share
    tokens_per_step: Count
    accumulate: Count
    epochs: Count
    patience: Count
    learning_rate: Positive
    pretrained_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    validation_users: Count
    bf16: bool


class TextHalfPart(Part):
    """The text half (model/continuous/hybrid.py): a trunk over what items say, its score added to the behaviour's."""

    text_dim: Count  # of the hashed encoder; a sentence encoder brings its own
    epochs: Annotated[int, Field(ge=0)]
    dropout: Share
    learning_rate: Positive
    kernel: Count
    residual: bool
    weights: Weights

    @model_validator(mode="after")
    def _wants_something(self) -> Self:
        if self.epochs and max(self.weights) == 0:
            raise ValueError("weights has none above 0: say epochs = 0 to serve without a text half")
        return self


class TransitionsPart(Part):
    """What followed the last items (model/continuous/transitions.py), counted, its log share added to the score."""

    window: Count
    decay: Annotated[float, Field(gt=0, le=1)]
    keep: Count
    floor: Share
    weights: Weights

    @model_validator(mode="after")
    def _has_a_floor(self) -> Self:
        if self.floor == 0:
            raise ValueError("floor must be above 0: the logarithm of nothing has no place in a score")
        return self


class HeadPart(Part):
    """The anchored diffusion head (model/continuous/head.py), trained on the frozen trunk."""

    hidden: Count
    blocks: Count
    norm: Positive
    time_shift: Positive
    direction: Annotated[float, Field(ge=0)]
    dispersive: Annotated[float, Field(ge=0)]
    unconditional: Share
    negatives: Literal["softmax", "margin", "preferdiff"]
    negative: Annotated[float, Field(ge=0)]
    epochs: Annotated[int, Field(ge=0)]
    steps_per_epoch: Count
    positions_per_step: Count
    learning_rate: Positive
    samples: Count
    times: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]
    guidance: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _times_fall(self) -> Self:
        if any(earlier <= later for earlier, later in pairwise(self.times)):
            raise ValueError(f"times must fall, as noise is taken away: not {list(self.times)}")
        return self


class ContinuousRecipe(Recipe):
    """One complete configuration."""

    kind: ClassVar[str] = "continuous"

    signals: SignalsPart
    tokenizer: TokenizerPart
    language: LanguagePart
    trunk: TrunkPart
    head: HeadPart
    text_half: TextHalfPart
    transitions: TransitionsPart
