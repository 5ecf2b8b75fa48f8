"""`python -m service`: serves with the settings of the environment."""

from __future__ import annotations

import sys

from service.settings import SettingsError, load_settings


def main() -> int:
    """Returns the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person at the terminal
        return 2
    from service.app import serve  # after the settings: a slip is told at once

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
