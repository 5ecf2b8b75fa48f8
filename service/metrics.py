"""Every metric: its name, its labels and its buckets, once. Labels come from enums and route templates, never from ids.

One registry for each service, so that two in one process (tests) do not share counts. Served on a port of its
own by a small thread server, so that a scrape never waits behind requests.

    metrics = Metrics()
    metrics.requests.labels(route="/recommend", outcome="ok").inc()
    metrics.serve("127.0.0.1", 9100)
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Thread
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from service.schemas import Degraded, Source

STEPS: Final = ("encode", "generate", "retrieve", "score", "neighbours", "shape", "explain", "timeout")
STAGES: Final = ("store", "queue", "encode", "generate", "retrieve", "total")
READS: Final = ("read_user", "popular", "user_events", "read_items", "read_pointer")
WRITES: Final = ("append", "write_tokens", "erase", "write_items", "write_pointer")


def geometric(first: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` bucket edges, each `factor` times the one before."""
    return tuple(float(f"{first * factor**n:.4g}") for n in range(count))


SECONDS: Final = geometric(0.0005, 1.6, 20)  # 0.5 ms to 3.8 s
POWERS_OF_TWO: Final = geometric(1, 2, 11)  # 1 to 1024
TENTHS: Final = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no dashboard reads
        self.registry = CollectorRegistry()
        self._server: tuple[WSGIServer, Thread] | None = None
        self.requests = Counter(
            "contrec_requests",
            "Requests answered, by route template and outcome.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "contrec_request_seconds",
            "Time from request to answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "contrec_stage_seconds",
            "Where the time of a recommendation goes.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "contrec_batch_size", "Requests computed together.", buckets=POWERS_OF_TWO, registry=self.registry
        )
        self.queue = Gauge("contrec_queue_requests", "Requests that wait for the model.", registry=self.registry)
        self.dropped = Counter(
            "contrec_dropped", "Requests dropped from the queue because nobody waits any more.", registry=self.registry
        )
        self.source = Counter(
            "contrec_recommendations",
            "Answers of /recommend and /rank, by the rung of the ladder they came from.",
            ["source"],
            registry=self.registry,
        )
        self.failures = Counter(
            "contrec_model_failures",
            "Steps of the model that raised or took too long.",
            ["step"],
            registry=self.registry,
        )
        self.degraded = Counter(
            "contrec_degraded",
            "Answers of /recommend, /rank, /popular and /items/{item_id}/similar that had to do without something.",
            ["reason"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "contrec_user_tokens",
            "User tokens found fresh (hit), of an older history (old), or not at all (miss).",
            ["result"],
            registry=self.registry,
        )
        self.store_failures = Counter(
            "contrec_store_failures", "Store calls that failed.", ["operation"], registry=self.registry
        )
        self.events = Counter("contrec_events", "Events, new or repeated.", ["result"], registry=self.registry)
        self.bundle_loads = Counter(
            "contrec_bundle_loads", "Bundles loaded or refused.", ["outcome"], registry=self.registry
        )
        self.bundle_info = Gauge(
            "contrec_bundle_info", "1 for the bundle that is served.", ["bundle"], registry=self.registry
        )
        self.catalogue_version = Gauge(
            "contrec_catalogue_version",
            "Newest change of an item that this replica has taken up, in unix milliseconds.",
            registry=self.registry,
        )
        self.overlay_items = Gauge(
            "contrec_overlay_items",
            "Items said of since the bundle was made: upserted, withdrawn, and unplaced.",
            ["kind"],
            registry=self.registry,
        )
        self.breaker = Gauge(
            "contrec_breaker_state",
            "Circuit breaker of the store: 0 closed, 1 half open (one probe is under way), 2 open.",
            ["calls"],
            registry=self.registry,
        )
        # What is recommended: insights.py.
        self.lists = Counter(
            "contrec_lists",
            "Lists of /recommend, /rank, /popular and /items/{item_id}/similar, by the bundle they came from.",
            ["bundle"],
            registry=self.registry,
        )
        self.cited_events = Counter(
            "contrec_cited_events",
            "New events that cite a recommendation, by its bundle and rung, and their type.",
            ["bundle", "source", "type"],
            registry=self.registry,
        )
        self.history_items = Histogram(
            "contrec_history_items",
            "Items in the history that a list was made from; 0 is a cold user.",
            buckets=(0.0, *POWERS_OF_TWO),
            registry=self.registry,
        )
        self.list_popularity = Histogram(
            "contrec_list_popularity",
            "Mean popularity of a list's first ten items: 1 is the catalogue's most popular item, 0 its least.",
            buckets=TENTHS,
            registry=self.registry,
        )
        self.list_diversity = Histogram(
            "contrec_list_diversity",
            "Mean distance between the categories of two of a list's first ten items: 0 is alike, 1 nothing in common.",
            buckets=TENTHS,
            registry=self.registry,
        )
        self.shown_items = Gauge(
            "contrec_shown_items", "Different items that this replica showed in the last hour.", registry=self.registry
        )
        self.catalogue_items = Gauge("contrec_catalogue_items", "Items of the catalogue.", registry=self.registry)
        self.bundle_created = Gauge(
            "contrec_bundle_created_timestamp_seconds",
            "When the bundle that is served was made, in unix seconds.",
            registry=self.registry,
        )
        self.ready = Gauge("contrec_ready", "1 once the service wants requests.", registry=self.registry)
        ProcessCollector(registry=self.registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A series that first appears with a failure hides it: its increase from nothing is no increase."""
        closed: tuple[tuple[Counter, Iterable[str]], ...] = (
            (self.source, Source),
            (self.degraded, Degraded),
            (self.failures, STEPS),
            (self.tokens, ("hit", "old", "miss")),
            (self.store_failures, READS + WRITES),
            (self.events, ("accepted", "repeated")),
            (self.bundle_loads, ("served", "refused")),
        )
        for counter, values in closed:
            for value in values:
                counter.labels(value)

    def serve(self, host: str, port: int) -> None:
        """Starts the metrics server. Raises OSError when the port is taken."""
        self._server = start_http_server(port, addr=host, registry=self.registry)

    def close(self) -> None:
        """Stops the metrics server, if one runs."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
