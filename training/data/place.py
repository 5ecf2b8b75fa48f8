"""Puts a finished folder where an older one lies: a reader, and a kill at any moment, find the one or the other.

    with unfinished(folder) as new:     # an empty folder beside it, removed whatever happens
        ...                             # filled, and synced
        put_in_place(new, folder)

Linux exchanges two names in one step. Where the system or the file system cannot, the older folder is moved aside first
(`<new>.old`) and, for the moment between two renames, there is none: a kill then loses nothing, but leaves both aside.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.bundle import sync

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h: Python has no name for them


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder in which the next `folder` is made. What killed writers left goes once it is a day old."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.unfinished-"
    new = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        new.chmod(0o755)  # mkdtemp makes it private to this user
        yield new
        for left in folder.parent.glob(f"{glob.escape(prefix)}*"):  # only now: there is a whole folder again
            if left.stat().st_mtime < time.time() - 24 * 3600:
                shutil.rmtree(left)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_in_place(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; the folder that was there, if any, is removed after that. Raises OSError."""
    old = new
    if not folder.exists():
        new.rename(folder)
    elif not _exchanged(new, folder):
        old = new.with_name(new.name + ".old")
        folder.rename(old)  # a folder with files cannot be renamed over
        new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two names were exchanged; False where that cannot be done here."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such call in this libc
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
