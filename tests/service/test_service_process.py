"""The real thing: one process, uvicorn, the loopback, signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.keys import Scope, add_to_file, key_line, new_key
from tests.redis_server import free_port
from tests.service.test_service_recommend import publish

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, **settings: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONTREC_")}
    environment |= {f"CONTREC_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "service"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def process(folder: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A running, ready service in this folder; killed if the test has not ended it."""
    port = free_port()
    server = start(folder, **({"port": port, "metrics_port": 0, "bundles": "bundles", "bundle": "movies"} | settings))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
            deadline = time.monotonic() + 30
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if server.poll() is not None or time.monotonic() > deadline:
                    server.kill()
                    pytest.fail(f"the service does not start: {server.communicate()[0]}")
                time.sleep(0.05)
            yield server, client
    finally:
        if server.poll() is None:
            server.kill()
        if server.stdout is not None and not server.stdout.closed:
            server.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_answers_and_drains_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    publish(tmp_path / "bundles")
    with process(tmp_path, metrics_port=free_port()) as (server, client):
        told = client.post("/events", json={"event_id": "e", "user_id": "ann", "item_id": "i39"})
        assert told.json() == {"accepted": 1, "repeated": 0}
        answer = client.post("/recommend", json={"user_id": "ann", "k": 1})
        assert answer.json()["items"][0]["title"] == "Item 38"
        assert client.get("/livez").json() == {"status": "alive"}
        server.send_signal(number)
        output, _ = server.communicate(timeout=20)
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert "ann" not in output  # no ids in the log


def test_open_requests_are_answered_before_it_ends(tmp_path: Path) -> None:
    """Half its body is sent when the signal comes, and the rest once nobody is let in any more."""
    publish(tmp_path / "bundles")
    with process(tmp_path, drain_wait_s=0.3) as (server, client):
        port = client.base_url.port
        body = b'{"k": 3}'
        lines = [
            "POST /recommend HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        head = "\r\n".join(lines) + "\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(head.encode() + body[:4])
            time.sleep(0.2)
            server.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=10)
            assert server.poll() is None
            connection.sendall(body[4:])
            answer = connection.recv(65536)
        output, _ = server.communicate(timeout=20)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert server.returncode == 0, output


def test_a_kill_loses_no_acknowledged_event(tmp_path: Path) -> None:
    publish(tmp_path / "bundles")
    acknowledged: list[int] = []
    with process(tmp_path) as (server, client):

        def tell() -> None:
            for n in range(10_000):
                event = {"event_id": f"e{n}", "user_id": "ann", "item_id": f"i{n}"}
                try:
                    if client.post("/events", json=event).status_code == 200:
                        acknowledged.append(n)
                except httpx.TransportError:
                    return

        telling = threading.Thread(target=tell)
        telling.start()
        while len(acknowledged) < 20:
            time.sleep(0.01)
        server.kill()
        telling.join(timeout=20)
        assert not telling.is_alive()
    with process(tmp_path) as (_, client):
        events = [{"event_id": f"e{n}", "user_id": "ann", "item_id": f"i{n}"} for n in acknowledged]
        for at in range(0, len(events), 1000):
            again = client.post("/events", json={"events": events[at : at + 1000]}).json()
            assert again["accepted"] == 0  # every one of them is known


def test_what_keeps_it_from_starting_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases: list[tuple[dict[str, object], str]] = [
            ({"port": "eighty"}, "CONTREC_PORT 'eighty' cannot be used"),
            ({"store": "sqlite:///notes.txt"}, "CONTREC_STORE cannot be used: notes.txt is not a contrec store"),
            (
                {"port": port, "metrics_port": 0},
                f"CONTREC_PORT {port} on 127.0.0.1 cannot be used: Address already",
            ),
            ({"port": 0, "metrics_port": port}, f"CONTREC_METRICS_PORT {port} on 127.0.0.1 cannot be used"),
            ({"keys_file": "notes.txt"}, "CONTREC_KEYS_FILE notes.txt line 1: three words were expected"),
            ({"keys_file": "none.txt"}, "CONTREC_KEYS_FILE none.txt cannot be read: No such file"),
        ]
        for settings, sentence in cases:
            server = start(tmp_path, **settings)
            output, _ = server.communicate(timeout=30)
            assert server.returncode == 2
            assert output.splitlines()[-1].startswith(sentence), output
            assert "Traceback" not in output


def test_keys_are_read_again_and_listening_to_everybody_without_them_is_warned_about(tmp_path: Path) -> None:
    publish(tmp_path / "bundles")
    with process(tmp_path, host="0.0.0.0") as (server, client):
        assert client.post("/recommend", json={}).status_code == 200
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    assert "listening on 0.0.0.0 without API keys" in output
    old, new = new_key(), new_key()
    file = tmp_path / "keys.txt"
    add_to_file(file, key_line("old", [Scope.RECOMMEND], old))
    with process(tmp_path, host="0.0.0.0", keys_file="keys.txt") as (server, client):
        statuses = [client.post("/recommend", json={}, headers={"x-api-key": key}).status_code for key in (old, new)]
        assert statuses == [200, 401]
        file.write_text(key_line("new", [Scope.RECOMMEND], new))
        deadline = time.monotonic() + 10
        while client.post("/recommend", json={}, headers={"x-api-key": new}).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.post("/recommend", json={}, headers={"x-api-key": old}).status_code == 401
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    assert "without API keys" not in output
    assert old not in output
    assert new not in output
