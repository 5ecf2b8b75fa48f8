"""The door, run: nginx with its own file before a server that says what reached it, asked by a real client.

Only the port, the folder of temporary files and the address of the service differ from what compose runs.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.conftest import PATH
from tests.e2e.conftest import free_port

pytestmark = pytest.mark.nginx

CONF = Path(__file__).resolve().parents[2] / "deploy" / "compose" / "nginx.conf"
MIB = 1 << 20


class Told(BaseHTTPRequestHandler):
    """Answers with the headers that it was asked with, and with the length of the body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Host"):
            self.send_header(f"Told-{name}", self.headers[name])
        self.send_header("Told-Length", str(length))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def behind() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def door(behind: ThreadingHTTPServer, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of nginx before it."""
    port = free_port()
    text = CONF.read_text(encoding="utf-8")
    for here, there in (
        ("/tmp/", f"{tmp_path}/"),
        ("listen 8080 ", f"listen 127.0.0.1:{port} "),
        ("service:8000", f"127.0.0.1:{behind.server_port}"),
    ):
        assert here in text
        text = text.replace(here, there)
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    # As root its workers would be nobody, who may not write beside the file; for anybody else the name means nothing.
    how = f"daemon off; user {getpass.getuser()};"
    command = [shutil.which("nginx", path=PATH) or "nginx", "-c", str(tmp_path / "nginx.conf"), "-g", how]
    with (tmp_path / "said").open("wb") as said:
        running = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            for _ in range(200):
                try:
                    client.post("/", content=b"")
                    break
                except httpx.ConnectError:
                    assert running.poll() is None, (tmp_path / "said").read_text()
                    time.sleep(0.05)
            yield client
    finally:
        running.terminate()
        running.wait(20)


def test_the_service_is_told_the_address_that_nginx_sees_and_no_other(door: httpx.Client) -> None:
    answer = door.post("/recommend", content=b"{}", headers={"X-Forwarded-For": "203.0.113.7", "Host": "shop.example"})
    assert answer.headers["Told-X-Forwarded-For"] == "127.0.0.1"
    assert answer.headers["Told-X-Forwarded-Proto"] == "http"
    assert answer.headers["Told-Host"] == "shop.example"


@pytest.mark.parametrize("path", ["/recommend", "/items"])
def test_a_body_of_more_than_two_mebibytes_is_refused_in_the_words_of_the_contract(
    door: httpx.Client, path: str
) -> None:
    """One up to there passes, so that the service itself says what it takes; it makes no difference whether the length
    is told beforehand."""
    within = door.post(path, content=b"x" * (2 * MIB))
    assert within.headers["Told-Length"] == str(2 * MIB)
    for body in (b"x" * (2 * MIB + 1), iter([b"x" * MIB, b"x" * MIB, b"x"])):
        refused = door.post(path, content=body)
        assert refused.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        assert refused.headers["Content-Type"] == "application/json"
        assert refused.json()["error"]["code"] == "body_too_large"


def test_where_no_replica_answers_the_client_is_told_when_to_ask_again(
    behind: ThreadingHTTPServer, door: httpx.Client, tmp_path: Path
) -> None:
    behind.shutdown()
    behind.server_close()
    for path in ("/recommend", "/items"):
        refused = door.post(path, content=b'{"user_id": "ann"}', params={"who": "ann"})
        assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["error"]["code"] == "unavailable"
    assert "ann" not in (tmp_path / "said").read_text(), "its log names nobody"
