"""Counts, times and logs every request by route template and outcome, in the one place that does."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.access import ROUTES, Door
from service.errors import OUTCOME, STATUS, ErrorCode
from service.metrics import Metrics
from service.middleware.guard import KEY, TEMPLATE

UNMATCHED = "unmatched"


class Measure:
    """Labels come from the route's template and a closed set of outcomes: no client can make a new series.

    The metrics are looked up in the app's state, because the service opens after the middleware is built. log_paths:
    whether the access line names the path as it was asked for, ids and all.
    """

    def __init__(self, app: ASGIApp, *, log_paths: bool = False) -> None:
        self.app = app
        self.log_paths = log_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        outcome = str(ErrorCode.INTERNAL)  # what an exception will be answered with, further out
        try:
            await self.app(scope, receive, send_and_note)
            outcome = str(scope.get(OUTCOME, "ok" if status else "client_gone"))
        finally:
            metrics: Metrics = scope["app"].state.service.metrics
            route = scope.get(TEMPLATE, UNMATCHED)
            seconds = time.perf_counter() - started
            metrics.requests.labels(route=route, outcome=outcome).inc()
            metrics.request_seconds.labels(route=route).observe(seconds)
            self._log(scope, route, status, outcome, seconds * 1000)

    def _log(self, scope: Scope, route: str, status: int, outcome: str, ms: float) -> None:
        probe = Door.PROBE in ROUTES.get(route, {}).values()  # every few seconds, for ever, and never news
        level = logging.DEBUG if probe else logging.INFO
        if not logs.access.isEnabledFor(level):
            return
        if not status and outcome == ErrorCode.INTERNAL:
            status = STATUS[ErrorCode.INTERNAL]
        facts = {"method": scope["method"], "route": route, "status": status, "outcome": outcome, "ms": round(ms, 2)}
        if (key := scope.get(KEY)) is not None:
            facts["key"] = key
        if self.log_paths:
            facts["path"] = scope["path"]
        facts |= logs.noted()
        told = " ".join(f"{name}={value}" for name, value in facts.items() if name not in ("method", "route", "status"))
        line = f"{scope['method']} {route} {status or '-'} {told}"
        logs.access.log(level, "%s", line, extra={"facts": facts})


def count_unasked(app: FastAPI, code: ErrorCode) -> None:
    """Counts a refusal that the connection gave without asking the app: no route is known then."""
    metrics: Metrics = app.state.service.metrics
    metrics.requests.labels(route=UNMATCHED, outcome=code).inc()
