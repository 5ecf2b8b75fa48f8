"""Headers that tell a browser to be careful with an answer; a route that sets one of them itself is left alone."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A page may use the files of this service and nothing else: no script in the page itself, none from elsewhere."""

_OF_ALL: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_OF_PAGES: Final = {"Content-Security-Policy": PAGE_POLICY, "X-Frame-Options": "DENY"}
_OF_DATA: Final = {"Cache-Control": "no-store"}  # answers are somebody's; no cache between here and there keeps them


class SafeHeaders:
    """See the module."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                kind = headers.get("content-type", "")
                more = _OF_PAGES if kind.startswith("text/html") else _OF_DATA if "json" in kind else {}
                for name, value in (_OF_ALL | more).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_safely)
