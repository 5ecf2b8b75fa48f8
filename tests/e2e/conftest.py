"""Whole commands as real processes, in a folder of their own, with this environment's `contrec` first on the PATH."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.prefix) / "bin"


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This process's, without settings of the machine it runs on; metrics off, so that no port is fought over; one
    thread, since matrices this small only wait for a second one where other tests or people keep the cores busy."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CONTREC_", "MAKE", "MFLAGS"))}
    ours = {"PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "CONTREC_METRICS_PORT": "0", "OMP_NUM_THREADS": "1"}
    return kept | ours | more


class Running:
    """A process whose output is read as it comes."""

    def __init__(self, command: list[str], cwd: Path, **more: str) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that a signal reaches the whole group, as Ctrl-C at a terminal does
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, within: float) -> re.Match[str]:
        """The first match in the output so far or to come. Fails when the process ends or the time is over."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            over = self.process.poll() is not None
            if over:
                self._reader.join(5)
            if found := re.search(pattern, self.output, re.MULTILINE):
                return found
            if over:
                pytest.fail(f"ended with {self.process.returncode} before {pattern!r}:\n{self.output}")
            time.sleep(0.05)
        pytest.fail(f"no {pattern!r} within {within} s:\n{self.output}")

    def interrupt(self, within: float = 20) -> int:
        """Ctrl-C: SIGINT to the whole group. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(within)
        self._reader.join(5)
        return self.process.returncode

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Running]]:
    """Starts processes and makes sure that none is left."""
    running: list[Running] = []

    def run(command: list[str], cwd: Path, **more: str) -> Running:
        running.append(Running(command, cwd, **more))
        return running[-1]

    yield run
    for process in running:
        process.end()
