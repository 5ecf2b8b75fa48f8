"""What goes over the wire about items: said of them, asked of them, and lists that need no user."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.schemas import MAX_K, SOLARIS, Degraded, Id, RecommendedItem, Selection, Source, Strict, shown

MAX_TITLE = 1024
MAX_TEXT = 20_000
MAX_CATEGORIES = 64
_MAX_IN_QUERY = 200
_TEXT = "A planet that remembers."


class ItemIn(Strict):
    """An item as a person would describe it. What is left out is empty."""

    model_config = shown({"title": "Solaris", "categories": ["Drama", "Sci-Fi"], "text": _TEXT})

    title: Annotated[str, StringConstraints(max_length=MAX_TITLE)] = ""
    categories: Annotated[list[Id], Field(max_length=MAX_CATEGORIES, fail_fast=True)] = Field(default_factory=list)
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)] = Field(
        default="", description="What a new item is placed by; without it, its title and categories are."
    )


class ItemWritten(BaseModel):
    """The write is kept. Every replica knows it once its `contrec_catalogue_version` is this."""

    model_config = shown({"item_id": "n1", "catalogue_version": 1764444638215})

    item_id: str
    catalogue_version: int


class ItemAnswer(BaseModel):
    """What is known of an item now."""

    model_config = shown({**SOLARIS, "text": _TEXT, "in_bundle": True})

    item_id: str
    title: str
    categories: list[str]
    text: str
    in_bundle: bool = Field(description="Whether the recommender that is served can return it.")


def _several(description: str, example: list[str]) -> Any:
    return Field(max_length=_MAX_IN_QUERY, description=description, examples=[example])


class ListQuery(BaseModel):
    """Filters of the lists that need no user; each may be given several times."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=MAX_K, description="How many items at most.", examples=[5])
    allow_category: Annotated[list[Id], _several("Only items of these.", ["Drama"])] = []
    allow_item: Annotated[list[Id], _several("And these.", ["17"])] = []
    deny_category: Annotated[list[Id], _several("No item of these.", ["Horror"])] = []
    deny_item: Annotated[list[Id], _several("Nor these.", ["8"])] = []

    @property
    def allow(self) -> Selection | None:
        """What may come back; None for no restriction."""
        given = self.allow_category or self.allow_item
        return Selection(categories=self.allow_category, items=self.allow_item) if given else None

    @property
    def deny(self) -> Selection:
        """What must not."""
        return Selection(categories=self.deny_category, items=self.deny_item)


class ListAnswer(BaseModel):
    """source: neighbours (by likeness) or popular (by count)."""

    model_config = shown(
        {
            "items": [{**SOLARIS, "score": 0.83}],
            "source": "neighbours",
            "bundle": "contrec/3f2a90c11d7e",
            "recommendation_id": "51d3e8b76c0f4a9db2e6c1720b381ad7",
        }
    )

    items: list[RecommendedItem]
    source: Source
    degraded: Degraded | None = Field(default=None, description="Present only when something was out of reach.")
    bundle: str | None
    recommendation_id: str = Field(description="Cite it in events that follow from this list.")
