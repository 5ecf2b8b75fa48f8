"""How long work tells of itself: moving progress for a person at a terminal, plain lines for a log.

Knows nothing of what is reported; an event is shown as the text that it is (`str(event)`).

    with telling() as tell:
        tell("preparing")                # stays: one line
        tell.passing("step 120 of 900")  # passes: replaces itself at a terminal, now and then a line in a log
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.status import Status

EVERY = 5.0  # seconds between two passing lines in a log


class Teller:
    """Writes to a stream (stderr, so that a command's output can be piped)."""

    def __init__(self, stream: TextIO, status: Status | None = None) -> None:
        self._stream = stream
        self._status = status
        self._shown = float("-inf")
        self.last = ""  # the last line that stayed

    def __call__(self, event: object) -> None:
        """A line that stays."""
        self.last = str(event)
        if self._status is not None:
            self._status.console.print(str(event), markup=False, highlight=False)
        else:
            self._stream.write(f"{event}\n")
            self._stream.flush()

    def passing(self, event: object) -> None:
        """What matters only now."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(str(event)))
        elif time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            self(event)


class Epochs:
    """The progress function that fit functions call: epochs pass, and the last one of each stage stays.

    with telling() as tell, Epochs(tell) as progress:
        progress("trunk", 3, 30, {"loss": 6.1})
    """

    def __init__(self, tell: Teller) -> None:
        self._tell = tell
        self._stage, self._line = "", ""

    def __call__(self, stage: str, epoch: int, of: int, values: Mapping[str, float]) -> None:
        """stage: what is fitted; epoch of `of`; values: losses and metrics."""
        if stage != self._stage:
            self._keep()
        numbers = "".join(f"  {name} {value:.4f}" for name, value in values.items())
        self._stage, self._line = stage, f"  {stage}: epoch {epoch} of {of}{numbers}"
        self._tell.passing(self._line)

    def __enter__(self) -> Epochs:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep()

    def _keep(self) -> None:
        if self._line and self._line != self._tell.last:
            self._tell(self._line)
        self._line = ""


@contextmanager
def telling(stream: TextIO | None = None) -> Iterator[Teller]:
    """A teller for this stream (default: stderr as it is now), moving if it is a terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Teller(stream)
        return
    from rich.console import Console

    with Console(file=stream).status("") as status:
        yield Teller(stream, status)


@contextmanager
def timed(tell: Teller, what: str) -> Iterator[None]:
    """Tells what begins, and how long it took once it has succeeded."""
    start = time.monotonic()
    tell(what)
    yield
    tell(f"  done in {time.monotonic() - start:.1f} s")
