"""The commands of docs/, run as they stand where they can be, and where they cannot, held to what they name.

| page | held by |
|---|---|
| deploy.md | tests/compose runs every script on a Docker engine; here its words are checked against the files |
| scale.md, coming-from.md | run here; of scale.md's measurement only that it is understood: it wants a whole machine |
| service.md | tests/service/test_service_documents.py asks every curl |
| README.md | test_readme.py |
| every page | each `contrec` and `python` command exists and has the options that are named |
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import BIN, ROOT, Running, environment, free_port
from tests.e2e.test_docs_coming_from import SCRIPTS, gorse
from tests.e2e.test_readme import answered, shell, write_raw_files
from tests.pages import DOCS, lines, scripts
from tests.redis_server import RedisServer

PAGES = sorted(path.name for path in DOCS.glob("*.md"))
COMMANDS = [(page, line) for page in PAGES for script in scripts(page) for line in lines(script)]


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [*command, "--help"], cwd=ROOT, env=environment(COLUMNS="200"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-500:]}"
    return done.stdout


def program(words: list[str]) -> tuple[str, ...] | None:
    """What has a --help, at the head of the words of a command; None where it is not ours."""
    if words[0] == "contrec":
        names = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
        return (str(BIN / "contrec"), *(names if names[0] in ("data", "events", "keys", "bundles") else names[:1]))
    if words[0] == "python":
        named = words[1:3] if words[1] == "-m" else words[1:2]
        after = words[len(named) + 1 :][:1]
        return (sys.executable, *named, *(word for word in after if re.fullmatch("[a-z]+", word)))
    return None


# `python -m service` takes its words from the environment: tests/service starts it as it stands.
OURS = [(page, line) for page, line in COMMANDS if program(shlex.split(line)) and line != "python -m service"]


@pytest.mark.parametrize(("page", "line"), OURS, ids=lambda word: word)
def test_a_command_exists_and_has_its_options(page: str, line: str) -> None:
    words = shlex.split(line)
    command = program(words)
    assert command is not None
    said = help_of(*command)
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert option in said, f"{page}: {line}"


# ------------------------------------------------------------------------------------------------ coming-from, scale


@pytest.mark.slow
def test_what_came_from_gorse_is_trained_and_served(start: Callable[..., Running], tmp_path: Path) -> None:
    (script,) = scripts("coming-from.md")
    gorse(tmp_path, users=40)
    subprocess.run([sys.executable, "-c", SCRIPTS["gorse"]], cwd=tmp_path, env=environment(), check=True)
    *before, serve = lines(script)
    shell("\n".join(before), tmp_path)
    port = free_port()
    service = start(serve.split(), tmp_path, CONTREC_PORT=str(port))
    service.wait_for(rf"^ready: http://127\.0\.0\.1:{port}", within=60)
    body = json.dumps({"user_id": "u0", "k": 3})
    header = "-H 'content-type: application/json'"
    answered(shell(f"curl -s 127.0.0.1:{port}/recommend {header} -d '{body}'", tmp_path), 3)
    assert service.interrupt() == 0


@pytest.mark.slow
@pytest.mark.redis
def test_what_a_large_site_trains_on_comes_out_of_its_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    measure, script = scripts("scale.md")
    assert lines(measure)[0].startswith("python -m bench.serving --only ")
    write_raw_files(tmp_path / "my-data")
    shell(f"contrec events import my-data --store {redis_server.url}", tmp_path)
    said = shell(script.replace("redis://127.0.0.1:6379/0", redis_server.url).replace("small", "tiny"), tmp_path)
    assert re.search(r"^\W*[0-9a-f]{12}\b", said, re.MULTILINE), "the bundle is listed"


# ------------------------------------------------------------------------------------------------------------ deploy


def deploying() -> list[list[str]]:
    found = []
    for script in scripts("deploy.md"):
        for line in lines(script):
            words = shlex.split(line)
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words[:2] == ["docker", "compose"]:
                found.append(words[2:])
    return found


def test_deploy_names_only_services_variables_and_commands_that_there_are() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    verbs = {"up": (), "build": (), "ps": (), "exec": (), "run": ("--rm", "--no-deps", "-v")}
    for words in deploying():
        verb, *rest = words
        assert verb in verbs, words
        if verb in ("run", "exec"):
            at = next(place for place, word in enumerate(rest) if word in services)
            service, asked = rest[at], rest[at + 1 :]
            if service == "trainer":
                said = help_of(*(program(["contrec", *asked]) or ()))
                assert all(word in said for word in asked if word.startswith("--")), words
        for word in rest:
            if word.startswith("service="):
                assert word.partition("=")[0] in services
    for script in scripts("deploy.md"):
        for variable in re.findall(r"^echo ([A-Z_]+)=\S+ >> \.env$", script, re.MULTILINE):
            assert f"${{{variable}:-" in text, f"{variable} is no variable of docker-compose.yml"
    for path in re.findall(r"kubectl apply -k (\S+)", (DOCS / "deploy.md").read_text(encoding="utf-8")):
        assert (ROOT / path / "kustomization.yaml").is_file()


def test_deploy_lists_every_variable_of_the_compose_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    page = (DOCS / "deploy.md").read_text(encoding="utf-8")
    missing = {name for name in re.findall(r"\$\{([A-Z_]+):-", text) if f"`{name}`" not in page}
    assert missing == set()
