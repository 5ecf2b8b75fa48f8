"""How long an event loop stands still, seen from outside: /livez is asked again and again, which costs nearly nothing.

    with Pulse(server) as pulse:
        ...
    pulse.since(begun)[-1]      # the worst from `begun` on, in milliseconds

Knows no load.
"""

from __future__ import annotations

import threading
import time

import httpx

from bench.serving.subject import Server


class Pulse:
    """Asks /livez again and again: that it answers late says that the event loop stood still, and nothing else."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = False
        self._thread = threading.Thread(target=self._go, name="pulse")
        self.beats: list[tuple[float, float]] = []  # when it was asked, by time.monotonic, and milliseconds

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def _go(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=20, trust_env=False) as client:
            while not self._over:
                asked = time.monotonic()
                assert client.get("/livez").status_code == 200
                self.beats.append((asked, 1000 * (time.monotonic() - asked)))
                time.sleep(0.005)

    def since(self, start: float) -> list[float]:
        """The latencies from then on, shortest first."""
        return sorted(latency for asked, latency in self.beats if asked >= start)
