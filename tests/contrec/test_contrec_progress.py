"""Progress: plain lines for a log, moving for a terminal."""

from __future__ import annotations

import io
import re

import pytest

from contrec import progress
from contrec.progress import Epochs, telling


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines_and_not_every_passing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with telling(log) as tell:
        tell("preparing [data]")
        for step in range(100):
            tell.passing(f"step {step}")
        tell("done")
    assert log.getvalue() == "preparing [data]\nstep 0\ndone\n"
    monkeypatch.setattr(progress, "EVERY", 0)
    with telling(log) as tell:
        tell.passing("step 1")
        tell.passing("step 2")
    assert log.getvalue().endswith("step 1\nstep 2\n")


def test_a_terminal_keeps_lines_and_shows_passing_ones_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with telling(terminal) as tell:
        tell("loss [train] 0.5")
        tell.passing("step [1]")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "loss [train] 0.5\n" in plain
    assert "step [1]" in plain


def test_the_last_epoch_of_every_stage_stays() -> None:
    log = io.StringIO()
    with telling(log) as tell, Epochs(tell) as progress:
        for stage in ("tokenizer", "trunk"):
            for epoch in range(1, 4):
                progress(stage, epoch, 5, {"loss": 1 / epoch})
    assert log.getvalue().splitlines() == [
        "  tokenizer: epoch 1 of 5  loss 1.0000",
        "  tokenizer: epoch 3 of 5  loss 0.3333",
        "  trunk: epoch 3 of 5  loss 0.3333",
    ]
