"""The command line. Each command is thin: it names what it needs, calls one function of a room, and says what came.

One module a noun, in the order in which `contrec --help` shows them. Every import of a room lies inside its command,
so that help answers at once.

    contrec --help
"""

import os  # noqa: I001  the next line's order is that of the help

from contrec.cli import training, recommend, serving, journeys, data, events, bundles, keys  # noqa: F401  registers the commands
from contrec.cli.common import BUNDLES, NAME, STORE, app

__all__ = ["BUNDLES", "NAME", "STORE", "app", "main"]


def main() -> None:
    """What the `contrec` script calls."""
    # Read when torch is imported. Threads that spin while they wait made training on two busy cores five times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
