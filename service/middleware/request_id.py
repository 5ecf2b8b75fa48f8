"""Gives every request an id and every failure an answer: the outermost middleware.

The id comes from `X-Request-ID` where a proxy has set a sane one, and goes back in the same header. What nobody
below has caught is logged with that id and answered with the typed `internal`, never with a traceback.
"""

from __future__ import annotations

import logging
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import ErrorCode, error_response

log = logging.getLogger(__name__)

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """See the module."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE.fullmatch(given) else uuid4().hex
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with logs.request(request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                log.exception("a request failed")
                if begun:
                    raise  # half an answer is out: only cutting the connection is honest now
                message = f"something unexpected happened; the log has it under request {request_id}"
                await error_response(scope, ErrorCode.INTERNAL, message)(scope, receive, send_with_id)
