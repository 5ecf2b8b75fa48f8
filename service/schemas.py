"""What goes over the wire: the requests and answers of every route, strict in both senses.

No field of a body is guessed or coerced ("10" is no k), and none is ignored (an unknown one is refused). Knows no model
and no store. Items and users have theirs in `schemas_items.py` and `schemas_users.py`.
"""

from __future__ import annotations

from enum import StrEnum
from time import time as clock
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

MAX_HISTORY = 1000
MAX_K = 200
MAX_SELECTED = 10_000
MAX_EVENTS = 1000
MAX_CANDIDATES = 1000
CLOCK_SKEW_S = 300
_LATEST = 253_402_300_799  # the end of the year 9999, in seconds; a time in milliseconds lies beyond it

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# A browser, and the OpenAPI document, hold numbers as doubles: above this two seeds would be one.
Seed = Annotated[int, Field(ge=0, lt=2**53)]


def shown(*examples: dict[str, Any]) -> ConfigDict:
    """The `model_config` of something with these examples in the OpenAPI document, which leaves out what is null."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


SOLARIS: Final = {"item_id": "n1", "title": "Solaris", "categories": ["Drama", "Sci-Fi"]}
"""The item of the examples."""

EXAMPLE_ID: Final = "9b1c57d0a4e24f6c8b3a5d000b381ad7"

_ANSWERED: Final = {
    "source": "model",
    "ignored": 0,
    "bundle": "contrec/3f2a90c11d7e",
    "recommendation_id": EXAMPLE_ID,
    "timings_ms": {"store": 0.41, "queue": 0.22, "encode": 0.0, "generate": 0.11, "retrieve": 0.93, "total": 2.85},
}


class Strict(BaseModel):
    """No coercion, no unknown field, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Selection(Strict):
    """Items by category or id; an item is meant when either names it. Ids that are unknown are counted in `ignored`."""

    categories: Annotated[list[Id], Field(max_length=MAX_SELECTED, fail_fast=True)] = []
    items: Annotated[list[Id], Field(max_length=MAX_SELECTED, fail_fast=True)] = []


class RecommendRequest(Strict):
    """Who is asking, and for what."""

    model_config = shown(
        {"user_id": "42", "k": 5},
        {"history": ["17", "3"], "k": 5, "deny": {"categories": ["Horror"]}},
        {"user_id": "42", "explore": 0.3, "seed": 7},
    )

    user_id: Id | None = Field(
        default=None, description="Whose stored history to read; unknown users get the popular list."
    )
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY, fail_fast=True)] | None = Field(
        default=None,
        description="Item ids, oldest first: read instead of the stored history, and joined to the seen set.",
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="How many items; fewer come only where fewer are eligible.")
    exclude_seen: bool = Field(default=True, description="Leave out every item the user has met.")
    allow: Selection | None = Field(default=None, description="Only these. An empty selection allows nothing.")
    deny: Selection | None = Field(default=None, description="Never these.")
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="0: best first. Up to 1: each item unlike those above it, too."
    )
    explore: float = Field(default=0.0, ge=0, le=1, description="0: the best list, always the same. 1: the boldest.")
    seed: Seed | None = Field(
        default=None, description="Of the noise when exploring; without it the recommendation_id decides."
    )
    explain: bool = Field(default=False, description="Give reasons; costs a few dozen readings of the history.")


class RankRequest(Strict):
    """Whose taste, and the candidates to be put in order."""

    model_config = shown({"user_id": "42", "items": ["17", "3", "8"]}, {"history": ["17", "3"], "items": ["8", "5"]})

    user_id: Id | None = Field(default=None, description="Whose stored history to read.")
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY, fail_fast=True)] | None = Field(
        default=None, description="Item ids, oldest first: read instead of the stored history."
    )
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)] = Field(
        description="The candidates. One that is given twice is ranked once."
    )


class Source(StrEnum):
    """The rung of the ladder that an answer came from."""

    MODEL = "model"
    STALE = "stale"
    NEIGHBOURS = "neighbours"
    POPULAR = "popular"


class Degraded(StrEnum):
    """What an answer had to do without."""

    HISTORY_UNAVAILABLE = "history_unavailable"
    CATALOGUE_UNAVAILABLE = "catalogue_unavailable"


class ReasonKind(StrEnum):
    """left_out: the logarithm of the item's probability falls by `weight` when this one is left out of the history.
    alike: their cosine."""

    LEFT_OUT = "left_out"
    ALIKE = "alike"


class Reason(BaseModel):
    """One item of the history that speaks for a recommended one."""

    item_id: str
    title: str
    kind: ReasonKind
    weight: float


class CategoryShare(BaseModel):
    """probability: that the next item is of this category. An item counts in each of its categories."""

    category: str
    probability: float


class RecommendedItem(BaseModel):
    """One item of an answer. score: comparable within one answer only; it never rises down the list, unless
    `diversity` or a dislike has moved items. reasons: present when `explain` was asked for."""

    item_id: str
    title: str
    categories: list[str]
    score: float
    reasons: list[Reason] | None = None


class Timings(BaseModel):
    """Where the milliseconds went. queue: the wait for the model. encode, generate: of the batch that the request was
    part of; 0 when skipped."""

    store: float
    queue: float
    encode: float
    generate: float
    retrieve: float
    total: float


class RecommendAnswer(BaseModel):
    """The list, and how it came about."""

    model_config = shown(
        {"items": [{**SOLARIS, "score": 4.18}, {"item_id": "8", "title": "Stalker", "categories": [], "score": 3.97}]}
        | _ANSWERED,
        {
            "items": [
                {**SOLARIS, "score": 4.18}
                | {"reasons": [{"item_id": "17", "title": "Stalker", "kind": "left_out", "weight": 0.62}]}
            ],
            "categories": [{"category": "Sci-Fi", "probability": 0.31}],
        }
        | _ANSWERED,
    )

    items: list[RecommendedItem]
    source: Source = Field(description="model | stale | neighbours | popular: the rung of the ladder")
    degraded: Degraded | None = Field(default=None, description="Present only when something was out of reach.")
    categories: list[CategoryShare] | None = Field(
        default=None, description="Present when `explain` was asked for: where the taste as a whole leans, most first."
    )
    ignored: int = Field(description="How many ids of the request the catalogue does not know.")
    bundle: str | None = Field(description="name/version of what answered; null when no bundle is loaded.")
    recommendation_id: str = Field(description="Cite it in events that follow from this answer.")
    timings_ms: Timings


class RankAnswer(BaseModel):
    """The candidates in order, and those that could not be scored."""

    model_config = shown({"items": [{**SOLARIS, "score": 4.18}], "unknown": ["8"]} | _ANSWERED)

    items: list[RecommendedItem]
    unknown: list[str] = Field(description="Candidates that the catalogue does not know, or that were withdrawn.")
    source: Source
    degraded: Degraded | None = Field(default=None, description="Present only when something was out of reach.")
    ignored: int = Field(description="How many ids of the history the catalogue does not know.")
    bundle: str | None
    recommendation_id: str
    timings_ms: Timings


EventType = Literal["view", "click", "cart", "purchase", "like", "dislike", "rating"]


def _has_happened(time: float) -> float:
    if time > clock() + CLOCK_SKEW_S:
        raise ValueError(f"lies more than {CLOCK_SKEW_S} seconds in the future")
    return time


class EventIn(Strict):
    """One interaction."""

    event_id: Id = Field(description="Made by you, once: sending it again changes nothing.")
    user_id: Id
    item_id: Id = Field(description="Kept even if the bundle of today does not know the item.")
    type: EventType = "view"
    value: float | None = Field(default=None, description="A rating, a duration; what your type means by it.")
    time: Annotated[float, Field(ge=0, le=_LATEST), AfterValidator(_has_happened)] | None = Field(
        default=None,
        description="Unix seconds; without it, now. At most five minutes ahead of the service's clock.",
    )
    recommendation_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None


class EventsIn(Strict):
    """Many interactions: all of them are kept, or none."""

    events: Annotated[list[EventIn], Field(min_length=1, max_length=MAX_EVENTS, fail_fast=True)]


def _one_or_many(body: Any) -> str:
    return "many events" if isinstance(body, dict) and "events" in body else "one event"


EventsRequest = Annotated[
    Annotated[EventIn, Tag("one event")] | Annotated[EventsIn, Tag("many events")], Discriminator(_one_or_many)
]


class EventsAnswer(BaseModel):
    """accepted: new and kept. repeated: known already by their event_id."""

    model_config = shown({"accepted": 2, "repeated": 0})

    accepted: int
    repeated: int


class BundleState(StrEnum):
    """How the bundle stands."""

    LOADING = "loading"
    SERVING = "serving"
    NONE = "none"
    REFUSED = "refused"


class BundleAnswer(BaseModel):
    """What is served. reason: why a bundle was refused, in one sentence."""

    model_config = shown(
        {"bundle": "contrec/3f2a90c11d7e", "state": "serving", "kind": "continuous", "items": 10_000},
    )

    bundle: str | None
    state: BundleState
    kind: str | None = None
    items: int = 0
    reason: str | None = None


class LiveAnswer(BaseModel):
    """That it is said at all is the answer."""

    model_config = shown({"status": "alive"})

    status: Literal["alive"] = "alive"


class ReadyAnswer(BaseModel):
    """Flags only; nothing was asked of anyone to answer this."""

    model_config = shown({"ready": True, "bundle": "serving", "store": "ok"})

    ready: bool
    bundle: BundleState
    store: Literal["ok", "unavailable"]
    reason: str | None = None
