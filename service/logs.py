"""How the service logs: one line a record, as text for people or JSON for machines, each with its request's id.

No line holds the id of a user, an item or an event: messages name none, requests appear under their route's template,
and of an exception its type and place are logged but not its text, which may quote anything. CONTREC_LOG_IDS adds the
texts and the paths, for a machine where that may be. uvicorn's records and Python's warnings take the same way.

    setup(level="info", form="json", ids=False)
    note(source="model")                     # a fact for the access line of the request at hand
"""

from __future__ import annotations

import json
import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

access: Final = logging.getLogger("contrec.access")
"""One line a request, with its facts; `middleware/measure.py` writes it."""

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)

# What uvicorn says of each request that is not HTTP; the answer is typed and counted, and a log that strangers can fill
# at will is no log.
_SAID_OFTEN: Final = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Every record of the block, and of the tasks it starts, carries the id."""
    one, other = _request_id.set(request_id), _facts.set({})
    try:
        yield
    finally:
        _request_id.reset(one)
        _facts.reset(other)


def note(**facts: str | int | float | bool) -> None:
    """Adds facts to the access line of the request at hand, if there is one. Never an id."""
    if (noted := _facts.get()) is not None:
        noted.update(facts)


def noted() -> dict[str, Any]:
    """What was noted of the request at hand."""
    return _facts.get() or {}


def setup(level: str, form: str, ids: bool) -> None:
    """Sets up the whole process's logging, on stderr. form: text or json. ids: also what may hold ids."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(ids=ids) if form == "json" else TextFormatter(ids=ids))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).handlers.clear()
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.filters[:] = [_not_said_often]
    logging.getLogger("asyncio").filters[:] = [_not_a_late_lookup]
    for chatty in ("faiss.loader", "httpx", "httpcore"):  # which builds are absent; our own questions of readiness
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _not_said_often(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_SAID_OFTEN)


def _not_a_late_lookup(record: logging.LogRecord) -> bool:
    # A name that is looked up for longer than the store may take fails when nobody waits any more; who did was told.
    return not (record.exc_info and isinstance(record.exc_info[1], socket.gaierror))


class Repeats(logging.Filter):
    """Of each complaint, so many a minute: a model that fails for every request must not fill the disk as well.

    The first one after a minute in which some were left out says how many.
    """

    def __init__(self, most: int = 10, window: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._window, self._clock = most, window, clock
        self._said: dict[tuple[str, int], tuple[float, int]] = {}  # a place in the code: since when, how often

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), self._clock()
        since, times = self._said.get(place, (now, 0))
        if now - since >= self._window:
            if times > self._most:
                record.msg, record.args = f"{record.getMessage()} (and {times - self._most} times more before)", ()
            since, times = now, 0
        self._said[place] = since, times + 1
        return times < self._most


class _Formatter(logging.Formatter):
    def __init__(self, *, ids: bool) -> None:
        super().__init__()
        self.ids = ids

    def error_of(self, record: logging.LogRecord) -> str:
        """The traceback of a record, or an empty string."""
        if not record.exc_info or record.exc_info[1] is None:
            return ""
        return "".join(self._chain(record.exc_info[1])).rstrip()

    def _chain(self, error: BaseException) -> Iterator[str]:
        if error.__cause__ is not None:
            yield from self._chain(error.__cause__)
            yield "which caused\n"
        elif error.__context__ is not None and not error.__suppress_context__:
            yield from self._chain(error.__context__)
            yield "and while that was handled\n"
        yield from traceback.format_tb(error.__traceback__)
        name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        yield f"{name}: {error}\n" if self.ids else f"{name}\n"


class TextFormatter(_Formatter):
    """2026-11-24T20:24:27.123Z INFO service.bundles: serving bundle movies/3 [request 5f2b...]"""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if request_id := _request_id.get():
            line += f" [request {request_id}]"
        error = self.error_of(record)
        return f"{line}\n{error}" if error else line


class JsonFormatter(_Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and of an access line its facts."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id.get():
            told["request_id"] = request_id
        told |= getattr(record, "facts", {})
        if error := self.error_of(record):
            told["error"] = error
        return json.dumps(told, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    """UTC, in milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
