"""Stops working for a client that has left: its request is cancelled, so the batcher drops it unless it is at it.

Needs `BodyLimit` outside it, which has read the body: what comes next from `receive` is the client's leaving.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ClientGone:
    """paths: where leaving cancels. Writes are left to finish: what was sent was meant."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        body = await receive()  # replayed by BodyLimit, so this never waits
        left = asyncio.Event()
        given = answered = False

        async def receive_again() -> Message:
            nonlocal given
            if not given:
                given = True
                return body
            await left.wait()
            return {"type": "http.disconnect"}

        async def send_and_note(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def watch(working: asyncio.Task[object]) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if not answered:  # a server may call the end of the answer a disconnect, too
                working.cancel()

        working = asyncio.current_task()
        assert working is not None
        watching = asyncio.create_task(watch(working))
        try:
            await self.app(scope, receive_again, send_and_note)
        except asyncio.CancelledError:
            if not left.is_set() or working.uncancel():  # not the client but the server stops us
                raise
        finally:
            watching.cancel()
