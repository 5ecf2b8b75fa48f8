"""Every panel, on a real Prometheus that scrapes a real service with a real Redis under real traffic: none is empty.

The dashboards are read from the JSON that Grafana reads; of its variables only $__rate_interval and $__range are used.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from contrec.bootstrap import Target, bootstrap
from contrec.progress import Teller
from tests.e2e.conftest import environment, free_port, start  # noqa: F401  start: a fixture
from tests.redis_server import RedisServer
from training.data.synthetic import Sizes, generate

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
EXPORTER = shutil.which("prometheus-redis-exporter") or shutil.which("redis_exporter")

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.skipif(EXPORTER is None, reason="no prometheus-redis-exporter on the PATH"),
]


class Watched:
    """Prometheus, and how to ask it."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def ask(self, expression: str) -> list[float]:
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return [float(series["value"][1]) for series in answer["data"]["result"]]


def ask_for_things(client: httpx.Client, over: threading.Event, faults: list[str]) -> None:
    """Traffic of every kind: known and cold users, sessions, events that cite an answer, and some nonsense."""
    turn = 0
    while not over.wait(0.02):
        turn += 1
        user = f"u{turn % 20}"
        answer = client.post("/recommend", json={"user_id": user if turn % 5 else f"cold-{turn}", "k": 10})
        if answer.status_code != 200:
            faults.append(answer.text)
            return
        client.post("/recommend", json={"history": ["1", "2", "no such item"], "k": 3})
        if turn % 3 == 0:
            event = {
                "event_id": uuid.uuid4().hex,
                "user_id": user,
                "item_id": answer.json()["items"][0]["item_id"],
                "type": "click",
                "recommendation_id": answer.json()["recommendation_id"],
            }
            client.post("/events", json=event)
        if turn % 10 == 0:
            client.post("/recommend", json={"k": "ten"})


@pytest.fixture(scope="module")
def watched(
    start: Callable[..., Any],  # noqa: F811
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    data = folder / "data"
    data.mkdir()
    world = generate(Sizes(users=30, items=40, events=6))
    lines = ["user_id,item_id,timestamp"]
    for user, (rows, times) in enumerate(zip(world.histories, world.times, strict=True)):
        lines += [f"u{user},{row + 1},{when}" for row, when in zip(rows, times, strict=True)]
    (data / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    described = [f"{row + 1},Film {row + 1},{'|'.join(item.categories)}" for row, item in enumerate(world.items)]
    (data / "items.csv").write_text("\n".join(["item_id,title,categories", *described]) + "\n", encoding="utf-8")
    target = Target(folder / "work", folder / "bundles", "shop", redis_server.url, "tiny")
    bootstrap(data, target, Teller(io.StringIO()))

    port, metrics, exporter, prometheus = free_port(), free_port(), free_port(), free_port()
    start(
        [sys.executable, "-m", "service"],
        ROOT,
        CONTREC_PORT=str(port),
        CONTREC_METRICS_PORT=str(metrics),
        CONTREC_BUNDLES=str(folder / "bundles"),
        CONTREC_BUNDLE="shop",
        CONTREC_STORE=redis_server.url,
        CONTREC_STORE_TIMEOUT_MS="2000",
    )
    redis_address = f"redis://127.0.0.1:{redis_server.port}"
    start([str(EXPORTER), "-redis.addr", redis_address, "-web.listen-address", f"127.0.0.1:{exporter}"], folder)
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "alerts.yml")]
    config["scrape_configs"] = [
        {"job_name": "contrec", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]},
        {"job_name": "redis", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]},
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    start(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
         f"--web.listen-address=127.0.0.1:{prometheus}"],
        folder,
    )  # fmt: skip
    found = Watched(f"http://127.0.0.1:{prometheus}")
    over, faults = threading.Event(), list[str]()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        until(lambda: client.get("/readyz").status_code == 200, 60)
        traffic = threading.Thread(target=ask_for_things, args=(client, over, faults))
        traffic.start()
        try:
            until(lambda: found.ask("sum(contrec_recommendations_total)")[0] > 50, 60)
            until(lambda: found.ask("sum(rate(contrec_cited_events_total[5s])) > 0") != [], 60)
            until(lambda: found.ask("redis_up") == [1.0], 60)
            yield found
        finally:
            over.set()
            traffic.join()
            found.client.close()
    assert faults == []


def until(true: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    last = ""
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except (httpx.HTTPError, IndexError) as error:
            last = repr(error)
        time.sleep(0.2)
    pytest.fail(f"not within {within} s {last}")


PANELS = [
    pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
    for path in BOARDS
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
    for target in panel.get("targets", ())
]


@pytest.mark.parametrize("expression", PANELS)
def test_a_panel_shows_something(watched: Watched, expression: str) -> None:
    expression = expression.replace("$__rate_interval", "5s").replace("$__range", "1m")
    assert "$" not in expression
    if expression == "redis_memory_max_bytes > 0":
        expression = "redis_memory_max_bytes"  # the tests' Redis has no limit
    # A rate wants two scrapes in its window; on a busy machine the second may still be to come.
    until(lambda: any(math.isfinite(value) for value in watched.ask(expression)), 20)


def test_every_metric_of_ours_is_on_a_dashboard_or_in_an_alert(watched: Watched) -> None:
    texts = [path.read_text(encoding="utf-8") for path in BOARDS]
    texts.append((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    names = watched.client.get("/api/v1/label/__name__/values").json()["data"]
    ours = {name for name in names if name.startswith("contrec_")}
    shown = {name for name in ours if any(name in text for text in texts)}
    # Of a histogram one of its three series is enough.
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in shown}
    assert {
        name
        for name in ours
        if name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") not in families
    } == set()


def test_prometheus_has_loaded_every_rule_and_a_quiet_service_raises_no_alert(watched: Watched) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = watched.client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until(lambda: {rule["health"] for rule in rules()} == {"ok"}, 30)
    assert len(rules()) == 15
    assert {rule["name"] for rule in rules() if rule["state"] == "firing"} <= {"RedisMemoryFull"}


def test_promtool_finds_nothing_to_complain_of_in_what_the_service_exposes(watched: Watched) -> None:
    targets = watched.client.get("/api/v1/targets").json()["data"]["activeTargets"]
    url = next(target["scrapeUrl"] for target in targets if target["labels"]["job"] == "contrec")
    exposed = httpx.get(url, trust_env=False).text
    done = subprocess.run(["promtool", "check", "metrics"], input=exposed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
