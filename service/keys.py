"""API keys: who may call, and for what. Knows no HTTP; `middleware/guard.py` asks it, `contrec keys new` makes them.

A key is 256 random bits, shown once. What is kept, in a file or a variable, is one line for each key:

    # name   scopes             hash of the key
    shop     recommend,write    sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

SHA-256 alone is enough for that: a slow hash makes it dear to guess what a person thought up, and nobody guesses 256
random bits at any price; all that slowness would buy is work for whoever floods the service with wrong keys.

    key = new_key()
    line = key_line("shop", {Scope.RECOMMEND}, key)
    ring = KeyRing.open(inline="", file=Path("keys.txt"))
    ring.find(key)                  # Key(name="shop", ...) or None
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MAX_KEYS: Final = 1000
"""Every key is compared on every request (0.2 us each), so that the time tells nothing; their number is bounded."""

MAX_KEY_LENGTH: Final = 128
"""Longer than any key; what is longer is refused unhashed."""

_MARK: Final = "ctr_"  # lets a person, and a scanner for leaked secrets, see what it is
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")


class Scope(StrEnum):
    """What a key may do. None includes another."""

    RECOMMEND = "recommend"
    WRITE = "write"
    USERS = "users"
    ADMIN = "admin"


class KeysError(Exception):
    """A file or variable of keys that cannot be used. Carries one sentence; never a key."""


@dataclass(frozen=True, slots=True)
class Key:
    """name: what the log calls its holder. digest: SHA-256 of the key."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return _MARK + secrets.token_urlsafe(32)


def key_line(name: str, scopes: Iterable[Scope], key: str) -> str:
    """The line to keep. Raises KeysError for a name that is none, and for no scope."""
    held = sorted(set(scopes), key=list(Scope).index)
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r} is no name for a key: up to 64 letters, digits, dots, dashes and underscores")
    if not held:
        raise KeysError(f"a key needs a scope: {', '.join(Scope)}")
    return f"{name} {','.join(held)} sha256:{_digest(key).hex()}"


def add_to_file(file: Path, line: str) -> None:
    """Appends a line of `key_line`; a file that is not there yet is made, for its owner alone.

    Raises KeysError when the file cannot be read, or then held two keys of one name, and leaves it as it was.
    """
    held = _text_of(file) if file.exists() else ""
    whole = held + ("\n" if held and not held.endswith("\n") else "") + line + "\n"
    parse_keys(whole, str(file))
    with open(file, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
        out.write(whole)


def parse_keys(text: str, origin: str) -> tuple[Key, ...]:
    """The keys of these lines (`;` ends a line too). origin: what a KeysError names before the line's number."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(re.split(r"[\n;]", text), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = _parse_line(words, f"{origin} line {number}")
        if key.name in keys:
            raise KeysError(f"{origin} line {number}: there are two keys named {key.name!r}")
        keys[key.name] = key
    if len(keys) > MAX_KEYS:
        raise KeysError(f"{origin} holds {len(keys)} keys, at most {MAX_KEYS}")
    return tuple(keys.values())


def _parse_line(words: list[str], where: str) -> Key:
    # The line is not repeated in the sentence: somebody may have pasted the key itself.
    if len(words) != 3:
        raise KeysError(f"{where}: three words were expected (name, scopes, sha256:HASH)")
    name, scopes, kept = words
    if not _NAME.fullmatch(name):
        raise KeysError(f"{where}: the name is not made of letters, digits, dots, dashes and underscores")
    unknown = [scope for scope in scopes.split(",") if scope not in set(Scope)]
    if unknown:
        raise KeysError(f"{where}: {name!r} has an unknown scope; there are {', '.join(Scope)}")
    digest = _HASH.fullmatch(kept)
    if digest is None:
        raise KeysError(f"{where}: {name!r} has no hash, sha256: and 64 hex digits (`contrec keys new` makes the line)")
    return Key(name, frozenset(Scope(scope) for scope in scopes.split(",")), bytes.fromhex(digest[1]))


class KeyRing:
    """The keys in force. `required`: whether keys are configured at all; without them most routes are open.

    Once required, always required: a file that is emptied locks everybody out, and opens nothing.
    """

    def __init__(self, keys: tuple[Key, ...], *, required: bool, inline: str = "", file: Path | None = None) -> None:
        self.required = required
        self._keys = keys
        self._inline = inline
        self._file = file
        self._read = None if file is None else _stamp(file)

    @classmethod
    def open(cls, inline: str, file: Path | None) -> KeyRing:
        """Reads both. Raises KeysError, also when what is configured holds no key."""
        required = bool(inline) or file is not None
        keys = _gather(inline, file)
        if required and not keys:
            raise KeysError("CONTREC_KEYS and CONTREC_KEYS_FILE hold no key; leave both unset to go without keys")
        return cls(keys, required=required, inline=inline, file=file)

    def find(self, presented: str) -> Key | None:
        """The key that was presented, or None. Takes the same time whichever it is."""
        if not presented or len(presented) > MAX_KEY_LENGTH:
            return None
        digest = _digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def reread(self) -> None:
        """Takes up a file that has changed since; keeps what was in force, and logs why, when it cannot be used."""
        if self._file is None or (stamp := _stamp(self._file)) == self._read:
            return
        self._read = stamp
        try:
            self._keys = _gather(self._inline, self._file)
        except KeysError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("API keys read again: %d in force", len(self._keys))


def _gather(inline: str, file: Path | None) -> tuple[Key, ...]:
    keys = parse_keys(inline, "CONTREC_KEYS")
    if file is not None:
        keys += parse_keys(_text_of(file), f"CONTREC_KEYS_FILE {file}")
    if len({key.name for key in keys}) < len(keys):
        raise KeysError("CONTREC_KEYS and CONTREC_KEYS_FILE name the same key")
    return keys


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeysError(f"CONTREC_KEYS_FILE {file} cannot be read: {reason}") from None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None while it is out of reach."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
