"""One HTTP connection, bounded in time, size and number: what no application can do, because it is not asked yet.

uvicorn waits for ever for the rest of a request line, keeps headers of any length, and takes any number of connections.
This is its own protocol with those three closed, and with refusals of the same shape as everybody's. Knows no route.

    uvicorn.Config(app, http=bounded(Limits(seconds=10, header_bytes=16_384, connections=1000), count))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import STATUS, ErrorCode
from service.writes import Together

_LINGER_S = 1.0
"""Closing a connection while bytes arrive resets it, and the client never reads why: so it is heard out briefly."""


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: for the request line and headers, and for a client to take its answer. header_bytes: of both together.
    connections: at a time, for the whole process."""

    seconds: float
    header_bytes: int
    connections: int


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with `limits`; `count` is told of each refusal. Make it with `bounded`."""

    limits: ClassVar[Limits]
    count: ClassVar[Callable[[ErrorCode], None]]

    _in_head = False
    _head_bytes = 0
    _moved = False  # whether what came began or ended a message, or was part of a body
    _loose_bytes = 0  # since something did: a chunk's extensions, and the trailers behind the last one
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Together(transport, self.loop))
        if len(self.connections) > self.limits.connections:
            self._refuse(ErrorCode.OVERLOADED, "there are too many connections", linger=0)
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_head_timer()  # also for line ends alone, which begin no message
        began_in_head, self._moved = self._in_head, False
        super().data_received(data)
        if began_in_head and self._in_head:  # what came with its beginning is counted once the head is whole
            self._head_bytes += len(data)
        elif not self._in_head:
            self._loose_bytes = 0 if self._moved else self._loose_bytes + len(data)
        if max(self._head_bytes, self._loose_bytes) > self.limits.header_bytes:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._moved, self._loose_bytes = True, 0, True, 0
        self._start_head_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are nobody's: as headers they would say who asks after that was settled
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse_headers()
        elif not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved = True
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ErrorCode.MALFORMED_HTTP, "this is not HTTP/1.1")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:  # a client that does not take its answer
            self._write_timer = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # ------------------------------------------------------------------------------------------------------ refusals

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(self.limits.seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_head_timer()  # half of the next request lies there unread while this one is answered
        elif self._in_head:
            message = f"the request line and headers did not arrive within {self.limits.seconds:g} s"
            self._refuse(ErrorCode.REQUEST_TIMEOUT, message)
        else:
            self.transport.close()  # it never said a word, so it gets none

    def _refuse_headers(self) -> None:
        message = f"the request line and headers are longer than {self.limits.header_bytes} bytes"
        self._refuse(ErrorCode.HEADERS_TOO_LARGE, message)

    def _refuse(self, code: ErrorCode, message: str, *, linger: float = _LINGER_S) -> None:
        """Answers without the application, and ends the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_head_timer()
        type(self).count(code)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an earlier answer is half out: what is written now would be read as part of it
            return
        self.transport.write(refusal(code, message))
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(linger, self.transport.close)


def refusal(code: ErrorCode, message: str) -> bytes:
    """The whole HTTP answer, typed as every other."""
    body = json.dumps({"error": {"code": code, "message": message}}, separators=(",", ":")).encode()
    retry = b"retry-after: 1\r\n" if code is ErrorCode.OVERLOADED else b""
    head = STATUS_LINE[STATUS[code]] + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    head += retry + b"x-request-id: %s\r\n" % uuid4().hex.encode()
    return head + b"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n" + body


def bounded(limits: Limits, count: Callable[[ErrorCode], None]) -> type[BoundedProtocol]:
    """The protocol for `uvicorn.Config(http=...)`, which takes a class and no instance."""
    attributes: dict[str, Any] = {"limits": limits, "count": staticmethod(count)}
    return type("BoundedProtocol", (BoundedProtocol,), attributes)
