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
    # Read when torch is imported. Where others want the cores, threads that spin for long while they wait take them
    # from the one that works. A short spin costs nothing on a quiet machine, where sleeping at once cost a third.
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "10000"
    app()
