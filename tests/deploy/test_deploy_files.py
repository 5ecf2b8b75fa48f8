"""What is deployed, held without running it: every file by the schema or the program that reads it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")


def run(*command: str | Path, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin"
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env={**os.environ, "PATH": path, **more}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- compose


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return read


def test_the_compose_file_obeys_the_schema_and_knows_nothing_that_1_29_does_not() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "name" not in compose(), "docker-compose 1.29 refuses it"
    if shutil.which("docker-compose"):
        done = run("docker-compose", "config", "--quiet")
        assert done.returncode == 0, done.stderr


def test_only_nginx_and_grafana_are_published_and_only_here() -> None:
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert set(published) == {"nginx", "grafana"}
    assert all(port.startswith("${BIND:-127.0.0.1}:") for ports in published.values() for port in ports)
    assert compose()["networks"]["back"]["internal"] is True


def test_whatever_runs_on_is_confined() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        if name not in ("redis", "secrets"):  # the file says why
            assert service["cap_drop"] == ["ALL"], name


def test_the_compose_file_sets_only_settings_that_exist() -> None:
    known = {f"CONTREC_{name.upper()}" for name in Settings.model_fields}
    for name, more in (("service", set()), ("trainer", {"CONTREC_OVERRIDES"})):
        asked = {variable for variable in compose()["services"][name]["environment"] if variable.startswith("CONTREC_")}
        assert asked <= known | more, name


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CONTREC_OVERRIDES"])
def test_the_trainer_has_the_threads_and_settings_that_it_is_given(name: str) -> None:
    """Passed on as it is: with `${NAME:-}` it would be empty where nobody sets it, and libgomp complains of that."""
    trainer = compose()["services"]["trainer"]["environment"]
    assert name in trainer
    assert trainer[name] is None


def test_secrets_are_given_or_invented_and_never_change_by_themselves(tmp_path: Path) -> None:
    """The script that fills the volumes, with its folders here."""
    text = (DEPLOY / "compose" / "make_secrets.py").read_text(encoding="utf-8")
    script = tmp_path / "make_secrets.py"
    script.write_text(text.replace('"/given"', f'"{tmp_path}/given"').replace('"/secrets/', f'"{tmp_path}/'), "utf-8")
    for folder in ("given", "contrec", "grafana"):
        (tmp_path / folder).mkdir()

    def made() -> tuple[str, str]:
        done = run(sys.executable, script)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "contrec/redis_password").read_text(), (tmp_path / "grafana/admin_password").read_text()

    first = made()
    assert all(len(word) >= 32 for word in first)
    assert first[0] != first[1]
    assert made() == first
    assert (tmp_path / "contrec/redis.conf").read_text() == f'requirepass "{first[0]}"\n'
    assert json.loads((tmp_path / "contrec/redis_exporter.json").read_text()) == {"redis://redis:6379": first[0]}

    (tmp_path / "given/redis_password").write_text("mine\n")
    (tmp_path / "given/keys").write_text("shop recommend sha256:00\n")
    assert made() == ("mine", first[1])
    assert (tmp_path / "contrec/keys").read_text() == "shop recommend sha256:00\n"

    (tmp_path / "given/redis_password").write_text("two words")
    done = run(sys.executable, script)
    assert done.returncode == 1
    assert "must hold one word" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.nginx
def test_nginx_reads_its_file(tmp_path: Path) -> None:
    text = (DEPLOY / "compose" / "nginx.conf").read_text(encoding="utf-8").replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    done = run("nginx", "-t", "-c", tmp_path / "nginx.conf")
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------------- prometheus


@pytest.mark.prometheus
def test_prometheus_reads_its_file_and_every_alert_fires_when_it_should() -> None:
    for command in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = run("promtool", *command, cwd=DEPLOY / "prometheus")
        assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    read = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fires = {rule["alertname"] for test in tests for rule in test.get("alert_rule_test", ()) if rule.get("exp_alerts")}
    assert fires == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/deploy.md#{alert['alert'].lower()}"
        assert f"\n### {alert['alert']}\n" in page, "what to do about it"


# ---------------------------------------------------------------------------------------------------- grafana


def make_dashboards() -> Any:
    found = importlib.util.spec_from_file_location("make_dashboards", DEPLOY / "grafana" / "make_dashboards.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def test_the_dashboards_are_what_the_script_writes() -> None:
    module = make_dashboards()
    for uid, (title, rows) in module.DASHBOARDS.items():
        written = json.loads((DEPLOY / "grafana" / "dashboards" / f"{uid}.json").read_text(encoding="utf-8"))
        assert written == module.dashboard(uid, title, rows), "run deploy/grafana/make_dashboards.py"


@pytest.mark.parametrize("path", sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    uid = source["datasources"][0]["uid"]
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == uid for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


# ---------------------------------------------------------------------------------------------------- kubernetes


def documents() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_the_manifests_obey_kubernetes(version: str) -> None:
    found = documents()
    assert {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "CronJob", "Secret"} <= {
        one["kind"] for one in found
    }
    for one in found:
        validate(one, version, strict=True)


def test_kustomize_lists_every_manifest() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for one in documents():
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "containers" in (pod := spec.get("template", {}).get("spec", {})):
            found.append((f"{one['kind']} {one['metadata']['name']}", pod))
    return found


def test_every_pod_is_confined_and_hears_no_invented_variables() -> None:
    assert len(pods()) == 3
    for name, pod in pods():
        assert pod["enableServiceLinks"] is False, f"{name}: a Service named contrec would set CONTREC_PORT"
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"requests", "limits"} <= set(container["resources"]), name


def test_what_manifests_refer_to_is_there() -> None:
    found = documents()
    there = {(one["kind"], one["metadata"]["name"]) for one in found}
    config = next(one["data"] for one in found if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "contrec"))
    assert set(config) <= {f"CONTREC_{name.upper()}" for name in Settings.model_fields}
    for name, pod in pods():
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there, name
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there, name
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there, name
        mounts = [
            mount for one in [*pod["containers"], *pod.get("initContainers", [])] for mount in one["volumeMounts"]
        ]
        claims = {volume["name"] for volume in pod["volumes"]} | {"data"}
        assert {mount["name"] for mount in mounts} <= claims, name


def test_a_pod_has_time_to_drain() -> None:
    deployment = next(pod for name, pod in pods() if name == "Deployment contrec")
    config = next(one["data"] for one in documents() if one["kind"] == "ConfigMap" and "CONTREC_DRAIN_S" in one["data"])
    wait = int(deployment["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert deployment["terminationGracePeriodSeconds"] > wait + int(config["CONTREC_DRAIN_S"])


# ---------------------------------------------------------------------------------------------------- the image


def test_the_image_runs_as_nobody_in_particular_and_no_stage_needs_buildkit() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    assert stages.index("serve") < stages.index("train"), "the classic builder runs every stage that stands before"
    for directive in ("--mount", "<<", "# syntax", "ADD http", "COPY --chown", "COPY --link"):
        assert directive not in text, directive
    serve = text.split("AS serve")[1].split("FROM ")[0]
    assert re.search(r"^USER 10001:10001$", serve, re.MULTILINE), "a number, which Kubernetes can check"
    assert "HEALTHCHECK" in serve
    assert text.rstrip().split("USER ")[-1].startswith("10001:10001")


def test_the_builder_is_sent_only_what_it_copies() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    }  # fmt: skip
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert copied == allowed


def test_requirements_of_an_extra() -> None:
    lines = run(sys.executable, ".ci/requirements", "serve").stdout.splitlines()
    assert any(line.startswith("torch") for line in lines)
    assert any(line.startswith("fastapi") for line in lines)
    assert not any(line.startswith("polars") for line in lines)


BUDGET_MB = 1600
BASE_MB = 150
"""The public slim image of Python, a little over its size."""


def installed_size(names: set[str]) -> int:
    """Bytes of these distributions and of all they need, as they lie in this environment."""
    from importlib import metadata

    from packaging.requirements import Requirement

    total, waiting, met = 0, sorted(names), set[str]()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = requirement.name.lower().replace("_", "-")
        if name in met or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        met.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # asked for under a marker that does not hold here
        total += sum(path.stat().st_size for file in found.files or () if (path := Path(str(file.locate()))).is_file())
        waiting += found.requires or []
        for extra in requirement.extras:
            waiting += [line.split(";")[0] for line in found.requires or [] if f'extra == "{extra}"' in line]
    return total


def test_the_serving_image_stays_within_its_budget() -> None:
    """An upper bound: the image leaves out another 200 MB of headers and tests (.ci/slim)."""
    lines = run(sys.executable, ".ci/requirements", "serve").stdout.splitlines()
    size = installed_size(set(lines)) / 1e6
    assert size > 500, "torch alone is more"
    assert BASE_MB + size < BUDGET_MB, f"{size:.0f} MB of packages on a base of {BASE_MB} MB"


def test_slim_takes_away_only_what_nobody_imports(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    kept = ["torch/__init__.py", "torch/bin/torch_shm_manager", "torch/lib/libtorch_cpu.so", "sympy/core/add.py"]
    gone = ["torch/include/a.h", "torch/test/t", "torch/bin/protoc", "torch/lib/libx_test.so", "sympy/core/tests/t.py"]
    for name in kept + gone:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(b"x" * 1_000_000)
    done = run(sys.executable, ".ci/slim", tmp_path)
    assert "removed 5 MB" in done.stdout
    assert {name for name in kept + gone if (packages / name).exists()} == set(kept)
