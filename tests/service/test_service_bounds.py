"""Bounds on what comes in, on a real server: slow, long, many, stalled, malformed; and who the client is."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from service.errors import STATUS, ErrorCode
from service.keys import Scope, key_line, new_key
from tests.redis_server import free_port
from tests.service.test_service_process import process
from tests.service.test_service_recommend import publish

SECONDS = 1.0
HEAD = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

Running = tuple[subprocess.Popen[str], httpx.Client]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bounds")
    publish(folder / "bundles")
    bounds = {"request_timeout_s": SECONDS, "max_header_bytes": 2000, "max_body_bytes": 10_000, "max_connections": 40}
    with process(folder, log_level="warning", metrics_port=free_port(), **bounds) as running:
        yield running


@pytest.fixture
def connection(service: Running) -> Iterator[socket.socket]:
    with connect(service) as one:
        yield one


def connect(service: Running) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", service[1].base_url.port or 0), timeout=10)
    one.settimeout(10)
    return one


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f\r\n" + b'{"history": ["i3"], "k":     3}' + b"\r\n0\r\n"


def test_trailers_are_nobodys(connection: socket.socket) -> None:
    """As headers they would come after it was settled who asks."""
    connection.sendall(CHUNKED + b"X-Request-ID: from-a-trailer\r\nConnection: close\r\n\r\n")
    head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 200"), head
    assert b"from-a-trailer" not in head
    assert b"connection: close" not in head.lower()


@pytest.mark.parametrize("line", [b"x: y\r\n", b"y"], ids=["many", "long"])
def test_trailers_without_end_are_not_read(connection: socket.socket, line: bytes) -> None:
    connection.sendall(CHUNKED + (b"" if line.endswith(b"\n") else b"x: "))
    sent = 0
    with suppress(ConnectionError):
        while sent < 50_000_000:
            sent += connection.send(line * 1000)
    assert sent < 20_000_000, "and the sockets' buffers hold some of that"


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        received += b"<reset>"
    return received


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer, and not a byte more."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        assert piece, received
        received += piece
    lines = received.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(lines[0].split()[1]), headers, body


def typed(received: bytes, code: ErrorCode) -> None:
    """Exactly one answer, with this code."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % STATUS[code]), received
    assert json.loads(body)["error"]["code"] == code, received
    assert b"connection: close" in head.lower()
    assert b"x-request-id: " in head.lower()


# ------------------------------------------------------------------------------------------------------------ slow


def test_headers_that_drip_are_ended_in_time(connection: socket.socket) -> None:
    began = time.monotonic()
    connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\n")
    connection.settimeout(0.1)
    received = b""
    while time.monotonic() < began + 5:  # a byte now and then keeps other servers waiting for ever
        connection.sendall(b"X")
        try:
            received = connection.recv(65536)
            break
        except TimeoutError:
            pass
    assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + 2
    typed(received, ErrorCode.REQUEST_TIMEOUT)


@pytest.mark.parametrize("nothing", [b"", b"\r\n"], ids=["silence", "line ends"])
def test_a_connection_that_says_nothing_is_ended_without_a_word(connection: socket.socket, nothing: bytes) -> None:
    began = time.monotonic()
    connection.sendall(nothing)
    assert everything(connection) == b""
    assert time.monotonic() - began < SECONDS + 2


def test_line_ends_do_not_keep_an_idle_connection(connection: socket.socket) -> None:
    connection.sendall(GET)
    assert answer(connection)[0] == 200
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < began + 8:
        try:
            connection.sendall(b"\r\n")
            if connection.recv(100) == b"":
                break
        except TimeoutError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            break
    assert time.monotonic() - began < 5


def test_a_body_that_drips_is_ended_in_time(connection: socket.socket) -> None:
    began = time.monotonic()
    connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    connection.settimeout(0.1)
    received = b""
    while time.monotonic() < began + 5:
        connection.sendall(b" ")
        try:
            received = connection.recv(65536)
            break
        except TimeoutError:
            pass
    assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + 2
    typed(received, ErrorCode.REQUEST_TIMEOUT)


def test_many_slow_clients_do_not_keep_the_others_waiting(service: Running) -> None:
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connect(service)).sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        began = time.monotonic()
        assert service[1].post("/recommend", json={}).status_code == 200
        assert time.monotonic() - began < 1


def test_a_client_that_does_not_take_its_answers_is_cut_off(service: Running) -> None:
    connection = socket.socket()
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        connection.connect(("127.0.0.1", service[1].base_url.port or 0))
        began = time.monotonic()
        cut = False
        while not cut and time.monotonic() < began + 15:
            try:  # asks and asks, and never reads
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
            except TimeoutError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                cut = True
        assert cut


# ------------------------------------------------------------------------------------------------------------ long


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "without an end"])
@pytest.mark.parametrize("part", [b"GET /livez?%s HTTP/1.1\r\nHost: x", b"GET /livez HTTP/1.1\r\nHost: x\r\nX: %s"])
def test_a_head_that_is_too_long_is_refused(connection: socket.socket, part: bytes, whole: bool) -> None:
    sent = part % (b"a" * 3000)
    if whole:
        connection.sendall(sent + b"\r\n\r\n")
    else:  # what came together with the beginning is counted once the head is whole
        connection.sendall(sent)
        time.sleep(0.1)
        connection.sendall(b"a" * 2500)
    typed(everything(connection), ErrorCode.HEADERS_TOO_LARGE)


def test_many_headers_are_a_long_head(connection: socket.socket) -> None:
    connection.sendall(GET[:-2] + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(400)) + b"\r\n")
    typed(everything(connection), ErrorCode.HEADERS_TOO_LARGE)


def test_the_longest_head_that_is_allowed_passes_each_time(connection: socket.socket) -> None:
    for _ in range(5):
        connection.sendall(GET[:-2] + b"X: " + b"a" * 1900 + b"\r\n\r\n")
        assert answer(connection)[0] == 200


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "declared"])
def test_a_client_that_sends_too_much_still_reads_why_and_may_go_on(connection: socket.socket, chunked: bool) -> None:
    piece = b" " * 50_000
    if chunked:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
    else:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (20 * len(piece)))
        for _ in range(20):
            connection.sendall(piece)
    status, _, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    connection.sendall(GET)
    assert answer(connection)[0] == 200


def test_a_body_without_an_end_after_its_refusal_is_cut_off(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    began = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < began + 10:
            connection.sendall(b" " * 1000)
            time.sleep(0.01)
    assert time.monotonic() - began < SECONDS + 3


# ------------------------------------------------------------------------------------------------ malformed, and many

MALFORMED = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # somebody speaks TLS
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    HEAD + b"Content-Length: -5\r\n\r\nhello",
    HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x00" * 50,
]


@pytest.mark.parametrize("sent", MALFORMED, ids=[str(one[:20]) for one in MALFORMED])
def test_what_is_not_http_is_refused_in_our_own_words(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    typed(everything(connection), ErrorCode.MALFORMED_HTTP)


@pytest.mark.parametrize("sent", [HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"])
def test_a_body_that_is_not_http_ends_the_connection_and_asks_nobody(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    assert everything(connection) in (b"", b"<reset>")


def test_requests_that_come_together_are_answered_in_order(connection: socket.socket) -> None:
    body = b'{"k": 1}'
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    connection.sendall((GET + post) * 20 + GET[:30])
    statuses = [answer(connection) for _ in range(40)]
    assert [status for status, _, _ in statuses] == [200] * 40
    assert [b"alive" in body for _, _, body in statuses] == [True, False] * 20
    connection.sendall(GET[30:])
    assert answer(connection)[0] == 200


def test_an_upgrade_is_answered_as_what_it_is_without(connection: socket.socket) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    connection.sendall(head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert answer(connection)[0] == 200


def test_more_connections_than_allowed_are_told_so_and_those_within_go_on(service: Running) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(service)) for _ in range(39)]  # the client holds one already
        time.sleep(0.1)
        beyond = [stack.enter_context(connect(service)) for _ in range(3)]
        for one in beyond[1:]:
            received = everything(one)
            typed(received, ErrorCode.OVERLOADED)
            assert b"retry-after: 1" in received
        for one in held[:5]:
            one.sendall(GET)
            assert answer(one)[0] == 200
    time.sleep(0.2)
    with connect(service) as again:
        again.sendall(GET)
        assert answer(again)[0] == 200


def test_what_the_connection_refuses_is_counted_and_nothing_is_said_in_the_log(service: Running) -> None:
    """Last of the module: by now there was one of each."""
    server, _ = service
    port = int(Path(f"/proc/{server.pid}/environ").read_text().split("CONTREC_METRICS_PORT=")[1].split("\0")[0])
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for code in ("request_timeout", "headers_too_large", "malformed_http", "overloaded"):
        assert f'contrec_requests_total{{outcome="{code}",route="unmatched"}}' in text
    server.terminate()
    output, _ = server.communicate(timeout=20)
    assert "Traceback" not in output
    assert server.returncode == 0


# ------------------------------------------------------------------------------------------------ who the client is


def test_only_a_trusted_proxy_says_who_the_client_is(tmp_path: Path) -> None:
    publish(tmp_path / "bundles")

    def statuses(client: httpx.Client) -> list[int]:
        headers = [{"x-forwarded-for": f"192.0.2.{n}"} for n in range(4)]
        return [client.post("/recommend", json={}, headers=one).status_code for one in headers]

    limits = {"rate_limit": 0.01, "rate_burst": 2, "log_level": "warning"}
    with process(tmp_path, **limits) as (_, client):
        assert statuses(client) == [200, 200, 429, 429]  # one client, whatever it says
    with process(tmp_path, **limits, trusted_proxies="127.0.0.1") as (_, client):
        assert statuses(client) == [200] * 4


def test_an_upload_without_a_key_reads_its_refusal(tmp_path: Path) -> None:
    publish(tmp_path / "bundles")
    keys = key_line("a", [Scope.ADMIN], new_key())
    with process(tmp_path, keys=keys, log_level="warning") as (_, client):
        for _ in range(3):
            answer = client.post("/events", content=b" " * 900_000, headers={"content-type": "application/json"})
            assert answer.status_code == 401
