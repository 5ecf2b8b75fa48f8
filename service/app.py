"""The FastAPI application and the process around it.

`create_app` imports no torch and opens nothing: the store, the metrics port and the bundle belong to the
lifespan, so that the port is bound at once and `/readyz` tells the rest.

    app = create_app(Settings())                  # for any ASGI server, one process
    exit_code = serve(Settings())                 # uvicorn, drained on SIGTERM
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from service.core import Service
from service.errors import install_handlers
from service.middleware.body_limit import BodyLimit
from service.middleware.client_gone import ClientGone
from service.middleware.measure import Measure
from service.middleware.request_id import RequestId
from service.routes import docs, events, health, recommend
from service.settings import Settings, unknown_variables
from service.stores import open_store
from service.stores.contract import StoreIncompatible, StoreUnavailable

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The application. `app.state.service` is the open `Service` while the lifespan lasts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await Service.open(settings)
        try:
            yield
        finally:
            await app.state.service.close()

    app = FastAPI(
        title="contrec",
        summary="Interactions in, recommendations out.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere; ours works offline
        redoc_url=None,
        middleware=[  # outermost first
            Middleware(RequestId),
            Middleware(Measure),
            Middleware(BodyLimit, limit=settings.max_body_bytes),
            Middleware(ClientGone, paths=frozenset({"/recommend"})),
        ],
    )
    install_handlers(app)
    for router in (recommend.router, events.router, health.router, docs.router):
        app.include_router(router)
    return app


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C, then drains. Returns the exit code; what is wrong is said in one sentence."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells at length which builds it does not have
    for name in unknown_variables():
        log.warning("%s is no setting of this version and has no effect", name)
    if (complaint := cannot_start(settings)) is not None:
        print(complaint, file=sys.stderr)  # noqa: T201 - for the person at the terminal, whatever the log level
        return 2
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        lifespan="on",
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn puts its own handlers before these, and once it has drained raises the signal again: without them the
    # process would then die of it instead of returning an exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()
    return 0 if server.started else 1


def cannot_start(settings: Settings) -> str | None:
    """What would make the start fail, in one sentence that names the setting, or None."""

    async def try_store() -> None:
        await (await open_store(settings.store)).close()

    try:
        asyncio.run(try_store())
    except (StoreIncompatible, StoreUnavailable) as error:
        return f"CONTREC_STORE cannot be used: {error}"
    for variable, port in (("CONTREC_PORT", settings.port), ("CONTREC_METRICS_PORT", settings.metrics_port)):
        if port and (reason := _taken(settings.host, port)):
            return f"{variable} {port} on {settings.host} cannot be used: {reason}"
    return None


def _taken(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None
