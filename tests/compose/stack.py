"""The running project, as a person with a terminal has it: a fresh checkout, a `.env`, and the commands of the docs.

The checkout is a copy of the working tree in a folder whose name is the project's, so that no other project of the
machine is touched. What this machine wants otherwise is said in a `docker-compose.override.yml`, as docs/deploy.md
tells people to: no Grafana where its image is not to be had, and another health check for an nginx without wget.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "contrec-check"


def compose_command() -> list[str]:
    """CONTREC_COMPOSE, else `docker compose`, else `docker-compose`."""
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
    """See the module. Nothing runs before `up`, and nothing is left after `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / PROJECT
        self.port, self.grafana_port = free_port(), free_port()
        self.grafana = has_image("grafana/grafana:11.6.0")
        self.checkout()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("CONTREC_", "PIP_", "COMPOSE_"))
        }
        self.environment["PATH"] = f"{self.shim(folder / 'bin')}{os.pathsep}{self.environment['PATH']}"
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=30)
        self._watched: subprocess.Popen[bytes] | None = None

    def checkout(self) -> None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        # A second thread of training slows it down where another process wants that core.
        settings = {"PORT": self.port, "GRAFANA_PORT": self.grafana_port, "OMP_NUM_THREADS": 1}
        if not has_image("prom/prometheus:v3.5.0"):
            settings["PROMETHEUS_IMAGE"] = "prom/prometheus:latest"
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")
        changes: dict[str, Any] = {}
        if not self.grafana:
            changes["grafana"] = {"profiles": ["not-here"]}
        if not docker("run", "--rm", "nginx:stable-alpine", "sh", "-c", "command -v wget || true"):
            # A stand-in for nginx without busybox: the same question, asked by bash.
            ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /livez HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3;"
            changes["nginx"] = {"healthcheck": {"test": ["CMD", "bash", "-c", f"{ask} grep -q 200 <&3"]}}
        if changes:
            text = yaml.safe_dump({"services": changes})
            (self.folder / "docker-compose.override.yml").write_text(text, encoding="utf-8")

    @staticmethod
    def shim(folder: Path) -> Path:
        """A `docker` whose `compose` is the compose command that is tested, whatever its name."""
        folder.mkdir()
        words, real = " ".join(compose_command()), shutil.which("docker")
        words = words.replace("docker ", f"{real} ", 1) if words.startswith("docker ") else words
        script = f'#!/bin/sh\nif [ "$1" = compose ]; then shift; exec {words} "$@"; fi\nexec {real} "$@"\n'
        (folder / "docker").write_text(script, encoding="utf-8")
        (folder / "docker").chmod(0o755)
        return folder

    def shell(self, line: str, check: bool = True) -> str:
        """Runs a line in the checkout, as bash would. Returns what it printed on its standard output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{line}: {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.shell(" ".join(["docker", "compose", *arguments]), check)

    def watch(self, line: str) -> None:
        """Begins a line that stays in the foreground, until `leave`."""
        self.leave()
        with (self.folder / "up.log").open("wb") as log:
            self._watched = subprocess.Popen(
                ["bash", "-c", line],
                cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.until(self.answers, 900)

    def leave(self) -> None:
        """Ctrl-C, where something is in the foreground."""
        if self._watched is not None:
            os.killpg(self._watched.pid, signal.SIGINT)
            self._watched.wait(120)
            self._watched = None

    def close(self) -> None:
        self.leave()
        if os.environ.get("KEEP") != "1":
            self.compose("down", "-v", "--remove-orphans", check=False)
        self.client.close()

    def up(self) -> None:
        self.compose("up", "-d", "--scale", "service=2")
        self.until(self.everyone_is_well, 240)

    def answers(self) -> bool:
        return self.client.get("/readyz").status_code == 200

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

    @contextmanager
    def load(self) -> Iterator[list[int]]:
        """Four clients who ask and tell without a pause; yields the list of statuses, which grows. None may fail."""
        over, statuses, faults = threading.Event(), list[int](), list[str]()

        def ask(number: int) -> None:
            with httpx.Client(base_url=self.client.base_url, trust_env=False, timeout=30) as client:
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
                        faults.append(f"{len(statuses)}. {answer.status_code} {answer.text[:300]}")

        def until_over(number: int) -> None:
            try:
                ask(number)
            except httpx.HTTPError as error:
                faults.append(repr(error))

        threads = [threading.Thread(target=until_over, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield statuses
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert faults == [], f"of {len(statuses)}: {faults[:5]}"
        assert len(statuses) > 50
