"""Downloading a public file: resumed where it broke off, checked before anyone reads it, whole or not there at all.

    fetched = fetch("https://.../ml-1m.zip", Path("cache/ml-1m.zip"), published=".md5", passing=print)

What has come lies in `<target>.part` with what the server called that version of the file beside it, so that a
download goes on only with the same version. The file appears under its own name once its length, its published
checksum (fetched beside it) and, for an archive, its own checksums are right. Where nothing is published, the sha256
of the first download is recorded in `checksums.json` beside it, and a later one must equal it. Knows no data set.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from training.data.prepared import DataError

PIECE = 1 << 20
RETRIES = 5  # in a row without a new byte
TIMEOUT = 20.0  # seconds without a byte
PAUSE, LONGEST_PAUSE = 1.0, 30.0
AGAIN = {408, 429, 500, 502, 503, 504}
RECORD = "checksums.json"
MD5 = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32}(?![0-9a-fA-F])")

Passing = Callable[[str], None]


class DownloadError(DataError):
    """A file that could not be brought, told in one sentence."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a file came from and why it is believed. checked: "published md5" or "recorded on first use"."""

    url: str
    bytes: int
    sha256: str
    checked: str


def fetch(
    url: str,
    target: Path,
    *,
    published: str | None = None,
    passing: Passing = lambda sentence: None,
    retries: int = RETRIES,
    timeout: float = TIMEOUT,
    pause: float = PAUSE,
) -> Fetched:
    """The file at a URL, at `target`. What is there already, and recorded, is not fetched again.

    published: what is appended to the URL to find its md5. retries: attempts in a row that bring nothing new.
    timeout: seconds without a byte. pause: seconds before the second attempt, doubled each time; a server's
    Retry-After is respected up to LONGEST_PAUSE. Raises DownloadError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(target.parent), _client(timeout) as client:
        known = _recorded(target.parent).get(url)
        if target.is_file() and known is not None and target.stat().st_size == known.bytes:
            return known
        transfer = _Transfer(client, url, part, passing, retries, pause)
        expected = transfer.published(published) if published else None
        for last in (False, True):  # what is wrong once may have been spliced or garbled on its way
            transfer.run()
            md5, sha256 = _digests(part)
            fault = _fault(part, target.name)
            if expected is not None and md5 != expected:
                fault = f"has the md5 {md5}, and its publisher says {expected}"
            elif fault is None and expected is None and known is not None and sha256 != known.sha256:
                fault = f"has another checksum than on {url}'s first use (recorded in {target.parent / RECORD})"
            if fault is None:
                break
            transfer.forget()
            if last:
                raise DownloadError(f"{url} {fault}: it was not taken")
        checked = "published md5" if expected else "recorded on first use"
        fetched = Fetched(url, part.stat().st_size, sha256, checked)
        part.replace(target)
        transfer.forget()
        _record(target.parent, fetched)
        return fetched


class _Transfer:
    """Brings one URL into one part file, however often the connection breaks."""

    def __init__(
        self, client: httpx.Client, url: str, part: Path, passing: Passing, retries: int, pause: float
    ) -> None:
        self._client, self._url, self._part, self._passing = client, url, part, passing
        self._version = part.with_name(part.name + ".version")
        self._retries, self._pause = retries, pause
        self._host = urlsplit(url).hostname

    def run(self) -> None:
        """Returns when the part file is as long as the server says. Raises DownloadError."""
        failures, reached = 0, self._have()
        while True:
            try:
                if self._attempt():
                    return
                trouble = _Trouble(f"{self._host} broke off")
            except httpx.TooManyRedirects as error:
                raise DownloadError(f"{self._url} leads in circles") from error
            except httpx.TransportError as error:
                trouble = _Trouble.of(error, self._host)
            except _Trouble as error:
                trouble = error
            except OSError as error:
                raise DownloadError(f"{self._part} cannot be written: {error.strerror}") from error
            failures = 0 if self._have() > reached else failures + 1
            reached = self._have()
            self._pause_or_give_up(trouble, failures)

    def published(self, suffix: str) -> str | None:
        """The md5 that lies beside the file; None where there is none. Raises DownloadError when nobody answers."""
        for failures in count(1):
            try:
                response = self._client.get(self._url + suffix)
                if response.status_code not in AGAIN:
                    found = MD5.search(response.text[:4096]) if response.is_success else None
                    return found.group().lower() if found else None
                trouble = _Trouble(f"{self._host} answers {response.status_code}", _retry_after(response))
            except httpx.TransportError as error:
                trouble = _Trouble.of(error, self._host)
            self._pause_or_give_up(trouble, failures)
        raise AssertionError("count never ends")

    def _pause_or_give_up(self, trouble: _Trouble, failures: int) -> None:
        """Waits before the next attempt. Where nobody is there at all, one more is enough."""
        if failures > (min(1, self._retries) if trouble.unreached else self._retries):
            times = f", {failures} times in a row" if failures > 1 else ""
            raise DownloadError(f"{self._url} cannot be downloaded: {trouble}{times}")
        self._passing(f"{self._part.stem}: {trouble}, trying again")
        time.sleep(min(LONGEST_PAUSE, trouble.wait or self._pause * 2 ** min(failures, 5)))

    def forget(self) -> None:
        """Removes what has come."""
        self._part.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _attempt(self) -> bool:
        """One request: whether the file is whole now."""
        have, version = self._have(), self._read_version()
        if have and version is None:  # nobody can say which version these bytes are of
            self.forget()
            have = 0
        headers = {"accept-encoding": "identity"}
        if have and version:
            headers |= {"range": f"bytes={have}-", "if-range": version}
        with self._client.stream("GET", self._url, headers=headers) as response:
            _refuse_downgrade(self._url, response)
            status = response.status_code
            if status in AGAIN:
                raise _Trouble(f"{self._host} answers {status}", _retry_after(response))
            if status == 416:  # more is here than there
                self.forget()
                return False
            if status == 206:
                start, total = _content_range(response)
                if start != have:
                    self.forget()
                    return False
            elif status == 200:
                self.forget()
                have, total = 0, _length(response)
                self._write_version(response)
            else:
                raise DownloadError(f"{self._url} cannot be downloaded: {self._host} answers {status}")
            self._receive(response, have, total)
        return total is None or self._have() == total

    def _receive(self, response: httpx.Response, have: int, total: int | None) -> None:
        started, before = time.monotonic(), have
        with self._part.open("ab") as file:
            for piece in response.iter_raw():  # as it comes: what waits to fill a buffer is lost when the line breaks
                file.write(piece)
                have += len(piece)
                speed = (have - before) / 2**20 / max(1e-3, time.monotonic() - started)
                of = f" of {total / 2**20:.0f}" if total else ""
                self._passing(f"{self._part.stem}: {have / 2**20:.0f}{of} MiB, {speed:.1f} MiB/s")
            file.flush()
            os.fsync(file.fileno())

    def _read_version(self) -> str | None:
        return self._version.read_text(encoding="utf-8") if self._version.is_file() else None

    def _write_version(self, response: httpx.Response) -> None:
        """A strong ETag, else the time of the last change: what If-Range takes."""
        tag = response.headers.get("etag", "")
        version = tag if tag and not tag.startswith("W/") else response.headers.get("last-modified", "")
        if version:
            self._version.write_text(version, encoding="utf-8")


class _Trouble(Exception):
    """Why an attempt failed that may be repeated. wait: seconds that the server asks for. unreached: nobody is."""

    def __init__(self, why: str, wait: float = 0.0, *, unreached: bool = False) -> None:
        super().__init__(why)
        self.wait, self.unreached = wait, unreached

    @classmethod
    def of(cls, error: httpx.TransportError, host: str | None) -> _Trouble:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return cls(f"{host} cannot be reached", unreached=True)
        return cls(f"{host} is silent" if isinstance(error, httpx.TimeoutException) else f"{host} broke off")


@contextmanager
def _client(timeout: float) -> Iterator[httpx.Client]:
    agent = {"user-agent": "contrec (a recommender; downloads a public data set once)"}
    with httpx.Client(timeout=timeout, follow_redirects=True, max_redirects=5, headers=agent) as client:
        yield client


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes that fill one folder come one after the other; the second finds the file there or goes on."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_downgrade(url: str, response: httpx.Response) -> None:
    hops = [str(hop.url) for hop in response.history[1:]] + [str(response.url)]
    if url.startswith("https://") and any(hop.startswith("http://") for hop in hops):
        raise DownloadError(f"{url} leads to an address that is not encrypted: it was not followed")


def _retry_after(response: httpx.Response) -> float:
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdigit() else 0.0


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _content_range(response: httpx.Response) -> tuple[int, int | None]:
    """Where the bytes begin (-1 where that is not said) and how long the whole is."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", "").strip())
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _digests(path: Path) -> tuple[str, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            md5.update(piece)
            sha256.update(piece)
    return md5.hexdigest(), sha256.hexdigest()


def _fault(path: Path, name: str) -> str | None:
    """What an archive says against itself: a page of text in its place, a missing end, a wrong checksum inside."""
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                if wrong := archive.testzip():
                    return f"is damaged at {wrong}"
        elif name.endswith(".gz"):
            with gzip.open(path) as file:
                while file.read(PIECE):
                    pass
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        return f"is no whole {name.rpartition('.')[2]} file ({error})"
    return None


def _recorded(folder: Path) -> dict[str, Fetched]:
    try:
        entries = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {entry["url"]: Fetched(**entry) for entry in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DownloadError(f"{folder / RECORD} cannot be read ({error}): remove it to begin anew") from error


def _record(folder: Path, fetched: Fetched) -> None:
    recorded = _recorded(folder) | {fetched.url: fetched}
    new = folder / f".{RECORD}.{os.getpid()}"
    new.write_text(json.dumps([asdict(entry) for entry in recorded.values()], indent=2) + "\n", encoding="utf-8")
    new.replace(folder / RECORD)
