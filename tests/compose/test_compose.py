"""docker compose up, for real: built, started, looked at from outside, killed and restarted.

Runs with `make check-compose` alone, since it builds images and takes ten minutes. Under a project name of its own, on
free ports; everything it made is removed. CONTREC_COMPOSE names the compose command (default: `docker compose`, else
`docker-compose`). Where an image is not to be had (no Grafana in an offline laboratory) its service is left out, and
the test that needs it skips.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "contrec-check"

pytestmark = [pytest.mark.compose, pytest.mark.slow]


def compose_command() -> list[str]:
    if chosen := os.environ.get("CONTREC_COMPOSE"):
        return chosen.split()
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip() if done.returncode == 0 else ""


def has_image(name: str) -> bool:
    if docker("image", "inspect", "--format", "there", name, check=False):
        return True
    return subprocess.run(["docker", "pull", "-q", name], capture_output=True, check=False, timeout=300).returncode == 0


class Stack:
    """The running project, as a person with a terminal has it."""

    def __init__(self, folder: Path) -> None:
        self.command = [*compose_command(), "-p", PROJECT]
        self.port, self.grafana_port = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CONTREC_", "PIP_"))},
            "PORT": str(self.port),
            "GRAFANA_PORT": str(self.grafana_port),
        }
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
        if not has_image("prom/prometheus:v3.5.0"):
            self.environment["PROMETHEUS_IMAGE"] = "prom/prometheus:latest"
        self.grafana = has_image("grafana/grafana:11.6.0")
        self.wanted = [name for name in services if name != "grafana" or self.grafana]
        changes: dict[str, Any] = {}
        if not docker("run", "--rm", "nginx:stable-alpine", "sh", "-c", "command -v wget || true"):
            # A stand-in for nginx without busybox: the same question, asked by bash.
            ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /livez HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3;"
            ask += " grep -q 200 <&3"
            changes["nginx"] = {"healthcheck": {"test": ["CMD", "bash", "-c", ask]}}
        if changes:
            (folder / "changes.yml").write_text(yaml.safe_dump({"services": changes}), encoding="utf-8")
            self.command += ["-f", str(ROOT / "docker-compose.yml"), "-f", str(folder / "changes.yml")]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=30)

    def compose(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self.command, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {said[-4000:]}"
        return done.stdout

    def up(self) -> None:
        self.compose("up", "-d", "--scale", "service=2", *self.wanted)
        self.until(self.everyone_is_well, 240)

    def everyone_is_well(self) -> bool:
        states = [json.loads(docker("inspect", one, "--format", "{{json .State}}")) for one in self.containers()]
        health = [state.get("Health", {}).get("Status", "healthy") for state in states if state["Running"]]
        return len(self.containers("service")) == 2 and len(health) >= 6 and set(health) == {"healthy"}

    def containers(self, service: str | None = None) -> list[str]:
        labels = [f"label=com.docker.compose.project={PROJECT}", "label=com.docker.compose.oneoff=False"]
        if service is not None:
            labels.append(f"label=com.docker.compose.service={service}")
        filters = [word for label in labels for word in ("--filter", label)]
        return docker("ps", "-aq", *filters).split()

    def until(self, true: Callable[[], bool], within: float) -> None:
        deadline = time.monotonic() + within
        fault = ""
        while time.monotonic() < deadline:
            try:
                if true():
                    return
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                fault = repr(error)
            time.sleep(1)
        pytest.fail(f"not within {within} s: {fault}\n{docker('ps', '-a')}")

    def recommend(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post("/recommend", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def tell(self, user: str, *items: str) -> httpx.Response:
        events = [{"event_id": uuid.uuid4().hex, "user_id": user, "item_id": item} for item in items]
        return self.client.post("/events", json={"events": events})

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Prometheus, asked from inside: it is not published."""
        (container,) = self.containers("prometheus")
        said = docker(
            "exec", container, "promtool", "query", "instant", "-o", "json", "http://127.0.0.1:9090", expression
        )
        found: list[dict[str, Any]] = json.loads(said)
        return found

    def value(self, expression: str) -> float:
        found = self.query(expression)
        assert found, f"nothing: {expression}"
        return float(found[0]["value"][1])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    assert shutil.which("docker"), "make check-compose needs Docker"
    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.compose("down", "-v", "--remove-orphans", check=False)
    try:
        stack.compose("build", "service", "trainer")
        stack.up()
        yield stack
    finally:
        if os.environ.get("KEEP") != "1":
            stack.compose("down", "-v", "--remove-orphans", check=False)
        stack.client.close()


def test_the_demo_answers_through_nginx(stack: Stack) -> None:
    answer = stack.recommend(user_id="user-001", k=3)
    assert answer["source"] == "model"
    assert answer["bundle"].startswith("contrec/")
    assert "degraded" not in answer
    assert len(answer["items"]) == 3
    assert all(item["title"] for item in answer["items"])
    refused = stack.client.post("/recommend", json={"k": "ten"})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "invalid_request"


def test_the_second_up_does_nothing(stack: Stack) -> None:
    (trainer,) = stack.containers("trainer")
    running = stack.containers("service")
    stack.up()
    assert stack.containers("service") == running
    stack.until(lambda: not json.loads(docker("inspect", trainer, "--format", "{{json .State.Running}}")), 60)
    said = subprocess.run(["docker", "logs", trainer], capture_output=True, text=True, check=True).stderr
    assert said.count("training the tiny contrec recipe") == 1
    assert said.count("events imported") == 1
    assert said.count("active: contrec/") >= 2


ASK_UNTIL_READY = """
import http.client, time
while True:
    try:
        c = http.client.HTTPConnection("127.0.0.1", 8000, timeout=3)
        c.request("GET", "/readyz")
        if c.getresponse().status == 200:
            break
    except OSError:
        pass
    time.sleep(0.05)
print(time.time())
"""


def test_a_replica_is_ready_within_fifteen_seconds_of_its_start(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    replica = stack.containers("service")[0]
    docker("restart", replica)
    ready = float(docker("exec", replica, "python", "-I", "-S", "-c", ASK_UNTIL_READY))
    began = datetime.fromisoformat(docker("inspect", replica, "--format", "{{.State.StartedAt}}")[:19] + "+00:00")
    seconds = ready - began.timestamp()
    record_property("ready", seconds)
    logging.getLogger(__name__).info("ready %.1f s after the start", seconds)
    assert seconds <= 15
    stack.until(stack.everyone_is_well, 60)


def test_the_serving_image_is_no_larger_than_1600_megabytes(stack: Stack) -> None:
    size = int(docker("image", "inspect", "contrec:local", "--format", "{{.Size}}"))
    logging.getLogger(__name__).info("the serving image: %.0f MB", size / 1e6)
    assert size <= 1600e6


def test_the_service_is_confined(stack: Stack) -> None:
    for container in stack.containers("service"):
        assert docker("exec", container, "id", "-u") == "10001"
        for folder in ("/", "/app", "/venv", "/var/lib/contrec", "/var/lib/contrec/bundles"):
            done = subprocess.run(
                ["docker", "exec", container, "touch", f"{folder}/x"], capture_output=True, check=False
            )
            assert done.returncode != 0, folder
        docker("exec", container, "touch", "/tmp/x")
        assert docker("exec", container, "sh", "-c", "command -v gcc cc make || true") == ""
        assert docker("exec", container, "sh", "-c", "ls /venv/bin | grep -c pip || true") == "0"
    published: dict[str, list[dict[str, str]]] = {}
    for container in stack.containers():
        published |= json.loads(docker("inspect", container, "--format", "{{json .HostConfig.PortBindings}}"))
    assert set(published) == ({"8080/tcp", "3000/tcp"} if stack.grafana else {"8080/tcp"})
    assert {one["HostIp"] for ports in published.values() for one in ports} == {"127.0.0.1"}


def test_no_secret_is_in_the_environment_or_on_a_command_line(stack: Stack) -> None:
    (redis,) = stack.containers("redis")
    password = docker("exec", redis, "cat", "/run/secrets/contrec/redis_password")
    assert len(password) >= 32
    for container in stack.containers():
        assert password not in docker("inspect", container)
        assert password not in docker("top", container, "-eo", "pid,args", check=False)
    asked = subprocess.run(["docker", "exec", redis, "redis-cli", "get", "x"], capture_output=True, check=False)
    assert b"NOAUTH" in asked.stdout + asked.stderr


def test_prometheus_sees_both_replicas_and_loads_every_rule(stack: Stack) -> None:
    stack.until(lambda: stack.value('count(up{job="contrec"} == 1)') == 2, 60)
    stack.until(lambda: stack.value("redis_up") == 1, 60)
    assert stack.value("sum(prometheus_rule_group_rules)") == 15
    assert stack.value("sum(contrec_ready)") == 2
    assert stack.value("count(contrec_bundle_info)") == 2
    assert stack.value("redis_config_maxmemory or redis_memory_max_bytes") == 512 * 2**20


def test_a_replica_that_is_killed_under_load_fails_no_request(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    over, statuses, faults = threading.Event(), list[int](), list[str]()

    def ask(number: int) -> None:
        with httpx.Client(base_url=stack.client.base_url, trust_env=False, timeout=30) as client:
            turn = 0
            while not over.is_set():
                turn += 1
                if turn % 4 == 0:
                    event = {"event_id": uuid.uuid4().hex, "user_id": f"load-{number}", "item_id": "f001"}
                    answer = client.post("/events", json=event)
                else:
                    answer = client.post("/recommend", json={"user_id": f"user-{turn % 100:03d}", "k": 5})
                statuses.append(answer.status_code)
                if answer.status_code != 200:
                    faults.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(5)
        before = len(statuses)
        killed = stack.containers("service")[0]
        docker("kill", killed)
        time.sleep(10)
        between = len(statuses)
        stack.up()
        time.sleep(5)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert before > 50
    assert between - before > 50, "the other replica went on answering"
    requests = f"{len(statuses)} requests, {between - before} in the ten seconds after the kill, none failed"
    record_property("load", requests)
    logging.getLogger(__name__).info(requests)


def test_down_and_up_keep_histories_bundles_and_metrics(stack: Stack) -> None:
    assert stack.tell("keeper", "f001", "f002", "f003").status_code == 200
    before = stack.recommend(user_id="keeper", k=10)
    assert not {"f001", "f002", "f003"} & {item["item_id"] for item in before["items"]}
    scraped = stack.value("min(timestamp(contrec_ready))")
    stack.compose("down")
    stack.up()
    after = stack.recommend(user_id="keeper", k=10)
    assert after["source"] == "model"
    assert after["bundle"] == before["bundle"]
    assert [item["item_id"] for item in after["items"]] == [item["item_id"] for item in before["items"]]
    ago = int(time.time() - scraped) + 5
    assert stack.value(f"count(last_over_time(contrec_ready[60s] offset {ago}s))") >= 1, "what was measured before"


def test_retraining_is_taken_up_without_a_restart(stack: Stack) -> None:
    before = stack.recommend(user_id="user-001")["bundle"]
    running = stack.containers("service")
    assert stack.tell("keeper", "f005").status_code == 200  # the same events as before would train nothing
    words = ["run", "--rm", "trainer", "retrain", "--work", "/var/lib/contrec/work", "--size", "tiny"]
    assert "active: contrec/" in stack.compose(*words)
    stack.until(lambda: {stack.recommend(user_id=f"user-{n:03d}")["bundle"] != before for n in range(9)} == {True}, 180)
    assert stack.containers("service") == running
    stack.until(lambda: stack.value("count(count by (bundle) (contrec_bundle_info))") == 1, 60)


def test_the_events_come_out_as_a_file(stack: Stack, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    stack.compose("run", "--rm", "-v", f"{tmp_path}:/backup", "trainer", "events", "export", "/backup/events.jsonl")
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(json.loads(line)["user_id"] == "keeper" for line in lines)


def test_an_alert_fires_when_the_store_is_gone_and_all_is_well_again_when_it_is_back(stack: Stack) -> None:
    stack.compose("stop", "redis")

    def degraded() -> bool:
        for number in range(20):
            assert stack.recommend(user_id=f"user-{number:03d}")["degraded"] == "history_unavailable"
        refused = stack.tell("keeper", "f004")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        firing = {one["metric"]["alertname"] for one in stack.query('ALERTS{alertstate="firing"}')}
        return {"ContrecDegraded", "ContrecStoreFails", "RedisDown"} <= firing

    stack.until(degraded, 360)
    stack.compose("start", "redis")
    stack.until(lambda: stack.tell("keeper", "f004").status_code == 200, 60)
    stack.until(lambda: "degraded" not in stack.recommend(user_id="keeper"), 60)
    stack.until(lambda: not stack.query('ALERTS{alertstate="firing", alertname="ContrecDegraded"}'), 360)


def test_grafana_has_its_dashboards(stack: Stack) -> None:
    if not stack.grafana:
        pytest.skip("no image of Grafana is to be had here")
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.grafana_port}", trust_env=False, timeout=30) as client:
        found = {one["uid"] for one in client.get("/api/search", params={"type": "dash-db"}).json()}
        assert found == {"contrec-operations", "contrec-recommendations"}
