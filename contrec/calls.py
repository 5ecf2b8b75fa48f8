"""What the service can be asked, one function a route: each makes a `Call`, and nothing is sent yet.

`contrec.client` sends them, at once or awaited. Knows no HTTP library.

    call = recommend("42", k=5)                  # Call(POST /recommend, the body, what the answer is read as)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel

from service.schemas import BundleAnswer, EventsAnswer, LiveAnswer, RankAnswer, ReadyAnswer, RecommendAnswer
from service.schemas_bundles import BundlesAnswer
from service.schemas_items import ItemAnswer, ItemWritten, ListAnswer
from service.schemas_users import ErasedAnswer, UserAnswer

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request. reads: what a 200 is read as; an answer of a newer service may hold more.

    repeats: whether it may be sent again, since it only asks or says the same a second time.
    """

    method: str
    path: str
    reads: type[Answer]
    body: Mapping[str, Any] | None = None
    query: Sequence[tuple[str, str | int]] = ()
    repeats: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction. event_id: made here where none is given, so that sending this event again counts once."""

    user_id: str
    item_id: str
    type: str = "view"
    value: float | None = None
    time: float | None = None
    recommendation_id: str | None = None
    event_id: str = field(default_factory=lambda: uuid4().hex)

    def body(self) -> dict[str, Any]:
        """As the service reads it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Selection:
    """Items by category or by id; one is meant when either names it."""

    categories: Sequence[str] = ()
    items: Sequence[str] = ()

    def body(self) -> dict[str, list[str]]:
        """As the service reads it."""
        return {"categories": list(self.categories), "items": list(self.items)}


def recommend(
    user_id: str | None = None,
    *,
    history: Sequence[str] | None = None,
    k: int = 10,
    exclude_seen: bool = True,
    allow: Selection | None = None,
    deny: Selection | None = None,
    diversity: float = 0.0,
    explore: float = 0.0,
    seed: int | None = None,
    explain: bool = False,
) -> Call[RecommendAnswer]:
    """POST /recommend: k items for a user, or for a history that is given."""
    body = _given(
        user_id=user_id,
        history=None if history is None else list(history),
        k=k,
        exclude_seen=exclude_seen,
        allow=allow and allow.body(),
        deny=deny and deny.body(),
        diversity=diversity,
        explore=explore,
        seed=seed,
        explain=explain,
    )
    return Call("POST", "/recommend", RecommendAnswer, body)


def rank(items: Sequence[str], user_id: str | None = None, *, history: Sequence[str] | None = None) -> Call[RankAnswer]:
    """POST /rank: candidates of yours in order."""
    body = _given(user_id=user_id, history=None if history is None else list(history), items=list(items))
    return Call("POST", "/rank", RankAnswer, body)


def tell(events: Event | Iterable[Event]) -> Call[EventsAnswer]:
    """POST /events: one, or up to 1,000, all or none."""
    many = [events] if isinstance(events, Event) else events
    return Call("POST", "/events", EventsAnswer, {"events": [event.body() for event in many]})


def popular(k: int = 10, *, allow: Selection | None = None, deny: Selection | None = None) -> Call[ListAnswer]:
    """GET /popular: what is popular."""
    return Call("GET", "/popular", ListAnswer, query=_query(k, allow, deny))


def similar(
    item_id: str, k: int = 10, *, allow: Selection | None = None, deny: Selection | None = None
) -> Call[ListAnswer]:
    """GET /items/{item_id}/similar: what is like an item."""
    return Call("GET", f"/items/{_segment(item_id)}/similar", ListAnswer, query=_query(k, allow, deny))


def item(item_id: str) -> Call[ItemAnswer]:
    """GET /items/{item_id}: what is known of an item."""
    return Call("GET", f"/items/{_segment(item_id)}", ItemAnswer)


def put_item(item_id: str, *, title: str = "", categories: Sequence[str] = (), text: str = "") -> Call[ItemWritten]:
    """PUT /items/{item_id}: says what an item is."""
    body = {"title": title, "categories": list(categories), "text": text}
    return Call("PUT", f"/items/{_segment(item_id)}", ItemWritten, body)


def withdraw(item_id: str) -> Call[ItemWritten]:
    """DELETE /items/{item_id}: takes an item out of every answer."""
    return Call("DELETE", f"/items/{_segment(item_id)}", ItemWritten)


def user(user_id: str, *, after: int = 0, n: int = 1000) -> Call[UserAnswer]:
    """GET /users/{user_id}: one page of what is stored of a user."""
    return Call("GET", f"/users/{_segment(user_id)}", UserAnswer, query=[("after", after), ("n", n)])


def erase(user_id: str) -> Call[ErasedAnswer]:
    """DELETE /users/{user_id}: forgets a user."""
    return Call("DELETE", f"/users/{_segment(user_id)}", ErasedAnswer)


def bundle() -> Call[BundleAnswer]:
    """GET /bundle: what is served."""
    return Call("GET", "/bundle", BundleAnswer)


def bundles() -> Call[BundlesAnswer]:
    """GET /admin/bundles: every published version, oldest first."""
    return Call("GET", "/admin/bundles", BundlesAnswer)


def activate(version: str) -> Call[BundleAnswer]:
    """POST /admin/bundles/activate: serves a version, once it is loaded; every replica follows."""
    return Call("POST", "/admin/bundles/activate", BundleAnswer, {"version": version})


def rollback() -> Call[BundleAnswer]:
    """POST /admin/bundles/rollback: serves the version before this one. Twice is where one began, so it is sent once:
    after Unreachable ask `bundle` which of the two is served."""
    return Call("POST", "/admin/bundles/rollback", BundleAnswer, repeats=False)


def ready() -> Call[ReadyAnswer]:
    """GET /readyz: whether the service wants requests; anything but yes makes the client raise Unreachable."""
    return Call("GET", "/readyz", ReadyAnswer)


def live() -> Call[LiveAnswer]:
    """GET /livez: whether the process is alive."""
    return Call("GET", "/livez", LiveAnswer)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _segment(name: str) -> str:
    """One segment of a path. Raises ValueError for what cannot be one, however it is written."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} cannot be named in a path")
    return quote(name, safe="")


def _query(k: int, allow: Selection | None, deny: Selection | None) -> list[tuple[str, str | int]]:
    if allow is not None and not (allow.categories or allow.items):
        raise ValueError("allow names nothing, so nothing could come back; leave it out for no restriction")
    found: list[tuple[str, str | int]] = [("k", k)]
    for name, selection in (("allow", allow), ("deny", deny)):
        if selection is not None:
            found += [(f"{name}_category", category) for category in selection.categories]
            found += [(f"{name}_item", item_id) for item_id in selection.items]
    return found
