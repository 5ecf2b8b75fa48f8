"""Refuses bodies that are too large, by their declared length before reading, by their real one while reading, and
those that take too long to arrive.

The body is read here, whole and bounded, and replayed to the app; so what lies further in may wait on `receive`
for the client's leaving.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ErrorCode, error_response


class BodyLimit:
    """limit: bytes. seconds: for the whole body."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > self.limit:
            await self._refuse(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > self.limit:
                        break
                    more = message.get("more_body", False)
        except TimeoutError:
            text = f"the body did not arrive within {self.seconds:g} s"
            refusal = error_response(scope, ErrorCode.REQUEST_TIMEOUT, text, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        if len(body) > self.limit:
            await self._refuse(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The connection stays open: closing it under a client that still sends resets it, and the client never reads
        # why. `service.connection` ends it where the rest of the body does not come to an end in time.
        message = f"the body is larger than {self.limit} bytes"
        await error_response(scope, ErrorCode.BODY_TOO_LARGE, message)(scope, receive, send)
