"""Counts and times every request by route template and outcome, in the one place that does."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import OUTCOME, ErrorCode
from service.metrics import Metrics
from service.middleware.guard import TEMPLATE

UNMATCHED = "unmatched"


class Measure:
    """Labels come from the route's template and a closed set of outcomes: no client can make a new series.

    The metrics are looked up in the app's state, because the service opens after the middleware is built.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

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
            metrics.requests.labels(route=route, outcome=outcome).inc()
            metrics.request_seconds.labels(route=route).observe(time.perf_counter() - started)


def count_unasked(app: FastAPI, code: ErrorCode) -> None:
    """Counts a refusal that the connection gave without asking the app: no route is known then."""
    metrics: Metrics = app.state.service.metrics
    metrics.requests.labels(route=UNMATCHED, outcome=code).inc()
