"""An answer leaves in one piece: a replica that is killed sends a whole one or none, and nginx can ask another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from service.writes import Together
from tests.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]


class Kept(asyncio.Protocol):
    """Keeps the server's side of a connection."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Together, asyncio.StreamReader]]:
    """The server's side of a connection, gathering, and what its client reads."""
    loop = asyncio.get_running_loop()
    kept = Kept()
    server = await loop.create_server(lambda: kept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.01)
    together = Together(kept.transport, loop)
    yield together, reader
    writer.close()
    together.close()
    server.close()
    await server.wait_closed()


async def pieces(*writes: bytes, close: bool) -> list[bytes]:
    """What a client receives, one piece for each packet, of what the server writes in one turn; then of a last word."""
    async with connected() as (together, reader):
        for data in writes:
            together.write(data)
        if close:
            together.close()
            received = [await reader.read(65_536)]
        else:
            received = [await reader.read(65_536)]
            together.writelines([b"last ", b"word"])
            together.write_eof()
        received.append(await reader.read())
    return received


async def test_writes_of_one_turn_are_one_piece_in_order() -> None:
    assert await pieces(b"head ", b"body ", b"tail", close=False) == [b"head body tail", b"last word"]


async def test_closing_sends_what_was_written_before() -> None:
    assert await pieces(b"head ", b"body", close=True) == [b"head body", b""]


async def test_aborting_sends_nothing_more() -> None:
    async with connected() as (together, reader):
        together.write(b"half an answer")
        together.abort()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_the_real_server_sends_head_and_body_in_one_piece(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "CONTREC_PORT": str(port),
        "CONTREC_METRICS_PORT": "0",
        "CONTREC_STORE": "sqlite://:memory:",
        "CONTREC_BUNDLES": str(tmp_path),
        "CONTREC_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environment)
    try:
        for _ in range(300):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.1)
        body = json.dumps({"user_id": "ann", "k": 3}).encode()
        head = b"POST /recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\n\r\n"
        for _ in range(50):
            for request in (head % len(body) + body, b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"):
                writer.write(request)
                answer = await reader.read(65_536)
                top, _, rest = answer.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", top)
                assert top.startswith(b"HTTP/1.1 200")
                assert length is not None
                assert len(rest) == int(length.group(1)), "the body came with its head"
        writer.close()
    finally:
        process.terminate()
        process.wait(20)
