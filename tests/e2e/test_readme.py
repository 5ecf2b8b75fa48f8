"""The README's own commands, run as they stand: `make demo`, the curl lines, and the way of one's own data.

Only what would clash with the machine is changed: the port (a free one), the environment that make would build (the one
that runs this test), and the folders (temporary ones).
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BIN, ROOT, Running, environment, free_port
from training.data.synthetic import Sizes, generate

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
DEMO, ASK_DEMO, OWN_DATA, ASK_OWN = BLOCKS


def shell(script: str, cwd: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd, env=environment(), capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def answered(text: str, k: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(text)
    assert answer["source"] == "model"
    assert len(answer["items"]) == k
    assert all(item["title"] for item in answer["items"])
    return answer


@pytest.fixture(scope="module")
def make_demo(start: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Running]:
    """The README's `make demo` with folders and port of its own, in an environment that make finds complete."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "venv").mkdir()
    (folder / "venv" / "bin").symlink_to(BIN)
    for stamp in (".torch", ".run", ".dev"):
        (folder / "venv" / stamp).touch()
    port = free_port()

    def run() -> Running:
        command = [*DEMO.split(), f"PORT={port}", f"DEMO={folder}/demo", f"VENV={folder}/venv"]
        return start(command, ROOT)

    return run


@pytest.mark.slow
def test_the_demo_from_nothing_and_once_more(make_demo: Callable[[], Running], tmp_path: Path) -> None:
    first = make_demo()
    first.wait_for(r"^ready: ", within=240)
    url = first.wait_for(r"^ready: (http://127\.0\.0\.1:\d+)", within=1).group(1)
    curl = first.wait_for(r"^curl .*$", within=5).group()
    printed = answered(first.wait_for(r"^\{.*\}$", within=5).group(), 3)
    asked = answered(shell(curl, tmp_path), 3)
    assert asked["items"] == printed["items"], "the answer that is shown is the one that curl gets"
    answered(shell(ASK_DEMO.replace("http://127.0.0.1:8000", url), tmp_path), 3)
    status = first.interrupt()
    assert status in (0, 2, 130, -2), status
    assert "Traceback" not in first.output
    assert "Error" not in first.output
    assert first.lines[-1] == "stopped"

    begun = time.monotonic()
    second = make_demo()
    second.wait_for(r"^ready: ", within=60)
    assert time.monotonic() - begun < 20
    assert "training" not in second.output
    assert answered(second.wait_for(r"^\{.*\}$", within=5).group(), 3)["items"] == printed["items"]
    assert second.interrupt() in (0, 2, 130, -2)


@pytest.mark.slow
def test_own_data_from_raw_files_to_an_http_answer(start: Callable[..., Running], tmp_path: Path) -> None:
    write_raw_files(tmp_path / "my-data")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()  # the environment is active already
    *before, serve = OWN_DATA.strip().splitlines()
    table = shell("\n".join(before), tmp_path)
    for scorer in ("mine/", "popularity", "transition kNN", "EASE"):
        assert f"| {scorer}" in table
    assert "events imported, 0 were already there" in table
    port = free_port()
    service = start(serve.split(), tmp_path, CONTREC_PORT=str(port))
    service.wait_for(rf"^ready: http://127\.0\.0\.1:{port}", within=60)
    answer = answered(shell(ASK_OWN.replace(":8000", f":{port}"), tmp_path), 5)
    assert not {"1", "2"} & {item["item_id"] for item in answer["items"]}, "what is in the history does not come back"
    assert answer["bundle"].startswith("mine/")
    known = json.dumps({"user_id": "user-00", "k": 4})
    answered(shell(f"curl -s 127.0.0.1:{port}/recommend -H 'content-type: application/json' -d '{known}'", tmp_path), 4)
    assert service.interrupt() == 0
    assert "Traceback" not in service.output


def write_raw_files(folder: Path) -> None:
    """Invented films as the two CSV files of a user, with item ids "1", "2", ..."""
    folder.mkdir()
    world = generate(Sizes(users=80, items=60, events=10))
    lines = ["user_id,item_id,timestamp"]
    for user, (rows, times) in enumerate(zip(world.histories, world.times, strict=True)):
        lines += [f"user-{user:02d},{row + 1},{time}" for row, time in zip(rows, times, strict=True)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    quoted = [
        [str(row + 1), item.title, "|".join(item.categories), item.text.replace('"', "'")]
        for row, item in enumerate(world.items)
    ]
    rows = ["item_id,title,categories,text", *(",".join(f'"{cell}"' for cell in cells) for cells in quoted)]
    (folder / "items.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_a_port_that_is_taken_is_told_before_the_training(start: Callable[..., Running], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [BIN / "contrec", "demo", "--port", str(port), "--folder", str(tmp_path / "demo")],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"contrec: port {port} of 127.0.0.1 is taken; choose another (--port, or PORT= with make)"
    )
    assert not (tmp_path / "demo").exists()


def test_links_of_the_readme_and_the_contributors_page_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
        assert [link for link in links if not (ROOT / link).exists()] == []
