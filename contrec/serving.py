"""Runs the service in this process: the socket, the signals, and what is said once it answers.

The service itself is `service.app`; this module knows only that it is an ASGI application. Ctrl-C and SIGTERM both
end it the same way: open requests finish, then the process goes on behind `serve` (uvicorn would raise the signal
again, which a shell shows as a failure).

    with listen("127.0.0.1", 8000) as socket:
        serve(load_settings(port=8000), socket, on_ready=ask)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import uvicorn

if TYPE_CHECKING:
    from service.settings import Settings

READY_WITHIN = 120.0  # seconds for loading a bundle


class Unready(Exception):
    """The service did not come up. Carries one sentence."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address (port 0: any free one). Raises ValueError with one sentence where it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ValueError(f"{host!r} is no address of this machine") from None
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is taken; choose another (--port, or PORT= with make)") from None
        raise ValueError(f"cannot listen on port {port} of {host}: {error.strerror}") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """http://host:port of a bound socket, as this machine reaches it."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._task: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        try:
            await self._on_started()
        except (Unready, httpx.HTTPError) as error:
            self.failure = error
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught = (signal.SIGINT, signal.SIGTERM)
        for number in caught:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


def serve(settings: Settings, bound: socket.socket, on_ready: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Serves until a signal ends it; awaits on_ready, with a client of the service, once it is ready.

    Raises Unready when the service does not start, or is not ready within two minutes.
    """
    from service.app import create_app

    async def on_started() -> None:
        async with httpx.AsyncClient(base_url=address_of(bound), timeout=30, trust_env=False) as client:
            await _ready(client)
            await on_ready(client)

    config = uvicorn.Config(
        create_app(settings),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
    )
    server = _Server(config, on_started)
    server.run(sockets=[bound])
    if server.failure is not None:
        raise Unready(str(server.failure)) from server.failure
    if not server.started:
        raise Unready("the service did not start; its log says why")


async def _ready(client: httpx.AsyncClient) -> None:
    deadline = asyncio.get_running_loop().time() + READY_WITHIN
    while True:
        answer = await client.get("/readyz")
        if answer.status_code == httpx.codes.OK:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise Unready(f"the service is not ready after {READY_WITHIN:.0f} s: {answer.text}")
        await asyncio.sleep(0.05)
