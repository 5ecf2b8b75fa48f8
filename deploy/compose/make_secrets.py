"""Fills the secrets' volumes: what you wrote into deploy/secrets is copied, what is not there is invented once.

Runs in a container of its own before anything else starts (docker-compose.yml, service `secrets`). A password that was
invented stays as it is; one that you write later takes its place at the next `up`.

    deploy/secrets/redis_password            for Redis, the service and the exporter
    deploy/secrets/grafana_admin_password    for Grafana's user admin
    deploy/secrets/keys                      the API keys' hashes (`contrec keys new`); none unless you write it
"""

import json
import secrets
import sys
from pathlib import Path

GIVEN = Path("/given")
CONTREC, GRAFANA = Path("/secrets/contrec"), Path("/secrets/grafana")


def put(path: Path, text: str) -> None:
    """Replaces a file whole. Anyone in a container that mounts the volume may read it: each runs as another user."""
    new = path.with_name(f".{path.name}")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o444)
    new.replace(path)


def password(name: str, path: Path) -> str:
    """The password that was given, else the one that is there, else a new one; in its file."""
    given = GIVEN / name
    if given.is_file():
        word = given.read_text(encoding="utf-8").strip()
        if not word or any(sign.isspace() or sign in "\"'\\" for sign in word):
            sys.exit(f"deploy/secrets/{name} must hold one word, without quotes or backslashes")
    elif path.is_file():
        return path.read_text(encoding="utf-8").strip()
    else:
        word = secrets.token_urlsafe(24)
    put(path, word)
    return word


word = password("redis_password", CONTREC / "redis_password")
put(CONTREC / "redis.conf", f'requirepass "{word}"\n')
put(CONTREC / "redis_exporter.json", json.dumps({"redis://redis:6379": word}))
password("grafana_admin_password", GRAFANA / "admin_password")
keys = GIVEN / "keys"
if keys.is_file():
    put(CONTREC / "keys", keys.read_text(encoding="utf-8"))
