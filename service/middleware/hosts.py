"""Refuses requests that were meant for another host: what a page elsewhere reaches by pointing its own name at us.

That trick (DNS rebinding) lets a web page read a service that only its visitor can reach, as if both were one site; but
the browser still sends the page's name as Host. An address in numbers cannot be pointed anywhere, so it is always
welcome, and so is localhost.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ErrorCode, error_response

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(:\d{1,5})?")


class Hosts:
    """names: other hosts that are welcome, `*.shop.test` for all below one; `*` for every one."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app = app
        self.everybody = "*" in names
        self.names = frozenset(name.lower() for name in names if not name.startswith("*"))
        self.below = tuple(name[1:].lower() for name in names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.everybody or self._welcome(scope):
            await self.app(scope, receive, send)
            return
        message = "this service does not answer to that Host (CONTREC_ALLOWED_HOSTS)"
        await error_response(scope, ErrorCode.MISDIRECTED_REQUEST, message)(scope, receive, send)

    def _welcome(self, scope: Scope) -> bool:
        # Without any Host no browser is asking: HTTP/1.0, as some balancers' health checks speak it.
        return all(self.allows(value.decode("latin-1")) for name, value in scope["headers"] if name == b"host")

    def allows(self, header: str) -> bool:
        """Whether this value of the Host header is welcome."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        host = match[1].strip("[]").lower().removesuffix(".")
        try:
            ip_address(host)
        except ValueError:
            return host == "localhost" or host in self.names or host.endswith(self.below)
        return True
