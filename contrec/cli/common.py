"""What every command shares: the application, options that more than one command takes, and how a mistake is told.

Knows no command. A user's mistake is told in one sentence on stderr with exit status 2; a traceback means a fault of
ours (or CONTREC_DEBUG=1, which shows them all).

    @app.command()
    @told
    def recommend(...): ...
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    help="Train generative recommenders and serve them online.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Errors that are told and not traced, by where they are defined: only rooms that are loaded can have raised one.
TOLD = {
    "model.bundle": ("BundleError",),
    "service.stores.contract": ("StoreUnavailable", "StoreIncompatible"),
    "service.settings": ("SettingsError",),
    "service.keys": ("KeysError",),
    "contrec.serving": ("Unready",),
}
EXTRAS = {
    "train": ("polars", "scipy"),
    "serve": ("fastapi", "uvicorn", "pydantic", "pydantic_settings", "redis", "prometheus_client"),
}


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Tells a user's mistake in one sentence; lets everything else through."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None or os.environ.get("CONTREC_DEBUG"):
                raise
            typer.echo(f"contrec: {sentence}", err=True)
            raise typer.Exit(2) from None

    return run


def _sentence(error: Exception) -> str | None:
    """What to tell the user, or None when the error is no mistake of theirs."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if missing in modules), None)
        return extra and f"this command needs {missing}, which is not installed: pip install 'contrec[{extra}]'"
    known = [
        getattr(sys.modules[module], name) for module, names in TOLD.items() if module in sys.modules for name in names
    ]
    if isinstance(error, (ValueError, OSError, *known)):
        return " ".join(str(error).split()) or type(error).__name__
    return None


Prepared = Annotated[Path, typer.Argument(help="A folder that `contrec data prepare` wrote.")]
Bundles = Annotated[Path, typer.Option("--bundles", envvar="CONTREC_BUNDLES", help="The folder of all bundles.")]
Name = Annotated[str, typer.Option("--name", envvar="CONTREC_BUNDLE", help="The bundle's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", envvar="CONTREC_OVERRIDES", help="part.key=value over the recipe's own; may be repeated."),
]
Store = Annotated[str, typer.Option("--store", envvar="CONTREC_STORE", help="sqlite:///FILE or redis://HOST:PORT/DB")]
Version = Annotated[str | None, typer.Option(help="A version of the bundle; default: the active one.")]
BUNDLES, NAME, STORE = Path("bundles"), "contrec", "sqlite:///contrec.db"  # as in service.settings; a test says so


def chosen(bundles: Path, name: str, version: str | None) -> Path:
    """The folder of a version, or of the active one."""
    from model.bundle import active

    if version is not None:
        return bundles / name / version
    path = active(bundles, name)
    if path is None:
        raise ValueError(f"no version of bundle {name!r} is active in {bundles}; train one, or give --version")
    return path
