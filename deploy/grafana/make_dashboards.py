"""Writes the two dashboards as the JSON that Grafana reads: panels in rows, twenty-four columns wide.

    python deploy/grafana/make_dashboards.py            # writes deploy/grafana/dashboards/*.json

operations.json is for whoever keeps the service running, recommendations.json for whoever answers for what it shows.
A panel is one line of PANELS: what it is called, what it asks Prometheus, in which unit, and what it means. A test runs
every query on a real Prometheus after real traffic, and holds these files to be what this script writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """queries: (expression, legend). width: of 24. red: from where on a value is bad."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str
    kind: str = "timeseries"
    width: int = 8
    red: float | None = None
    stacked: bool = False


def by(label: str, metric: str, where: str = "") -> str:
    return f"sum by ({label}) (rate({metric}{where}[$__rate_interval]))"


def quantile(q: float, metric: str, where: str = "", label: str = "") -> str:
    labels = f"le, {label}" if label else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))"


def mean(metric: str) -> str:
    return f"sum(rate({metric}_sum[$__rate_interval])) / sum(rate({metric}_count[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    return f"(sum(rate({part}[$__rate_interval])) or vector(0)) / sum(rate({whole}[$__rate_interval]))"


ASKED = '{route="/recommend"}'
LISTED = 'contrec_requests_total{outcome="ok", route=~"/recommend|/rank|/popular|/items/.+/similar"}'
FAILED = 'contrec_requests_total{outcome=~"internal|store_unavailable"}'

OPERATIONS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Replicas that are ready", "short", (("sum(contrec_ready)", ""),), "They want requests.", "stat", 4),
        Panel("Requests", "reqps", (("sum(rate(contrec_requests_total[$__rate_interval]))", ""),), "All routes, all replicas.", "stat", 4),
        Panel("Requests that fail", "percentunit", ((share(FAILED, "contrec_requests_total"), ""),), "Errors of ours, and events that the store refused. What a client got wrong is not counted.", "stat", 4, 0.01),
        Panel("p99 of /recommend", "s", ((quantile(0.99, "contrec_request_seconds", ASKED), ""),), "Within the service; the network comes on top.", "stat", 4, 0.25),
        Panel("Answers that do without", "percentunit", ((share("contrec_degraded_total", LISTED), ""),), "Without the user's history, mostly because the store is silent.", "stat", 4, 0.05),
        Panel("Age of the bundle", "s", (("time() - max(contrec_bundle_created_timestamp_seconds != 0)", ""),), "Since the newest bundle that is served was made.", "stat", 4, 30 * 86400),
    ),
    "Traffic": (
        Panel("Requests by route", "reqps", ((by("route", "contrec_requests_total"), "{{route}}"),), "Route templates; no client can make a new line.", stacked=True),
        Panel("Answers other than ok", "reqps", ((by("outcome", "contrec_requests_total", '{outcome!="ok"}') + " or vector(0)", "{{outcome}}"),), "By error code (docs/service.md)."),
        Panel("Latency of /recommend", "s", tuple((quantile(q, "contrec_request_seconds", ASKED), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)), "From the request's arrival to the answer."),
    ),
    "Where the time goes": (
        Panel("Median by stage", "s", ((quantile(0.5, "contrec_stage_seconds", label="stage"), "{{stage}}"),), "store, queue, encode (the trunk), generate (the head), retrieve (the index); a stage that was skipped has no sample.", width=12),
        Panel("p99 by stage", "s", ((quantile(0.99, "contrec_stage_seconds", label="stage"), "{{stage}}"),), "The slow hundredth.", width=12),
    ),
    "The ladder and the cache": (
        Panel("Answers by rung", "reqps", ((by("source", "contrec_recommendations_total"), "{{source}}"),), "model is the best there is; popular is right for a cold user and a warning otherwise.", stacked=True),
        Panel("What broke", "ops", ((by("step", "contrec_model_failures_total"), "{{step}}"), (by("reason", "contrec_degraded_total"), "{{reason}}")), "Steps of the model that raised or took too long, and answers that did without something.", red=0.1),
        Panel("User tokens found", "percentunit", (("sum by (result) (rate(contrec_user_tokens_total[$__rate_interval])) / ignoring (result) group_left sum(rate(contrec_user_tokens_total[$__rate_interval]))", "{{result}}"),), "hit: the trunk was skipped. old: the history has grown since. miss: none.", stacked=True),
    ),
    "Queue": (
        Panel("Requests that wait for the model", "short", (("sum(contrec_queue_requests)", "waiting"),), "When a batch was last taken. At CONTREC_QUEUE_SIZE the answer is 429."),
        Panel("Requests in a batch", "short", ((mean("contrec_batch_size"), "mean"), (quantile(0.99, "contrec_batch_size"), "p99")), "1 means that nobody waits for anybody."),
        Panel("Turned away", "reqps", (('sum(rate(contrec_requests_total{outcome="overloaded"}[$__rate_interval])) or vector(0)', "429"), ("sum(rate(contrec_dropped_total[$__rate_interval]))", "client gone")), "Refused because the queue is full; dropped because the client left.", red=0.1),
    ),
    "The store": (
        Panel("Events", "ops", ((by("result", "contrec_events_total"), "{{result}}"),), "repeated: known by their event_id already."),
        Panel("Store calls that failed", "ops", ((by("operation", "contrec_store_failures_total"), "{{operation}}"),), "Or were not tried because the breaker is open.", red=0.1),
        Panel("Circuit breakers", "short", (("max by (instance, calls) (contrec_breaker_state)", "{{instance}} {{calls}}"),), "0: calls go through. 2: the store has not answered lately and is given a moment. 1: a probe is under way.", width=12),
        Panel("Items changed since the bundle", "short", (("max by (kind) (contrec_overlay_items)", "{{kind}}"),), "New, changed or withdrawn; the next training takes them in.", width=12),
        Panel("Redis memory", "bytes", (("redis_memory_used_bytes", "used"), ("redis_memory_max_bytes > 0", "maxmemory")), "Only user tokens are evicted; at maxmemory Redis refuses events."),
        Panel("Redis commands", "ops", (("rate(redis_commands_processed_total[$__rate_interval])", "commands"), ("rate(redis_evicted_keys_total[$__rate_interval])", "evicted keys")), "One recommendation is one round trip.", width=12),
        Panel("Redis append-only file", "bytes", (("redis_aof_current_size_bytes", "size"),), "What a restart reads; rewritten by itself when it has doubled.", width=12),
    ),
    "Bundles": (
        Panel("What each replica serves", "short", (("max by (instance, bundle) (contrec_bundle_info)", "{{instance}} {{bundle}}"),), "Two bundles side by side for long means that a replica did not follow.", width=12),
        Panel("Bundles loaded and refused", "short", (("sum by (outcome) (increase(contrec_bundle_loads_total[$__range]))", "{{outcome}}"),), "Over the time shown.", "stat", 6),
        Panel("Changes of items taken up", "dateTimeAsIso", (("max by (instance) (contrec_catalogue_version)", "{{instance}}"),), "When the newest change of an item that each replica knows was made, 1970 while there is none: they part for a second at most.", width=6),
    ),
    "Saturation": (
        Panel("CPU", "percentunit", (('rate(process_cpu_seconds_total{job="contrec"}[$__rate_interval])', "{{instance}}"),), "1 is one core, busy all the time."),
        Panel("Memory", "bytes", (('process_resident_memory_bytes{job="contrec"}', "{{instance}}"),), "Resident; torch and the bundle are most of it."),
        Panel("Open files and connections", "short", (('process_open_fds{job="contrec"}', "{{instance}}"), ('min(process_max_fds{job="contrec"})', "limit")), "Grows with the clients that are connected."),
    ),
}  # fmt: skip

RECOMMENDATIONS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Lists", "reqps", (("sum(rate(contrec_lists_total[$__rate_interval]))", ""),), "Recommendations answered by a bundle.", "stat", 4),
        Panel("Catalogue shown in the last hour", "percentunit", (("max(contrec_shown_items) / max(contrec_catalogue_items)", ""),), "By the replica that showed the most: a lower bound for all of them together.", "stat", 5),
        Panel("Cold users", "percentunit", (('sum(rate(contrec_history_items_bucket{le="0.0"}[$__rate_interval])) / sum(rate(contrec_history_items_count[$__rate_interval]))', ""),), "Lists made without a single known item of history: popular items.", "stat", 5),
        Panel("Popularity of what is shown", "percentunit", ((mean("contrec_list_popularity"), ""),), "1: only the most popular items. An even choice from the catalogue would be 0.5.", "stat", 5),
        Panel("Diversity of a list", "percentunit", ((mean("contrec_list_diversity"), ""),), "Mean distance of two items' categories among the first ten.", "stat", 5),
    ),
    "What comes of it": (
        Panel("Clicks and more for each list, by bundle", "percentunit", (("sum by (bundle) (rate(contrec_cited_events_total[$__rate_interval])) / sum by (bundle) (rate(contrec_lists_total[$__rate_interval]))", "{{bundle}}"),), "Events that cite a recommendation_id, for each list of the same bundle. Compare bundles over the same hours.", width=12),
        Panel("Events that cite a recommendation", "ops", ((by("type", "contrec_cited_events_total"), "{{type}}"),), "By type.", width=12, stacked=True),
        Panel("Lists by bundle", "reqps", ((by("bundle", "contrec_lists_total"), "{{bundle}}"),), "A swap shows as one line taking over from another.", width=12, stacked=True),
        Panel("Events taken in", "ops", ((by("result", "contrec_events_total"), "{{result}}"),), "What the next training learns from.", width=12),
    ),
    "What is shown": (
        Panel("Different items shown in an hour", "short", (("max(contrec_shown_items)", "shown"), ("max(contrec_catalogue_items)", "catalogue")), "Coverage. A fall after a swap means that the new bundle plays safe.", width=12),
        Panel("Popularity of a list", "percentunit", ((mean("contrec_list_popularity"), "mean"), (quantile(0.1, "contrec_list_popularity"), "p10"), (quantile(0.9, "contrec_list_popularity"), "p90")), "Popularity bias: how near to the best-sellers the lists stay.", width=12),
        Panel("Diversity of a list", "percentunit", ((mean("contrec_list_diversity"), "mean"), (quantile(0.1, "contrec_list_diversity"), "p10"), (quantile(0.9, "contrec_list_diversity"), "p90")), "0: one category only. The dial is `diversity` in the request.", width=12),
        Panel("Lists by rung", "percentunit", (("sum by (source) (rate(contrec_recommendations_total[$__rate_interval])) / ignoring (source) group_left sum(rate(contrec_recommendations_total[$__rate_interval]))", "{{source}}"),), "How many lists are the model's own.", width=12, stacked=True),
    ),
    "To whom": (
        Panel("Length of the history", "short", tuple((quantile(q, "contrec_history_items"), f"p{100 * q:g}") for q in (0.25, 0.5, 0.75)), "Known items that a list was made from; the model reads the newest.", width=12),
        Panel("Cold users", "percentunit", (('sum(rate(contrec_history_items_bucket{le="0.0"}[$__rate_interval])) / sum(rate(contrec_history_items_count[$__rate_interval]))', "cold"), ('sum(rate(contrec_history_items_bucket{le="4.0"}[$__rate_interval])) / sum(rate(contrec_history_items_count[$__rate_interval]))', "up to four items")), "A rise without a campaign often means that events no longer arrive.", width=12),
    ),
}  # fmt: skip

DASHBOARDS = {
    "operations": ("contrec: operations", OPERATIONS),
    "recommendations": ("contrec: recommendations", RECOMMENDATIONS),
}


def rendered(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """One panel as Grafana wants it."""
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.red is not None:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": "green", "value": None}, {"color": "red", "value": panel.red}],
        }
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 15, "showPoints": "never", "lineWidth": 2}
        if panel.stacked:
            defaults["custom"]["stacking"] = {"mode": "normal"}
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": 4 if panel.kind == "stat" and panel.width < 12 else HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": "ABCDE"[at], "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }


def dashboard(uid: str, title: str, rows: dict[str, tuple[Panel, ...]]) -> dict[str, Any]:
    """The whole of it: rows one under the other, panels from left to right."""
    panels: list[dict[str, Any]] = []
    y = 0
    for name, row in rows.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": name, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        )  # fmt: skip
        y, x, tallest = y + 1, 0, 0
        for panel in row:
            if x + panel.width > WIDTH:
                y, x, tallest = y + tallest, 0, 0
            panels.append(rendered(panel, len(panels) + 1, x, y))
            x += panel.width
            tallest = max(tallest, panels[-1]["gridPos"]["h"])
        y += tallest
    return {
        "uid": f"contrec-{uid}",
        "title": title,
        "tags": ["contrec"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": [bundle_changes()]},
        "links": [{"type": "dashboards", "tags": ["contrec"], "title": "contrec", "asDropdown": False}],
        "templating": {"list": []},
        "panels": panels,
    }


def bundle_changes() -> dict[str, Any]:
    """A line across every graph where a replica took up another bundle."""
    return {
        "name": "bundle taken up",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": 'sum(increase(contrec_bundle_loads_total{outcome="served"}[1m])) > 0',
        "titleFormat": "a bundle was taken up",
    }


def main() -> None:
    folder = Path(__file__).parent / "dashboards"
    folder.mkdir(exist_ok=True)
    for uid, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(uid, title, rows), indent=1, ensure_ascii=False)
        (folder / f"{uid}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
