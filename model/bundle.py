"""Bundles: the immutable, versioned folders that training publishes and the service loads.

    bundles/<name>/<version>/manifest.json    format, recipe, data fingerprint, libraries, metrics, sha256 of each file
    bundles/<name>/<version>/...              what the recommender's kind needs
    bundles/<name>/current                    JSON: the active version, the one before it, and since when each was;
                                              replaced atomically

A reader sees a whole bundle or none: a bundle is filled beside its place, made durable, and renamed into it.
`verify` proves **integrity, not origin**: it finds a flipped byte, a missing or a foreign file, but whoever can write
the folder can write a manifest that fits it. Load bundles only from where you would install software from.
This module knows no tensor and no recommender; names and versions in, paths out.

    path = write_bundle(root, "movies", kind="popular", recipe="popular", config={}, ..., fill=recommender.save)
    activate(root, "movies", path.name)
    manifest = verify(active(root, "movies"))
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.manifest import FORMAT, MANIFEST, NAME, File, Manifest, libraries

CURRENT = "current"
_UNFINISHED = ".unfinished-"


class BundleError(Exception):
    """A bundle that cannot be used or written; the message is one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Current:
    """What the file `current` says: the active version and the one before it, each with the unix seconds since when."""

    version: str
    moved: float
    previous: str | None = None
    previous_moved: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `list_bundles`: a version, what its manifest says, and whether it is the active one."""

    version: str
    path: Path
    active: bool
    manifest: Manifest


# ---------------------------------------------------------------------------------------------------- writing


def write_bundle(
    root: Path,
    name: str,
    *,
    kind: str,
    recipe: str,
    config: Mapping[str, Any],
    data_fingerprint: str,
    metrics: Mapping[str, Any],
    fill: Callable[[Path], None],
    report: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Publishes `<root>/<name>/<version>/` with the files that `fill` writes into the folder it is given.

    The version is the first 12 hex digits of a SHA-256 over everything but the time: the same seed gives the same
    version, and publishing what is already there changes nothing and says so to `report`.
    Raises BundleError for an unusable name, a link, a metric that is not finite, or a bundle without files.
    """
    home = _home(root, name)
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home))
    try:
        fill(work)
        files = {path: _describe(work / path) for path in _files(work)}
        if not files:
            raise BundleError(f"the bundle {name!r} would hold no file")
        content = {
            "format": FORMAT,
            "name": name,
            "kind": kind,
            "recipe": recipe,
            "recipe_config": dict(config),
            "data_fingerprint": data_fingerprint,
            "metrics": dict(metrics),
            "libraries": libraries(),
            "files": {path: asdict(file) for path, file in files.items()},
        }
        try:
            text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BundleError(f"the manifest of bundle {name!r} cannot be written as JSON: {error}") from error
        version = hashlib.sha256(text.encode()).hexdigest()[:12]
        target = home / version
        if target.exists():
            verify(target)
            report(f"bundle {name}/{version} is already published; nothing changed")
            return target
        record = json.loads(text) | {"version": version, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            manifest = Manifest.of(record)
        except ValueError as error:
            raise BundleError(f"the manifest of bundle {name!r} {error}") from error
        (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        for path in (*files, MANIFEST):
            sync(work / path)
        for folder in {parent for path in files for parent in (work / path).parents if parent.is_relative_to(work)}:
            sync(folder)
        work.chmod(0o755)  # mkdtemp makes it private; the service may run as another user
        try:
            work.rename(target)
        except OSError:
            if not target.exists():
                raise
            verify(target)  # another writer published the same content first
        sync(home)
        report(f"bundle {name}/{version} published")
        return target
    finally:
        if work.exists():
            shutil.rmtree(work)


def _sweep(home: Path) -> None:
    """Removes what a killed writer left behind, once it is a day old: no writer takes that long."""
    for left in home.glob(_UNFINISHED + "*"):
        if left.stat().st_mtime < time.time() - 24 * 3600:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        return File(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _files(folder: Path) -> list[str]:
    """Every file below folder as a posix path inside it, sorted. Raises BundleError on a link or a special file."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent) / name
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise BundleError(f"{inside} in bundle {folder} is a symbolic link; a bundle holds plain files only")
            if name in names:
                if not path.is_file():
                    raise BundleError(f"{inside} in bundle {folder} is not a plain file")
                found.append(inside)
    return sorted(found)


def sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------- reading


def verify(path: Path) -> Manifest:
    """Reads the manifest of the bundle at path and checks each file against it; see the module on what that proves.

    Raises BundleError with one sentence that names the file and what is wrong with it.
    """
    manifest = read_manifest(path)
    present = [inside for inside in _files(path) if inside != MANIFEST]
    for inside in present:
        if inside not in manifest.files:
            raise BundleError(f"{inside} in bundle {path} is not in its manifest")
    for inside, expected in manifest.files.items():
        if inside not in present:
            raise BundleError(f"{inside} is missing from bundle {path}")
        found = _describe(path / inside)
        if found.bytes != expected.bytes:
            raise BundleError(f"{inside} in bundle {path} has {found.bytes} bytes, its manifest says {expected.bytes}")
        if found.sha256 != expected.sha256:
            raise BundleError(f"{inside} in bundle {path} is damaged: its sha256 is not the one in the manifest")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at path; the other files stay unread. Raises BundleError where it cannot be used."""
    if not path.is_dir():
        raise BundleError(f"there is no bundle at {path}")
    file = path / MANIFEST
    if file.is_symlink():
        raise BundleError(f"{MANIFEST} in bundle {path} is a symbolic link; a bundle holds plain files only")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{MANIFEST} is missing from bundle {path}") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{MANIFEST} in bundle {path} is not JSON") from None
    try:
        return Manifest.of(record)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} in bundle {path} {error}") from None


def list_bundles(root: Path, name: str) -> list[Entry]:
    """Every published version of a name, oldest first. A folder without a readable manifest raises BundleError."""
    home = _home(root, name)
    if not home.is_dir():
        return []
    chosen = _read_current(home)
    found = [
        Entry(
            version=path.name,
            path=path,
            active=chosen is not None and path.name == chosen.version,
            manifest=read_manifest(path),
        )
        for path in home.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda entry: (entry.manifest.created, entry.version))


# ---------------------------------------------------------------------------------------------------- the active one


def activate(root: Path, name: str, version: str) -> Path:
    """Makes a version the active one, after verifying it. Returns its path. Raises BundleError."""
    home, path = _home(root, name), path_of(root, name, version)
    verify(path)
    _point(home, after(_read_current(home), version))
    return path


def set_current(root: Path, name: str, current: Current) -> None:
    """Writes what is known from elsewhere of a version that is served already (service/following.py). Raises
    OSError."""
    _point(_home(root, name), current)


def path_of(root: Path, name: str, version: str) -> Path:
    """Where a version lies, whether or not it is there. Raises BundleError for what is no name or version."""
    return _home(root, name) / _checked(version, "version")


def current(root: Path, name: str) -> Current | None:
    """Which version is active and which was before it, whether or not they are there, or None while none is. Raises
    BundleError for a file that names no version or cannot be read."""
    return _read_current(_home(root, name))


def active(root: Path, name: str) -> Path | None:
    """The folder of the active version, or None while none is. Raises BundleError as `current` does, and when what it
    names is not there."""
    found = current(root, name)
    if found is None:
        return None
    path = path_of(root, name, found.version)
    if not path.is_dir():
        raise BundleError(f"{path.with_name(CURRENT)} names version {found.version!r}, which is not there")
    return path


def rollback(root: Path, name: str) -> Path:
    """Makes the version that was active before the present one active again; twice is where one began.

    Raises BundleError when there is none, or when it does not verify.
    """
    home = _home(root, name)
    found = _read_current(home)
    if found is None or found.previous is None:
        raise BundleError(f"bundle {name!r} has no version to roll back to")
    verify(home / found.previous)
    _point(home, after(found, found.previous))
    return home / found.previous


def _later_than(moved: float) -> float:
    """Now, in unix seconds, and always after `moved`: clocks may be set back."""
    return max(time.time(), moved + 1e-3)


def after(before: Current | None, version: str) -> Current:
    """What is said from now on where `version` is active. Said again it is said later, and the one before stays."""
    if before is None:
        return Current(version, _later_than(0.0))
    if before.version == version:
        return replace(before, moved=_later_than(before.moved))
    return Current(version, _later_than(before.moved), before.version, before.moved)


def _point(home: Path, current: Current) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=home)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(current), file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, home / CURRENT)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(home)


def _read_current(home: Path) -> Current | None:
    """None where nothing is active. Raises BundleError for a file that names no version or cannot be read."""
    file = home / CURRENT
    try:
        written = file.stat().st_mtime  # what a file from before moves had times says of them
        record = json.loads(file.read_text(encoding="utf-8"))
        found = Current(**({"moved": written} | record))
        numbers = (float(found.moved), float(found.previous_moved))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):
        raise BundleError(f"{file} does not name a version") from None
    if not isinstance(found.version, str) or not isinstance(found.previous, str | None):
        raise BundleError(f"{file} does not name a version")
    _checked(found.version, "version")
    if found.previous is not None:
        _checked(found.previous, "version")
    return replace(found, moved=numbers[0], previous_moved=numbers[1])


def _home(root: Path, name: str) -> Path:
    return root / _checked(name, "name")


def _checked(text: str, what: str) -> str:
    if not NAME.fullmatch(text) or text == CURRENT:
        raise BundleError(f"{text!r} is no {what} of a bundle: letters, digits, dot, dash and underscore, at most 64")
    return text
