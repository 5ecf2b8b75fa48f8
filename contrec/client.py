"""A client of the service: typed answers, typed errors, and a second try where one is safe.

    with Client("http://127.0.0.1:8000", key="ctr_...") as client:
        client.tell([Event("42", "17", "purchase")])
        for item in client.recommend("42", k=5).items:
            print(item.title, item.score)

    async with AsyncClient("http://127.0.0.1:8000") as client:
        answer = await client.send(calls.recommend("42", k=5))

Every call of `contrec.calls` but `rollback` says the same when it is sent twice: an event has its id, an item is put
as it is. So a connection that breaks, a timeout, and an answer that asks for patience (429, 502, 503, 504) are tried
again, a bounded number of times, after the seconds of `Retry-After` or a growing pause. Other refusals are told at
once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self

import httpx
from pydantic import ValidationError

from contrec import calls
from contrec.calls import Answer, Call, Event, Selection

__all__ = ["AsyncClient", "Client", "Event", "Refused", "Selection", "Unreachable"]

Given = ParamSpec("Given")

_PATIENCE: Final = frozenset({429, 502, 503, 504})


class Refused(Exception):
    """The service said no. status: of HTTP; code: one of the closed set in docs/service.md; field: what is to blame."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field


class Unreachable(Exception):
    """No answer, or none that could be read, after the last try."""


@dataclass(frozen=True, slots=True)
class Patience:
    """retries: further tries after the first. first_pause, longest_pause: seconds; a pause doubles with every try.

    A `Retry-After` that asks for more than longest_pause is not waited for.
    """

    retries: int = 2
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def pause(self, tried: int, asked_for: str | None = None) -> float | None:
        """How long to wait after `tried` tries in vain; None to give up."""
        if tried > self.retries:
            return None
        if asked_for is not None and asked_for.isdigit():
            return float(asked_for) if float(asked_for) <= self.longest_pause else None
        # Not in step with the others who were turned away at the same moment.
        pause: float = min(self.longest_pause, self.first_pause * 2 ** (tried - 1))
        return pause * random.uniform(0.5, 1.0)


_ONCE: Final = Patience(retries=0)


def _options(url: str, key: str | None, timeout: float) -> dict[str, Any]:
    headers = {} if key is None else {"X-API-Key": key}
    return {"base_url": url, "headers": headers, "timeout": timeout}


def _request(call: Call[Any]) -> dict[str, Any]:
    body = {} if call.body is None else {"json": call.body}
    return {"method": call.method, "url": call.path, "params": list(call.query) or None, **body}


def _read(call: Call[Answer], response: httpx.Response) -> Answer:
    """The answer of a response that is the last. Raises Refused or Unreachable."""
    try:
        if response.is_success:
            return call.reads.model_validate_json(response.content)
        error = response.json()["error"]
        raise Refused(response.status_code, error["code"], error["message"], error.get("field"))
    except (ValidationError, ValueError, KeyError, TypeError) as reason:
        raise Unreachable(f"{call.path} answered {response.status_code} with what this client cannot read") from reason


def _sent(make: Callable[Given, Call[Answer]]) -> Callable[Concatenate[Client, Given], Answer]:
    """The method that sends what a function of `contrec.calls` makes, with its arguments and its docstring."""

    @wraps(make)
    def send(client: Client, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return client.send(make(*given, **named))

    return send


class Client:
    """url: where the service is. key: an API key. timeout: seconds for connecting and for each answer.

    Its methods are the functions of `contrec.calls`, sent. They raise Refused and Unreachable.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float = 5.0,
        patience: Patience | None = None,
    ) -> None:
        self._http = httpx.Client(**_options(url, key, timeout))
        self._patience = patience or Patience()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the connections."""
        self._http.close()

    def send(self, call: Call[Answer]) -> Answer:
        """Sends a call, more than once where it must be, and reads the answer."""
        patience, tried = self._patience if call.repeats else _ONCE, 0
        while True:
            tried += 1
            try:
                response = self._http.request(**_request(call))
            except httpx.TransportError as error:
                if (pause := patience.pause(tried)) is None:
                    raise Unreachable(f"{call.path}: {error or type(error).__name__}") from error
            else:
                asked_for = response.headers.get("retry-after")
                if response.status_code not in _PATIENCE or (pause := patience.pause(tried, asked_for)) is None:
                    return _read(call, response)
            time.sleep(pause)

    recommend = _sent(calls.recommend)
    rank = _sent(calls.rank)
    tell = _sent(calls.tell)
    popular = _sent(calls.popular)
    similar = _sent(calls.similar)
    item = _sent(calls.item)
    put_item = _sent(calls.put_item)
    withdraw = _sent(calls.withdraw)
    user = _sent(calls.user)
    erase = _sent(calls.erase)
    bundle = _sent(calls.bundle)
    bundles = _sent(calls.bundles)
    activate = _sent(calls.activate)
    rollback = _sent(calls.rollback)
    ready = _sent(calls.ready)
    live = _sent(calls.live)


class AsyncClient:
    """The same, awaited: `await client.send(calls.recommend("42"))`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float = 5.0,
        patience: Patience | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, key, timeout))
        self._patience = patience or Patience()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Frees the connections."""
        await self._http.aclose()

    async def send(self, call: Call[Answer]) -> Answer:
        """Sends a call, more than once where it must be, and reads the answer."""
        patience, tried = self._patience if call.repeats else _ONCE, 0
        while True:
            tried += 1
            try:
                response = await self._http.request(**_request(call))
            except httpx.TransportError as error:
                if (pause := patience.pause(tried)) is None:
                    raise Unreachable(f"{call.path}: {error or type(error).__name__}") from error
            else:
                asked_for = response.headers.get("retry-after")
                if response.status_code not in _PATIENCE or (pause := patience.pause(tried, asked_for)) is None:
                    return _read(call, response)
            await asyncio.sleep(pause)
