"""What all tests share: real parts that may be absent, and what happens then.

A test marked `redis` needs a redis-server on the PATH, one marked `data` the real data sets, one marked `prometheus` or
`nginx` that program, one marked `browser` a Chromium. Where such a part is absent the test skips and says why; where
CONTREC_REQUIRE names the part ("redis", "redis,data") it fails instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.redis_server import own_redis, redis_command, redis_server

__all__ = ["own_redis", "redis_command", "redis_server"]  # fixtures

PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"  # where Debian keeps nginx
ROOT = Path(__file__).resolve().parents[1]


def _data_root() -> Path:
    return Path(os.environ.get("CONTREC_DATA") or ROOT.parent / "shared" / "data")


def _absent(part: str, reason: str) -> None:
    if part in os.environ.get("CONTREC_REQUIRE", "").split(","):
        pytest.fail(f"{reason}, and CONTREC_REQUIRE asks for {part}", pytrace=False)
    pytest.skip(reason)


def chromium() -> str | None:
    """The Chromium that the tests drive."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("redis") and shutil.which("redis-server") is None:
        _absent("redis", "no redis-server on the PATH")
    if item.get_closest_marker("compose") and "compose" not in os.environ.get("CONTREC_REQUIRE", "").split(","):
        pytest.skip("builds images and takes minutes: make check-compose")
    for part, program in (("prometheus", "prometheus"), ("nginx", "nginx")):
        if item.get_closest_marker(part) and shutil.which(program, path=PATH) is None:
            _absent(part, f"no {program} on the PATH")
    if item.get_closest_marker("browser") and chromium() is None:
        _absent("browser", "no chromium on the PATH")
    if item.get_closest_marker("data") and not _data_root().is_dir():
        _absent("data", f"no data sets at {_data_root()} (set CONTREC_DATA)")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets. Use it in tests marked `data`."""
    return _data_root()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return ROOT
