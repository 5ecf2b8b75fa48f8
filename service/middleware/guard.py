"""Who is asking, not too often, and for what they may: before a byte of the body is read.

A request counts against its key, or against the client's address where it has none or a wrong one. `service.access`
says what a route needs, `service.keys` who holds what.
"""

from __future__ import annotations

import math
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import OFF_WITHOUT_KEYS, ROUTES, Door, find_route
from service.errors import ErrorCode, error_response
from service.keys import Key, KeyRing
from service.keys import Scope as KeyScope
from service.limiter import RateLimiter, network_of

TEMPLATE: Final = "contrec.template"
"""Key of the ASGI scope: the route's template, for metrics and log; absent where there is no such route."""

KEY: Final = "contrec.key"
"""Key of the ASGI scope: the name of the API key, where a known one was presented."""


class Guard:
    """See the module. Refuses with unauthorized, forbidden, rate_limited, and what the table lacks with not_found."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limiter: RateLimiter) -> None:
        self.app = app
        self.keys = keys
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        template, needed = find_route(scope["method"], scope["path"])
        if template is not None:
            scope[TEMPLATE] = template
        presented = _presented(Headers(scope=scope))
        key = self.keys.find(presented)
        if key is not None:
            scope[KEY] = key.name

        if needed is not Door.PROBE and (wait := self.limiter.take(_whom(scope, key))):
            headers = {"Retry-After": str(math.ceil(wait))}
            message = f"more than {self.limiter.rate:g} requests a second; wait the seconds of Retry-After"
            await error_response(scope, ErrorCode.RATE_LIMITED, message, headers=headers)(scope, receive, send)
        elif template is None:
            message = "there is no such route; /docs lists them"
            await error_response(scope, ErrorCode.NOT_FOUND, message)(scope, receive, send)
        elif isinstance(needed, KeyScope) and (refusal := self._refusal(needed, key, presented)):
            code, message = refusal
            headers = {"WWW-Authenticate": "Bearer"} if code is ErrorCode.UNAUTHORIZED else {}
            await error_response(scope, code, message, headers=headers)(scope, receive, send)
        elif needed is None:
            headers = {"Allow": ", ".join(ROUTES[template])}
            message = "this route does not know that method"
            await error_response(scope, ErrorCode.METHOD_NOT_ALLOWED, message, headers=headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, needed: KeyScope, key: Key | None, presented: str) -> tuple[ErrorCode, str] | None:
        if not self.keys.required:
            if needed in OFF_WITHOUT_KEYS:
                return ErrorCode.FORBIDDEN, "this route is off until API keys are set (CONTREC_KEYS_FILE)"
            return None
        if key is None:
            if presented:
                return ErrorCode.UNAUTHORIZED, "this API key is not known"
            return ErrorCode.UNAUTHORIZED, "an API key is needed: X-API-Key, or Authorization: Bearer"
        if needed not in key.scopes:
            return ErrorCode.FORBIDDEN, f"this API key lacks the scope {needed}"
        return None


def _presented(headers: Headers) -> str:
    """The key of a request, or an empty string."""
    if (given := headers.get("x-api-key")) is not None:
        return given.strip()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _whom(scope: Scope, key: Key | None) -> str:
    if key is not None:
        return f"key {key.name}"
    client = scope.get("client")
    return network_of(client[0]) if client else "unknown"
