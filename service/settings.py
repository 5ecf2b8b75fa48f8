"""Every setting of the service: a CONTREC_* variable each, with its default, its bounds and its reason.

`docs/settings.md` lists the same, and a test holds the two together. Knows no FastAPI and no store.

    settings = load_settings()      # from the environment; SettingsError carries one sentence
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.stores import check_address

PREFIX = "CONTREC_"

# Variables with our prefix that belong to other rooms; every other unknown one is a likely slip of the pen.
_ELSEWHERE = frozenset(  # read by other commands, and by the tests
    f"{PREFIX}{name}"
    for name in ("CACHE", "COMPOSE", "DATA", "DEBUG", "FUZZ", "MIRROR", "NIGHTLY", "OVERRIDES", "REQUIRE")
)


class SettingsError(Exception):
    """A setting that cannot be used. Carries one sentence that names the variable."""


class Settings(BaseSettings):
    """What an operator may turn. Immutable once read."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. Only this machine, until you say so."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes any free one.")
    metrics_port: int = Field(
        9100,
        ge=0,
        le=65535,
        description="Port of the Prometheus metrics, on the same host, apart from the API; 0 is off.",
    )
    bundles: Path = Field(Path("bundles"), description="Folder that holds the bundles, one folder for each name.")
    bundle: str = Field(
        "contrec",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of the bundle to serve; its active version is loaded at start.",
    )
    store: Annotated[str, AfterValidator(check_address)] = Field(
        "sqlite:///contrec.db",
        description="Where events live: sqlite:///FILE for one process, redis://HOST:PORT/DB for replicas.",
    )
    store_timeout_ms: int = Field(
        100,
        ge=5,
        le=10_000,
        description="How long a read of the store may take, in ms, before the request goes on without it; a write five "
        "times as long.",
    )
    store_connections: int = Field(
        32, ge=1, le=1024, description="Most connections to Redis at a time; beyond it requests wait for one, briefly."
    )
    catalogue_poll_ms: int = Field(
        250,
        ge=20,
        le=60_000,
        description="How often a replica asks the store for new, changed and withdrawn items, in ms.",
    )
    token_ttl_s: int = Field(
        604_800, ge=1, le=31_536_000, description="How long user tokens are kept, in seconds. Histories never expire."
    )
    model_timeout_ms: int = Field(
        2000,
        ge=10,
        le=60_000,
        description="How long a request waits for the model, in ms, before it gets the popular list.",
    )
    keys: str = Field(
        "", description="API keys, hashed: lines that `contrec keys new` printed, parted by `;`. Unset: no keys."
    )
    keys_file: Path | None = Field(
        None, description="File with such lines; it is read again within seconds of a change."
    )
    rate_limit: float = Field(
        0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Requests a second for each key, or each client address without one; beyond it 429. 0 is off.",
    )
    rate_burst: int = Field(
        0, ge=0, le=1_000_000, description="How many of them may come at once; 0 is two seconds' worth."
    )
    allowed_hosts: str = Field(
        "",
        description="Host names to answer to, comma-separated, `*.` for all below one, `*` for any. Unset: localhost "
        "and addresses while listening on this machine alone, else any.",
    )
    allowed_origins: str = Field(
        "", description="Web origins whose pages may call from a browser (CORS), comma-separated. Unset: none."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, comma-separated, whose X-Forwarded-For names the client. Unset: nobody's.",
    )
    request_timeout_s: float = Field(
        10,
        ge=0.1,
        le=600,
        description="How long a request may take to arrive, headers and body each, and an answer to be taken; seconds.",
    )
    keep_alive_s: int = Field(
        5,
        ge=1,
        le=3600,
        description="How long an idle connection is kept, in seconds; above the balancer's own where there is one.",
    )
    max_connections: int = Field(
        1000, ge=1, le=1_000_000, description="Most connections at a time; beyond it 429 and the connection is closed."
    )
    max_header_bytes: int = Field(
        16_384, ge=1024, le=1_048_576, description="Longest request line and headers together."
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=67_108_864, description="Largest request body; a larger one is refused unread."
    )
    queue_size: int = Field(
        256,
        ge=1,
        le=65_536,
        description="Requests that may wait for the model; beyond it the answer is 429 with Retry-After.",
    )
    queue_wait_ms: int = Field(
        250,
        ge=1,
        le=60_000,
        description="Longest wait for the model while a whole batch waits behind, in ms, and once more than two "
        "batches have waited for as long, about a tenth of it; beyond it 429.",
    )
    max_batch: int = Field(
        32, ge=1, le=1024, description="Most requests computed together. Nobody waits for a batch to fill."
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of torch; 0 takes what the cgroup's CPU quota allows, and logs the reason.",
    )
    drain_wait_s: float = Field(
        1.0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="After SIGTERM, for how many seconds requests are still taken, unready, so that balancers leave.",
    )
    drain_s: int = Field(
        10, ge=0, le=600, description="After that, how long open requests may take to finish, in seconds."
    )
    page: bool = Field(
        True, description="Whether / shows the page; false where strangers reach the service and need no catalogue."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe message that is logged; `info` has a line for each request."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`text` for people, `json` for machines: one object a line."
    )
    log_ids: bool = Field(
        False,
        description="Log also what may hold ids: texts of exceptions and paths of requests. Otherwise no id is logged.",
    )


def words(value: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [word.strip() for word in value.split(",") if word.strip()]


def load_settings(**given: Any) -> Settings:
    """Settings from what is given, then the environment, then the defaults. Raises SettingsError."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        told = first["type"] != "missing" and name != "store"  # a store's address may hold a password
        value = f" {str(first['input'])[:80]!r}" if told else ""
        raise SettingsError(f"{PREFIX}{name.upper()}{value} cannot be used: {reason}") from None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with our prefix that no setting reads: worth a warning, since a slip would else go unnoticed."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _ELSEWHERE
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
