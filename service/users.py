"""What is known of users: their stored history and tokens, read and written through the guard of the store.

An outage becomes an empty record that says so, or the typed refusal of a write; nothing else of the service sees a
store's error. Knows no model and no bundle but its label.

    user = await users.read("42", "movies/1")        # never raises: user.degraded says that the store was silent
    answer = await users.append([EventIn(...)])      # raises the typed store_unavailable
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from model.recommender import UserTokens
from service.bundles import Served
from service.errors import ApiError, ErrorCode
from service.guard import Guard
from service.insights import Insights
from service.metrics import Metrics
from service.schemas import EventIn, EventsAnswer
from service.schemas_users import StoredEvent, UserAnswer, UserQuery
from service.stores.contract import Event, Store, StoreUnavailable, UserRecord

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_CATALOGUE = struct.Struct("<Q")  # before the tokens in the store: the catalogue version that they were made from
_SILENT = "the store does not answer, ask again"


def in_doubt(what: str) -> ApiError:
    """The refusal of a write that the store did not confirm: it may have refused it, or have answered too late."""
    message = f"the store did not confirm it; whether {what} is not known. Send it again: done twice is done once"
    return ApiError(ErrorCode.STORE_UNAVAILABLE, message, retry_after=RETRY_AFTER_S)


@dataclass(slots=True)
class User:
    """What the store knew, how long it took in milliseconds, and whether it was silent."""

    record: UserRecord = field(default_factory=UserRecord)
    store_ms: float = 0.0
    degraded: bool = False

    def fresh(self, said: int) -> bool:
        """Whether the stored tokens were made from the history as it is now, and from a catalogue of version `said`
        or newer: an item may have become known, or moved, since its event."""
        version, data = self.record.tokens_version, self.record.tokens
        if version is None or version < self.record.version or data is None or len(data) < _CATALOGUE.size:
            return False
        (made_from,) = _CATALOGUE.unpack_from(data)
        return bool(made_from >= said)

    def tokens(self) -> UserTokens | None:
        """The stored user tokens, or None where there are none or they cannot be read."""
        if self.record.tokens is None:
            return None
        try:
            return UserTokens.from_bytes(self.record.tokens[_CATALOGUE.size :])
        except ValueError as error:
            log.warning("user tokens in the store cannot be read and are made again: %s", error)
            return None


class Users:
    """See the module. token_ttl_s: how long user tokens are kept."""

    def __init__(self, guard: Guard, metrics: Metrics, insights: Insights, token_ttl_s: int) -> None:
        self._guard = guard
        self._metrics = metrics
        self._insights = insights
        self._token_ttl_s = token_ttl_s

    async def read(self, user_id: str | None, bundle: str) -> User:
        """The user with the tokens of that bundle; nobody where there is no id."""
        if user_id is None:
            return User()
        started = time.perf_counter()
        user = User()
        try:
            user.record = await self._guard.read("read_user", lambda store: store.read_user(user_id, bundle))
        except StoreUnavailable:
            user.degraded = True
        user.store_ms = (time.perf_counter() - started) * 1000
        return user

    async def append(self, events: Sequence[EventIn]) -> EventsAnswer:
        """Keeps events; when this returns they are kept. Raises the typed store_unavailable."""
        now = time.time()
        kept = [_event(event, now) for event in events]
        try:
            appended = await self._guard.write("append", lambda store: store.append(kept))
        except StoreUnavailable:
            raise in_doubt("all of these events were kept or none") from None
        self._metrics.events.labels(result="accepted").inc(appended.accepted)
        self._metrics.events.labels(result="repeated").inc(appended.repeated)
        for event in (kept[place] for place in appended.new):  # a retry must not count a click twice
            if event.recommendation_id is not None:
                self._insights.cited(event.recommendation_id, event.type)
        return EventsAnswer(accepted=appended.accepted, repeated=appended.repeated)

    async def stored(self, user_id: str, query: UserQuery) -> UserAnswer:
        """All that is stored of a user, one page of events at a time. Raises not_found and store_unavailable."""

        async def read(store: Store) -> tuple[list[tuple[int, Event]], UserRecord]:
            return await store.user_events(user_id, query.after, query.n), await store.read_user(user_id, "")

        try:
            page, record = await self._guard.read("user_events", read)
        except StoreUnavailable:
            raise ApiError(ErrorCode.STORE_UNAVAILABLE, _SILENT, retry_after=RETRY_AFTER_S) from None
        if not record.seen:
            raise ApiError(ErrorCode.NOT_FOUND, "nothing is stored of this user", field="user_id")
        return UserAnswer(
            user_id=user_id,
            events=[StoredEvent(**{k: v for k, v in asdict(event).items() if k != "user_id"}) for _, event in page],
            next=page[-1][0] if len(page) == query.n else None,
            history=list(record.history),
            seen=len(record.seen),
            disliked=sorted(record.disliked),
        )

    async def erase(self, user_id: str) -> int:
        """Forgets the user wholly; returns how many events that removed. Raises store_unavailable."""
        try:
            return await self._guard.write("erase", lambda store: store.erase(user_id))
        except StoreUnavailable:
            raise in_doubt("the user was erased") from None

    async def keep_tokens(self, user_id: str, served: Served, version: int, tokens: UserTokens) -> None:
        """Keeps user tokens. Never raises: the answer is out already, the next request encodes once more."""
        bundle, data = served.label, _CATALOGUE.pack(served.catalogue_version) + tokens.to_bytes()
        try:
            await self._guard.write(
                "write_tokens",
                lambda store: store.write_tokens(user_id, bundle, version, data, self._token_ttl_s),
            )
        except StoreUnavailable:
            log.debug("user tokens were not kept")

    async def popular(self, n: int) -> list[tuple[str, int]] | None:
        """The n items with the most events and their counts, or None when the store is silent."""
        try:
            return await self._guard.read("popular", lambda store: store.popular(n))
        except StoreUnavailable:
            return None


def _event(event: EventIn, now: float) -> Event:
    return Event(
        event_id=event.event_id,
        user_id=event.user_id,
        item_id=event.item_id,
        type=event.type,
        value=event.value,
        time=now if event.time is None else event.time,
        recommendation_id=event.recommendation_id,
    )
