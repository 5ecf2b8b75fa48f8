"""The shared store: Redis, for several replicas of the service.

One read is one round trip (a Lua script, for everyone who asks at the time), one append another, all or none. Keys, all
under `contrec:`

    position            counter: the last log position given
    log                 stream, entry id <position>-0: the event log
    event_ids           set: what makes append idempotent
    popular             sorted set item -> -count, so that equal counts come in order of id
    history:<user>      sorted set "<position, 16 digits><item>" -> time, trimmed to the tail
    seen:<user>         set of item ids
    older:<user>        sorted set item -> time of its newest positive event that was trimmed from the history; what was
                        trimmed before this key was kept is not in it
    negatives:<user>    sorted set item -> time of its newest negative event, left out where a later event that is
                        not in the history takes it back
    positions:<user>    list of the user's log positions; the last one is the version
    erased:<position>   list of the log positions, up to this one, of a user who is being erased
    erasing:<user>      set of these last positions, while their lists are there
    tokens:<bundle>:<user>   8 bytes version, little-endian, then the tokens; the only keys with a TTL
    bundles:<user>      set of bundles for which tokens were written, for erase
    catalogue           the catalogue version, see contract.next_version
    items               hash item -> what was said of it, JSON
    items_by_version    sorted set item -> the catalogue version at its writing
    pointer:<name>      hash version, previous, moved: which version of a bundle is active, and since when

Run Redis with `maxmemory-policy volatile-lru`, so that only tokens are evicted. Not for Redis Cluster: the log
is one key and the scripts touch several.

    store = RedisStore.connect("redis://127.0.0.1:6379/0", timeout=0.1, connections=32)
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from service.stores import redis_scripts as scripts
from service.stores.contract import (
    WRITES_WAIT,
    Appended,
    Event,
    Pointer,
    StoredItem,
    StoreUnavailable,
    UserRecord,
    check_batch,
    positive_tail,
)
from service.stores.gather import Gather
from service.stores.waiting import within

T = TypeVar("T")

_PREFIX: Final = "contrec:"
_VERSION: Final = struct.Struct("<Q")
_PAGE: Final = 1000
_FORGET_AT_ONCE: Final = 300  # events of one script: some 15 ms in which Redis answers nobody else


class RedisStore:
    """A `Store` on one Redis server. Connecting is lazy: a server that is down now is used when it is back."""

    def __init__(self, redis: Redis, timeout: float) -> None:
        self._redis = redis
        self._timeout = timeout
        self._append = redis.register_script(scripts.APPEND)
        self._read_users = redis.register_script(scripts.READ_USERS)
        self._reads: Gather[tuple[str, str], UserRecord] = Gather(self._read_many)
        self._write_tokens = redis.register_script(scripts.WRITE_TOKENS)
        self._leave = redis.register_script(scripts.LEAVE)
        self._forget = redis.register_script(scripts.FORGET)
        self._positions = redis.register_script(scripts.POSITIONS)
        self._write_items = redis.register_script(scripts.WRITE_ITEMS)
        self._read_items = redis.register_script(scripts.READ_ITEMS)
        self._write_pointer = redis.register_script(scripts.WRITE_POINTER)

    @classmethod
    def connect(
        cls, url: str, *, password: str | None = None, timeout: float = 0.1, connections: int = 32
    ) -> RedisStore:
        """password: where the url has none. timeout: seconds for a read, with the wait for a connection; a write has
        five times as long."""
        pool = BlockingConnectionPool.from_url(
            url,
            password=password,
            max_connections=connections,
            timeout=timeout,
            socket_timeout=None,  # `within` limits the whole call, without the task that redis-py makes for a send
            socket_connect_timeout=timeout,
            # One retry at once: it replaces a pooled connection that the server closed while it restarted. Safe
            # for appends too, which are idempotent.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
        return cls(Redis.from_pool(pool), timeout)

    async def _keep(self, work: Awaitable[T]) -> T:
        """A call that writes, which nobody looks at a page for."""
        return await self._call(work, self._timeout * WRITES_WAIT)

    async def _call(self, work: Awaitable[T], timeout: float | None = None) -> T:
        seconds = timeout or self._timeout
        try:
            return await within(seconds, work)
        except TimeoutError as error:
            raise StoreUnavailable(f"Redis did not answer within {1000 * seconds:g} ms") from error
        except (RedisError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise StoreUnavailable(f"Redis refused or is out of reach: {reason}") from error

    async def append(self, events: Sequence[Event]) -> Appended:
        check_batch(events)
        arguments: list[str | bytes] = []
        for event in events:
            value = "" if event.value is None else repr(float(event.value))
            arguments += [event.event_id, event.user_id, event.item_id, event.type, value, repr(float(event.time))]
            arguments += [event.recommendation_id or "", str(int(event.negative))]
        new = tuple(cast(list[int], await self._keep(self._append(args=arguments))))
        return Appended(accepted=len(new), repeated=len(events) - len(new), new=new)

    async def read_user(self, user_id: str, bundle: str) -> UserRecord:
        return await self._reads.ask((user_id, bundle))

    async def _read_many(self, asked: Sequence[tuple[str, str]]) -> list[UserRecord]:
        # Not a MULTI: Redis refuses even reads inside one while it is over maxmemory.
        keys = [_tokens_key(bundle, user_id) for user_id, bundle in asked]
        found = await self._call(self._read_users(keys=keys, args=[user_id for user_id, _ in asked]))
        return [_record(*one) for one in cast(list[Any], found)]

    async def write_tokens(self, user_id: str, bundle: str, version: int, data: bytes, ttl: float) -> None:
        value = _VERSION.pack(version) + data
        arguments: list[str | int | bytes] = [user_id, _bundle(bundle), version, value, max(1, int(ttl * 1000))]
        await self._keep(self._write_tokens(keys=[_tokens_key(bundle, user_id)], args=arguments))

    async def popular(self, n: int) -> list[tuple[str, int]]:
        if n <= 0:
            return []
        found: list[Any] = await self._call(
            cast(Any, self._redis.zrange(f"{_PREFIX}popular", 0, n - 1, withscores=True))
        )
        return [(item_id.decode(), -int(count)) for item_id, count in found]

    async def events(self, after: int | None = None) -> AsyncIterator[tuple[int, Event]]:
        position = after or 0
        while True:
            start = f"({position}-0"
            page: list[Any] = await self._call(cast(Any, self._redis.xrange(f"{_PREFIX}log", min=start, count=_PAGE)))
            for entry in page:
                position, event = _entry(*entry)
                yield position, event
            if len(page) < _PAGE:
                return

    async def user_events(self, user_id: str, after: int = 0, n: int = 1000) -> list[tuple[int, Event]]:
        # An erasure may come in between; what is gone is left out.
        wanted = [int(one) for one in cast(list[bytes], await self._call(self._positions(args=[user_id, after, n])))]
        pipeline = self._redis.pipeline(transaction=False)
        for position in wanted:
            pipeline.xrange(f"{_PREFIX}log", min=f"{position}-0", max=f"{position}-0")
        pages = cast(list[Any], await self._call(pipeline.execute())) if wanted else []
        return [_entry(*entry) for page in pages for entry in page]

    async def write_items(self, items: Sequence[StoredItem]) -> int:
        arguments: list[str | bytes] = []
        for item in items:
            arguments += [item.item_id, json.dumps(asdict(item), ensure_ascii=False)]
        return int(cast(int, await self._keep(self._write_items(args=arguments))))

    async def read_items(self, after: int) -> tuple[int, list[StoredItem]]:
        version, *items = cast(list[Any], await self._call(self._read_items(args=[after])))
        return version, [_item(json.loads(item)) for item in items]

    async def read_pointer(self, name: str) -> Pointer | None:
        found = await self._call(
            cast(Any, self._redis.hmget(f"{_PREFIX}pointer:{name}", ["version", "previous", "moved"]))
        )
        return None if found[0] is None else _pointer(*found)

    async def write_pointer(self, name: str, pointer: Pointer) -> Pointer:
        said = [pointer.version, pointer.previous or "", repr(pointer.moved)]
        return _pointer(*await self._keep(self._write_pointer(keys=[f"{_PREFIX}pointer:{name}"], args=said)))

    async def erase(self, user_id: str) -> int:
        removed = 0
        for left in cast(list[bytes], await self._keep(self._leave(args=[user_id]))):
            while step := cast(int, await self._keep(self._forget(args=[user_id, left, _FORGET_AT_ONCE]))):
                removed += step
        return removed

    async def ping(self) -> None:
        await self._call(self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()


def _record(
    version: bytes | None, positives: list[bytes], negatives: list[bytes], seen: list[bytes], tokens: bytes | None
) -> UserRecord:
    """What `scripts.READ_USERS` found of one user. positives, negatives: member, score, member, score and so on."""
    known = tokens is not None and len(tokens) >= _VERSION.size
    history, disliked = positive_tail(
        zip(
            map(float, positives[1::2]),
            (member[scripts.POSITION_DIGITS :].decode() for member in positives[::2]),
            strict=True,
        ),
        dict(zip((item_id.decode() for item_id in negatives[::2]), map(float, negatives[1::2]), strict=True)),
    )
    return UserRecord(
        history=history,
        seen=frozenset([item_id.decode() for item_id in seen]),
        disliked=disliked,
        version=int(version or 0),
        tokens=tokens[_VERSION.size :] if tokens is not None and known else None,
        tokens_version=_VERSION.unpack_from(tokens)[0] if tokens is not None and known else None,
    )


def _bundle(bundle: str) -> str:
    """Quoted, so that a colon in a bundle's name cannot make two users' keys one."""
    return quote(bundle, safe="/")


def _tokens_key(bundle: str, user_id: str) -> str:
    return f"{_PREFIX}tokens:{_bundle(bundle)}:{user_id}"


def _pointer(version: bytes, previous: bytes | None, moved: bytes | None) -> Pointer:
    """moved: missing where the pointer was written before moves had times."""
    return Pointer(version.decode(), previous.decode() if previous else None, float(moved or 0))


def _item(record: dict[str, Any]) -> StoredItem:
    return StoredItem(**{**record, "categories": tuple(record["categories"])})


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> tuple[int, Event]:
    event = _event({name.decode(): value.decode() for name, value in fields.items()})
    return int(entry_id.split(b"-")[0]), event


def _event(fields: dict[str, str]) -> Event:
    return Event(
        event_id=fields["event_id"],
        user_id=fields["user_id"],
        item_id=fields["item_id"],
        type=fields["type"],
        value=float(fields["value"]) if fields["value"] else None,
        time=float(fields["time"]),
        recommendation_id=fields["recommendation_id"] or None,
    )
