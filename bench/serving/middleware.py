"""What the stack of middleware costs a request: CPU time in one process, without sockets, one layer after the other.

    python -m bench.serving.middleware

Innermost is an app that answers a constant; each layer of the service is put around it in its real order, and the same
request is asked for through all of them so far. The access line is written, to /dev/null. Medians of some rounds of CPU
time, the layers in turns, so that a busy machine spoils a round and not a layer. The fast lane is left out: it takes
the place of FastAPI's routing and is no extra.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.app import middleware
from service.keys import KeyRing
from service.metrics import Metrics
from service.middleware.fast_lane import FastLane
from service.settings import Settings

BODY = b'{"user_id": "u17", "k": 10}'
ANSWER = b'{"items": []}'
ROUNDS, REQUESTS = 15, 1000


async def constant(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ANSWER})


def layers() -> list[tuple[str, ASGIApp]]:
    """(name of the outermost layer, the stack so far), the bare app first."""
    settings = Settings()
    app: ASGIApp = constant
    found = [("bare app", app)]
    for one in reversed(middleware(settings, KeyRing.open("", None))):
        if one.cls is not FastLane:
            app = one.cls(app, *one.args, **one.kwargs)
            found.append((getattr(one.cls, "__name__", str(one.cls)), app))
    return found


async def asked(app: ASGIApp, requests: int) -> float:
    """CPU seconds for each of so many requests, one after the other."""
    service = SimpleNamespace(metrics=Metrics(), draining=False)
    about = SimpleNamespace(state=SimpleNamespace(service=service))
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ]
    open_connection = asyncio.Event()

    async def send(message: Message) -> None:
        pass

    async def one() -> None:
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await open_connection.wait()
            given = True
            return {"type": "http.request", "body": BODY, "more_body": False}

        scope: Scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": list(headers)}
        await app({**scope, "app": about, "client": ("127.0.0.1", 5)}, receive, send)

    began = time.process_time()
    for _ in range(requests):
        await asyncio.create_task(one())
    return (time.process_time() - began) / requests


def table(names: Sequence[str], micros: Sequence[float]) -> str:
    """Each layer with what it adds, and the sum."""
    lines = ["| around it | CPU us a request | adds |", "|---|---|---|"]
    for place, (name, now) in enumerate(zip(names, micros, strict=True)):
        added = "" if place == 0 else f"{now - micros[place - 1]:.0f}"
        lines.append(f"| {name} | {now:.0f} | {added} |")
    return "\n".join([*lines, f"| all of it | | {micros[-1] - micros[0]:.0f} |"])


def main() -> int:
    logs.setup("info", "text", ids=False)
    stacks = layers()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for handler in logging.getLogger().handlers:
            handler.setStream(nowhere)  # type: ignore[attr-defined]
        rounds = [[asyncio.run(asked(app, REQUESTS)) for _, app in stacks] for _ in range(ROUNDS)]
    micros = [1e6 * statistics.median(times) for times in zip(*rounds, strict=True)]
    sys.stdout.write(table([name for name, _ in stacks], micros) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
