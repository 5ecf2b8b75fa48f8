"""The fast lane: well-formed requests of the two busiest routes go straight to the service.

FastAPI matches, solves dependencies and keeps two exit stacks for every request, which costs more than the answer of a
cached user. Here a body that pydantic reads at once is answered at once; anything else, whatever is wrong with it, goes
on to the route itself, the plain twin, with its body unread. So every refusal of a body is said in one place, and a
test holds the two ways together. The innermost middleware: it needs `BodyLimit` outside it, which replays the body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core import Service
from service.errors import ApiError, refuse


@dataclass(frozen=True, slots=True)
class Lane:
    """What a route reads, and how the service answers it."""

    body: TypeAdapter[Any]
    answer: Callable[[Service, Any], Awaitable[BaseModel]]


class FastLane:
    """lanes: by path; POST only."""

    def __init__(self, app: ASGIApp, lanes: Mapping[str, Lane]) -> None:
        self.app = app
        self.lanes = lanes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lane = self.lanes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if lane is None or (b"content-type", b"application/json") not in scope["headers"]:
            await self.app(scope, receive, send)
            return
        message = await receive()
        try:
            body = lane.body.validate_json(message.get("body", b""))
        except ValidationError:
            await self.app(scope, _again(message, receive), send)
            return
        try:
            answer = await lane.answer(scope["app"].state.service, body)
        except ApiError as error:
            await (await refuse(Request(scope), error))(scope, receive, send)
            return
        content = answer.model_dump_json(exclude_unset=True).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _again(message: Message, receive: Receive) -> Receive:
    """A receive that gives the message once more before it goes on."""
    waiting = [message]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
