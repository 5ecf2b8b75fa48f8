"""Runs the service in this process and does something once it answers; what the demo and `contrec serve` share.

The process around the application (signals, draining, exit code) is `service.app.serve`; this module adds a thread that
waits for readiness and then speaks to the service over HTTP, as anybody would.

    status = serve(load_settings(port=8000), on_ready=lambda client: print(client.base_url))
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from service.settings import Settings

READY_WITHIN = 120.0  # seconds for loading a bundle


class Unready(Exception):
    """The service did not come up, or not as it should. Carries one sentence."""


def free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises ValueError with one sentence where it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ValueError(f"{host!r} is no address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                sentence = f"port {port} of {host} is taken; choose another (--port, or PORT= with make)"
                raise ValueError(sentence) from None
            raise ValueError(f"cannot listen on port {port} of {host}: {error.strerror}") from None
        return int(probe.getsockname()[1])


def address_of(host: str, port: int) -> str:
    """http://host:port as this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, on_ready: Callable[[httpx.Client], None]) -> int:
    """Serves until a signal ends it and returns the exit status; calls on_ready, on a thread, once it is ready.

    on_ready gets a client of the service. What it raises as Unready or httpx.HTTPError ends the service, and comes
    out of here as Unready; so does a service that is not ready within two minutes.
    """
    from service.app import serve as run

    logging.getLogger("httpx").setLevel(logging.WARNING)  # our own questions are no news of the service
    over = threading.Event()
    failures: list[Unready] = []

    def watch() -> None:
        address = address_of(settings.host, settings.port)
        try:
            with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
                if _ready(client, over):
                    on_ready(client)
        except (Unready, httpx.HTTPError) as error:
            if not over.is_set():
                failures.append(Unready(f"the service at {address} does not answer as it should: {error}"))
                os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch, name="ready")
    watcher.start()
    try:
        status = run(settings)
    finally:
        over.set()
        watcher.join()
    if failures:
        raise failures[0]
    return status


def _ready(client: httpx.Client, over: threading.Event) -> bool:
    """Waits until /readyz says yes: True; False when the service ended before."""
    deadline = time.monotonic() + READY_WITHIN
    said = "it does not accept connections"
    while not over.wait(0.2):
        try:
            answer = client.get("/readyz")
            if answer.status_code == httpx.codes.OK:
                return True
            said = answer.text
        except httpx.ConnectError:
            pass  # not bound yet
        if time.monotonic() > deadline:
            raise Unready(f"not ready after {READY_WITHIN:.0f} s: {said}")
    return False
