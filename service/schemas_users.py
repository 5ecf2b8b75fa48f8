"""What goes over the wire about what is stored of a user."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.schemas import EXAMPLE_ID, Id, shown


class StoredEvent(BaseModel):
    """One event as it is kept."""

    event_id: str
    item_id: str
    type: str
    value: float | None
    time: float
    recommendation_id: str | None


class UserQuery(BaseModel):
    """Which page of a user's events."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, lt=2**53, description="`next` of the page before.", examples=[0])
    n: int = Field(default=1000, ge=1, le=1000, description="How many events at most.", examples=[100])


class UserAnswer(BaseModel):
    """All that is stored of a user. Cached user tokens are made from it, and carry no more than it does."""

    model_config = shown(
        {
            "user_id": "42",
            "events": [
                {"event_id": "a1", "item_id": "17", "type": "rating", "value": 4.5, "time": 1760000000.0}
                | {"recommendation_id": EXAMPLE_ID}
            ],
            "next": 1,
            "history": ["17"],
            "seen": 1,
            "disliked": [],
        }
    )

    user_id: Id
    events: list[StoredEvent] = Field(description="In order of arrival.")
    next: int | None = Field(description="`after` of the next page; null on the last.")
    history: list[str] = Field(description="What the model reads: the newest items in order, without the disliked.")
    seen: int = Field(description="How many different items the user has met.")
    disliked: list[str] = Field(description="Items whose newest event is a dislike or a low rating: never recommended.")


class ErasedAnswer(BaseModel):
    """events: how many were removed, from the log, the history, the seen set and the counts."""

    model_config = shown({"user_id": "42", "events": 3})

    user_id: Id
    events: int
