"""The real server, whose model can be broken from outside: the file `broken` names the steps that raise or hang.

The loading of a bundle can be held: once its files are verified (`hold-read`), or once they are read (`hold-proof`).
The file `held` names where it is held, until `broken` no longer says so.

    python -m tests.chaos.breakable          # settings as always; `broken` lies in the working directory

A test cannot reach into another process; this is the smallest door into it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.continuous import transitions
from model.continuous.transitions import WithTransitions
from service.app import serve
from service.settings import load_settings

SWITCH = Path("broken")
HELD = Path("held")
STEPS = ("encode", "generate", "retrieve", "score", "neighbours")


def told() -> list[str]:
    """The words of the switch."""
    return SWITCH.read_text().split() if SWITCH.exists() else []


def holdable(load: Callable[..., Any]) -> Callable[..., Any]:
    def maybe(*given: Any) -> Any:
        hold("hold-read")
        loaded = load(*given)
        hold("hold-proof")
        return loaded

    return maybe


def hold(here: str) -> None:
    while here in told():
        HELD.write_text(here)
        time.sleep(0.02)


def breakable(step: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def maybe(*given: Any, **named: Any) -> Any:
        broken = told()
        if step in broken:
            raise RuntimeError(f"{step} is broken")
        if f"slow-{step}" in broken:
            time.sleep(0.3)
        return work(*given, **named)

    return maybe


if __name__ == "__main__":
    for step in STEPS:  # of what a bundle of the bench is loaded as; what it asks in turn stays whole
        setattr(WithTransitions, step, breakable(step, getattr(WithTransitions, step)))
    transitions.load_continuous = holdable(transitions.load_continuous)
    sys.exit(serve(load_settings()))
