"""What the chaos tests share: a load that goes on while something is broken, and what must hold afterwards.

Everything is real: processes, sockets, signals, a Redis of our own. CONTREC_NIGHTLY makes the loads longer and the
repetitions more.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.serving.load import Answer, Result, open_loop, post, run
from bench.serving.subject import Server, start, wait_ready

NIGHTLY = bool(os.environ.get("CONTREC_NIGHTLY"))
USERS, ITEMS = 40, 500


def scaled(short: float, nightly: float) -> float:
    return nightly if NIGHTLY else short


class Living:
    """A service that is there whenever it is asked for: started when there is none, or when a test has ended it."""

    def __init__(self, folder: Path, module: str, **settings: object) -> None:
        self.folder = folder
        self._module = module
        self._settings = settings
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        if self._server is None or self._server.process.poll() is not None:
            self._server = start(self.folder, self._module, **self._settings)
            wait_ready(self._server)
        return self._server

    def metric(self, name: str) -> float:
        """The sum of the series that begin like this."""
        text = httpx.get(f"http://127.0.0.1:{self._settings['metrics_port']}/metrics", trust_env=False).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def end(self) -> None:
        """Kills it: what SIGTERM does is a test of its own."""
        if self._server is not None:
            self._server.process.kill()
            self._server.process.wait()


@dataclass
class Load:
    """A load in a thread of its own: three requests to one event, each event with an id of its own."""

    server: Server
    rate: float
    seconds: float
    name: str
    result: Result = field(default_factory=lambda: Result(0))

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._go, name="load")

    def ask(self, draw: random.Random) -> tuple[str, bytes]:
        number, user = next(self._numbers), f"u{draw.randrange(USERS)}"
        if number % 4:
            return "recommend", post("/recommend", {"user_id": user, "k": 10})
        event = {"event_id": f"{self.name}-{number}", "user_id": user, "item_id": f"i{draw.randrange(ITEMS)}"}
        return f"event {json.dumps(event)}", post("/events", event)

    def _go(self) -> None:
        server = self.server
        load = open_loop(server.host, server.port, self.ask, rate=self.rate, seconds=self.seconds, patience=20)
        self.result = run(load)

    @property
    def recommendations(self) -> list[Answer]:
        return [answer for answer in self.result.answers if answer.kind == "recommend"]

    @property
    def events(self) -> list[Answer]:
        return [answer for answer in self.result.answers if answer.kind.startswith("event ")]

    @property
    def acknowledged(self) -> list[dict[str, Any]]:
        return [json.loads(answer.kind.removeprefix("event ")) for answer in self.events if answer.status == 200]

    def said(self) -> list[dict[str, Any]]:
        """The recommendations that were answered 200."""
        return [json.loads(answer.body) for answer in self.recommendations if answer.status == 200]


@contextmanager
def under_load(server: Server, name: str, *, rate: float = 40, seconds: float = 4) -> Iterator[Load]:
    """The load runs while the block does, and to its end when the block is left."""
    load = Load(server, rate, seconds, name)
    load._thread.start()
    try:
        yield load
    finally:
        load._thread.join()


def held(load: Load) -> None:
    """What must hold through every calamity: all recommendations are full lists, a refused write says 503."""
    assert load.recommendations
    refused = [answer.body for answer in load.recommendations if answer.status != 200]
    assert not refused, (load.result.statuses, refused[:5])
    assert all(len(answer["items"]) == 10 for answer in load.said())
    assert {answer.status for answer in load.events} <= {200, 503}
    for answer in load.events:
        if answer.status == 503:
            assert json.loads(answer.body)["error"]["code"] == "store_unavailable"


def kept(server: Server, events: list[dict[str, Any]]) -> None:
    """Every acknowledged event is in the store: sent again, none of them is new."""
    with httpx.Client(base_url=server.url, timeout=10, trust_env=False) as client:
        for at in range(0, len(events), 500):
            answer = client.post("/events", json={"events": events[at : at + 500]})
            assert answer.status_code == 200, answer.text
            assert answer.json()["accepted"] == 0


def settled(server: Server) -> None:
    """A few requests one after the other: the service knows again what one costs, after a test that made it slow."""
    with httpx.Client(base_url=server.url, timeout=5, trust_env=False) as client:
        for _ in range(5):
            client.post("/recommend", json={"history": ["i1"]})


def until_well(server: Server, within: float = 15.0) -> None:
    """A user's recommendation comes from the model with the stored history, and an event is taken."""
    deadline = time.monotonic() + within
    with httpx.Client(base_url=server.url, timeout=5, trust_env=False) as client:
        while True:
            event = {"event_id": f"well-{time.monotonic_ns()}", "user_id": "u1", "item_id": "i1"}
            told = client.post("/events", json=event).status_code
            answer = client.post("/recommend", json={"user_id": "u1"}).json()
            if told == 200 and answer["source"] == "model" and "degraded" not in answer:
                return
            assert time.monotonic() < deadline, (told, answer)
            time.sleep(0.1)
