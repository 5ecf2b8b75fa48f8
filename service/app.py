"""The FastAPI application and the process around it.

`create_app` imports no torch and opens nothing: the store, the metrics port and the bundle belong to the
lifespan, so that the port is bound at once and `/readyz` tells the rest.

    app = create_app(Settings())                  # for any ASGI server, one process
    exit_code = serve(Settings())                 # uvicorn, drained on SIGTERM
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service import logs
from service.access import check_routes
from service.connection import Limits, bounded
from service.core import Service
from service.errors import install_handlers
from service.keys import KeyRing, KeysError
from service.limiter import RateLimiter
from service.middleware.body_limit import BodyLimit
from service.middleware.client_gone import ClientGone
from service.middleware.farewell import Farewell
from service.middleware.fast_lane import FastLane
from service.middleware.guard import Guard
from service.middleware.hosts import Hosts
from service.middleware.measure import Measure, count_unasked
from service.middleware.request_id import RequestId
from service.middleware.safe_headers import SafeHeaders
from service.openapi import describe
from service.routes import bundles, docs, events, health, items, page, recommend, users
from service.settings import Settings, unknown_variables, words
from service.stores import open_store
from service.stores.contract import StoreIncompatible, StoreUnavailable

log = logging.getLogger(__name__)

KEYS_REREAD_S = 2.0


def create_app(settings: Settings) -> FastAPI:
    """The application. `app.state.service` is the open `Service` while the lifespan lasts. Raises KeysError."""
    keys = KeyRing.open(settings.keys, settings.keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await Service.open(settings)
        rereading = asyncio.create_task(_reread(keys), name="keys")
        try:
            yield
        finally:
            rereading.cancel()
            await app.state.service.close()

    app = FastAPI(
        title="contrec",
        summary="Interactions in, recommendations out.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere; ours works offline
        redoc_url=None,
        redirect_slashes=False,  # it would send people to whatever the Host header says
        middleware=middleware(settings, keys),
    )
    install_handlers(app)
    for room in (recommend, events, items, users, bundles, health, docs):
        app.include_router(room.router)
    if settings.page:
        app.include_router(page.router)
    check_routes(app.routes)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    return app


def middleware(settings: Settings, keys: KeyRing) -> list[Middleware]:
    """Outermost first: what refuses without reading comes before what reads."""
    hosts = words(settings.allowed_hosts) or ([] if is_loopback(settings.host) else ["*"])
    origins = words(settings.allowed_origins)
    stack = [
        Middleware(RequestId),
        Middleware(Measure, log_paths=settings.log_ids),
        Middleware(Farewell),
        Middleware(SafeHeaders),
        Middleware(Hosts, names=hosts),
    ]
    if origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Content-Type", "X-API-Key", "Authorization", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
        stack.append(cors)
    return [
        *stack,
        Middleware(Guard, keys=keys, limiter=RateLimiter(settings.rate_limit, settings.rate_burst)),
        Middleware(BodyLimit, limit=settings.max_body_bytes, seconds=settings.request_timeout_s),
        Middleware(ClientGone, paths=frozenset({"/recommend", "/rank"})),
        Middleware(FastLane, lanes={"/recommend": recommend.LANE, "/events": events.LANE}),
    ]


async def _reread(keys: KeyRing) -> None:
    """Takes up a changed file of keys, within seconds, for as long as the service lives."""
    while True:
        await asyncio.sleep(KEYS_REREAD_S)
        await asyncio.to_thread(keys.reread)


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C, then drains. Returns the exit code; what is wrong is said in one sentence."""
    return run(lambda: create_app(settings), settings)


def run(make: Callable[[], FastAPI], settings: Settings) -> int:
    """`serve` for another app; it is made once nothing is left that would keep it from starting."""
    logs.setup(settings.log_level, settings.log_format, settings.log_ids)
    for name in unknown_variables():
        log.warning("%s is no setting of this version and has no effect", name)
    if (complaint := cannot_start(settings)) is not None:
        print(complaint, file=sys.stderr)  # noqa: T201 - for the person at the terminal, whatever the log level
        return 2
    if not (settings.keys or settings.keys_file) and not is_loopback(settings.host):
        log.warning(
            "listening on %s without API keys: whoever reaches port %d may read recommendations and write events; set "
            "CONTREC_KEYS_FILE (docs/security.md)",
            settings.host,
            settings.port,
        )
    app = make()
    limits = Limits(settings.request_timeout_s, settings.max_header_bytes, settings.max_connections)
    allow_open_files(settings.max_connections)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded(limits, lambda code: count_unasked(app, code)),
        ws="none",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=words(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive_s,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        lifespan="on",
    )
    server = _Server(config, settings.drain_wait_s, lambda: _begin_draining(app))

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn puts its own handlers before these, and once it has drained raises the signal again: without them the
    # process would then die of it instead of returning an exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """uvicorn's server that goes on serving for `wait` seconds after SIGTERM, when `begin` has said that it will end.

    uvicorn closes idle connections at once, and a request that is on its way on one of them is lost. So answers ask
    clients to leave first, and balancers see readiness go. Ctrl-C and a second SIGTERM do not wait.
    """

    def __init__(self, config: uvicorn.Config, wait: float, begin: Callable[[], None]) -> None:
        super().__init__(config)
        self._wait = wait
        self._begin = begin
        self._ending: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self._ending is None and self.started:
            self._ending = time.monotonic() + self._wait
            self._begin()
            self._captured_signals.append(sig)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._ending is not None and time.monotonic() >= self._ending:
            self.should_exit = True
        return await super().on_tick(counter)


def _begin_draining(app: FastAPI) -> None:
    app.state.service.begin_draining()


def cannot_start(settings: Settings) -> str | None:
    """What would make the start fail, in one sentence that names the setting, or None."""

    async def try_store() -> None:
        await (await open_store(settings.store)).close()

    try:
        KeyRing.open(settings.keys, settings.keys_file)
    except KeysError as error:
        return str(error)
    try:
        asyncio.run(try_store())
    except (StoreIncompatible, StoreUnavailable) as error:
        return f"CONTREC_STORE cannot be used: {error}"
    for variable, port in (("CONTREC_PORT", settings.port), ("CONTREC_METRICS_PORT", settings.metrics_port)):
        if port and (reason := _taken(settings.host, port)):
            return f"{variable} {port} on {settings.host} cannot be used: {reason}"
    return None


def allow_open_files(connections: int) -> None:
    """Raises the soft limit on open files, where it may be, to what so many connections and the rest need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < connections + 256:
        log.warning("this process may open %d files: too few for CONTREC_MAX_CONNECTIONS %d", wanted, connections)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _taken(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None
