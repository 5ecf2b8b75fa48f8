"""docs/deploy.md, as it stands: every one of its scripts, in the page's order, on the running project.

A script that stays in the foreground is left by Ctrl-C before the next. ELSEWHERE says what is left out.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.compose.stack import PROJECT, Stack, docker
from tests.e2e.test_readme import write_raw_files
from tests.pages import scripts

pytestmark = [pytest.mark.compose, pytest.mark.slow]

ELSEWHERE = {
    "kubectl apply -k deploy/kubernetes": "needs a cluster; tests/deploy holds the manifests to the schemas",
}
(TRY, ASK, OWN, RETRAIN, FORCE, GRAFANA, KEY, KEYS, SCALE, UPGRADE, ROLLING, ROLLBACK, BACKUP) = (
    script.strip() for script in scripts("deploy.md") if script.strip() not in ELSEWHERE
)


@pytest.fixture(scope="module", autouse=True)
def images_of_other_tags(stack: Stack) -> Iterator[None]:
    yield
    stack.compose("down")
    for tag in ("2", "3"):
        docker("rmi", f"contrec:{tag}", f"contrec-train:{tag}", check=False)


def ask(stack: Stack, line: str = ASK) -> dict[str, object]:
    answer: dict[str, object] = json.loads(stack.shell(line.replace(":8000", f":{stack.port}")))
    return answer


def test_try_it(stack: Stack) -> None:
    stack.watch(TRY)
    answer = ask(stack)
    assert answer["source"] == "model"
    assert len(answer["items"]) == 3  # type: ignore[arg-type]


def test_bring_your_own_data_and_have_it_trained_again(stack: Stack) -> None:
    stack.leave()
    stack.compose("down", "-v")  # somebody who has not seen the demo
    write_raw_files(stack.folder / "my-data")
    stack.watch(OWN)
    first = stack.recommend(user_id="user-01", k=3)
    assert first["source"] == "model"
    assert {item["item_id"] for item in first["items"]} <= {str(n) for n in range(1, 61)}
    assert stack.tell("user-01", "7").status_code == 200
    assert "active: contrec/" in stack.shell(f"{RETRAIN} 2>&1")
    stack.until(lambda: stack.recommend(user_id="user-01")["bundle"] != first["bundle"], 60)
    stack.leave()


def test_a_start_that_forgets_the_data_changes_nothing(stack: Stack) -> None:
    stack.shell("DATA= docker compose up -d")
    stack.until(stack.answers, 120)
    assert "what was made of yours stays" in stack.shell("docker compose logs trainer 2>&1")
    assert stack.recommend(user_id="user-01", k=1)["items"][0]["item_id"].isdigit(), "the demo's begin with an f"


def test_passwords_of_ones_own(stack: Stack) -> None:
    (stack.folder / "deploy/secrets/redis_password").write_text("mine-and-only-mine\n", encoding="utf-8")
    stack.shell(FORCE)
    stack.until(stack.answers, 120)
    (redis,) = stack.containers("redis")
    assert docker("exec", redis, "cat", "/run/secrets/contrec/redis_password") == "mine-and-only-mine"
    stack.until(lambda: stack.tell("user-01", "8").status_code == 200, 60)
    if stack.grafana:
        assert len(stack.shell(GRAFANA).strip()) >= 32


def test_keys(stack: Stack) -> None:
    said = stack.shell(KEY)
    line = re.search(r"shop recommend,write sha256:[0-9a-f]{64}", said)
    key = re.search(r"shown this once: +(\S+)", said)
    assert line is not None
    assert key is not None
    keys = stack.folder / "deploy/secrets/keys"
    keys.write_text(f"{line.group()}\n", encoding="utf-8")
    stack.shell(KEYS)

    def status(**headers: str) -> int:
        return stack.client.post("/recommend", json={"user_id": "user-01"}, headers=headers).status_code

    stack.until(lambda: status() == 401, 120)
    assert status(**{"X-API-Key": key.group(1)}) == 200
    keys.write_text("", encoding="utf-8")
    stack.shell(KEYS.splitlines()[-1])
    stack.until(lambda: status(**{"X-API-Key": key.group(1)}) == 401, 30)
    stack.shell("sed -i /CONTREC_KEYS_FILE/d .env && docker compose up -d")
    stack.until(lambda: status() == 200, 120)


def test_scale_and_replace_every_replica_without_losing_a_request(stack: Stack) -> None:
    stack.shell(SCALE)
    stack.until(stack.everyone_is_well, 120)
    stack.shell(UPGRADE)
    stack.until(stack.answers, 120)
    assert images(stack) == {"contrec:2"}
    stack.shell(SCALE)
    stack.until(stack.everyone_is_well, 120)
    with stack.load():
        time.sleep(2)
        stack.shell(ROLLING)
        time.sleep(2)
    assert images(stack) == {"contrec:3"}
    assert len(stack.containers("service")) == 2


def images(stack: Stack) -> set[str]:
    return {docker("inspect", one, "--format", "{{.Config.Image}}") for one in stack.containers("service")}


def test_roll_a_bundle_back(stack: Stack) -> None:
    before = stack.recommend(user_id="user-01")["bundle"]
    stack.shell(ROLLBACK)
    stack.until(lambda: stack.recommend(user_id="user-01")["bundle"] != before, 60)


def test_back_up_and_restore(stack: Stack) -> None:
    before = stack.recommend(user_id="user-01")
    said = stack.shell(f"{{ {BACKUP.replace('-v contrec_', f'-v {PROJECT}_')}\n}} 2>&1")
    assert re.search(r"\b0 events imported, \d+ were already there", said)
    lines = (stack.folder / "backup/events.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(json.loads(line)["user_id"] == "user-01" for line in lines)
    assert (stack.folder / "backup/bundles.tar").stat().st_size > 1e5
    after = stack.recommend(user_id="user-01")
    assert (after["bundle"], after["items"]) == (before["bundle"], before["items"])


def test_grafana_is_let_in_by_the_password_that_is_told(stack: Stack) -> None:
    if not stack.grafana:
        pytest.skip("no image of Grafana is to be had here")
    address = f"http://127.0.0.1:{stack.grafana_port}/api/org"
    assert stack.client.get(address, auth=("admin", stack.shell(GRAFANA).strip())).status_code == 200
