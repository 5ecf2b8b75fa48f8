"""Where users' events live. `open_store` turns an address into a store; the contract is in `contract.py`.

sqlite:///contrec.db            a file, relative to the working directory
sqlite:////var/lib/contrec.db   a file, absolute
sqlite://:memory:               gone with the process; for trying things out
redis://host:6379/0             a Redis server, shared by replicas (also rediss:// and unix://)
redis://host:6379/0?password_file=/run/secrets/redis    the same, its password read from a file
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

from service.stores.contract import Store, StoreUnavailable
from service.stores.redis import RedisStore
from service.stores.sqlite import SqliteStore

_SQLITE = "sqlite://"
_REDIS = ("redis://", "rediss://", "unix://")


def check_address(address: str) -> str:
    """The address as given. Raises ValueError with one sentence when `open_store` would not understand it.

    No sentence repeats the address: it may hold a password.
    """
    if address.startswith(_SQLITE):
        _sqlite_path(address)
        return address
    if address.startswith(_REDIS) and address.split("://", 1)[1]:
        try:
            parse_url(address)
        except ValueError:
            raise ValueError(
                "the address of the Redis server cannot be read: give redis://HOST:PORT/DB, with / @ : and # of a "
                "password written as %2F %40 %3A and %23"
            ) from None
        return address
    raise ValueError("it is no store: give sqlite:///FILE, sqlite://:memory: or redis://HOST:PORT/DB")


async def open_store(address: str, *, timeout: float = 0.1, connections: int = 32) -> Store:
    """Opens the store at an address. timeout: seconds for a read; a write has WRITES_WAIT times as long. connections
    concern Redis.

    Raises ValueError for an address of no known kind, StoreIncompatible for a file of another program or
    version, StoreUnavailable for a file that cannot be opened. A Redis server that is down is not an error here.
    """
    check_address(address)
    if address.startswith(_SQLITE):
        return await SqliteStore.open(_sqlite_path(address), timeout=timeout)
    url, password = _password(address)
    return RedisStore.connect(url, password=password, timeout=timeout, connections=connections)


def _sqlite_path(address: str) -> str:
    rest = address.removeprefix(_SQLITE)
    if rest in (":memory:", "/:memory:"):
        return ":memory:"
    if not rest.startswith("/") or rest == "/":
        raise ValueError("it names no file: give sqlite:///FILE (three slashes, four for an absolute path)")
    return rest[1:]


def _password(address: str) -> tuple[str, str | None]:
    """The address without `password_file`, and what that file holds: a secret stays out of the environment."""
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    file = options.pop("password_file", None)
    if file is None:
        return address, None
    try:
        password = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StoreUnavailable(f"the password_file {file} cannot be read: {reason}") from None
    return urlunsplit(parts._replace(query=urlencode(options))), password
