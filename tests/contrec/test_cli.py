"""The command line as a person meets it: quick help, one sentence for a mistake, output that can be piped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.bundle import activate, write_bundle
from model.catalogue import Catalogue, Item
from model.popular import save_popular
from model.recommender import Popular
from training.data.prepared import Prepared

CLI = [sys.executable, "-m", "contrec.cli"]
HEAVY = {"torch", "transformers", "polars", "scipy", "faiss", "fastapi", "pydantic", "redis", "numpy", "rich"}


def contrec(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CONTREC_")}
    return subprocess.run(
        [*CLI, *map(str, arguments)], capture_output=True, text=True, check=False, env=kept | environment, timeout=60
    )


def refused(*arguments: str | Path, **environment: str) -> str:
    """The one sentence with which a command refuses."""
    done = contrec(*arguments, **environment)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("contrec: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """Two versions of the bundle `toy`; the second is active."""
    root = tmp_path / "bundles"
    catalogue = Catalogue(Item(f"id{n}", title=f"Title {n}", categories=("a", "b")) for n in range(4))
    for counts in ([1, 2, 3, 4], [4, 3, 2, 1]):
        recommender = Popular(catalogue, np.array(counts))
        path = write_bundle(
            root,
            "toy",
            kind="popular",
            recipe="popular",
            config={},
            data_fingerprint="",
            metrics={"test": {"ndcg@10": 0.5}},
            fill=lambda folder, recommender=recommender: save_popular(recommender, folder),  # type: ignore[misc]
        )
        activate(root, "toy", path.name)
    return root


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['contrec', '--help']\n"
        "import contrec.cli\n"
        "try: contrec.cli.main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken.append(time.perf_counter() - start)
        assert done.stderr.strip() == "[]"
        assert "recommend" in done.stdout
    # 0.3 s is the aim and 0.1 s what is measured; the slack is for machines that do much else at the same time.
    assert min(taken) < 0.6


@pytest.mark.parametrize(
    "command",
    [
        ["data", "prepare"], ["data", "validate"], ["train"], ["evaluate"], ["recommend"], ["serve"], ["demo"],
        ["events", "import"], ["events", "export"],
        ["bundles", "list"], ["bundles", "verify"], ["bundles", "activate"], ["bundles", "rollback"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(command: list[str]) -> None:
    done = contrec(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")


def test_bundles_are_listed_verified_activated_and_rolled_back(bundles: Path) -> None:
    listed = contrec("bundles", "list", "toy", "--bundles", bundles).stdout.splitlines()
    assert len(listed) == 2
    assert all("popular" in line and "NDCG@10 0.5000" in line for line in listed)
    (active,) = [line.split()[1] for line in listed if line.startswith("*")]
    (other,) = [line.split()[0] for line in listed if not line.startswith("*")]
    done = contrec("bundles", "verify", bundles / "toy" / active)
    assert done.stdout == f"toy/{active} is whole: 2 files\n"
    assert contrec("bundles", "rollback", "toy", CONTREC_BUNDLES=str(bundles)).stdout == f"active: toy/{other}\n"
    done = contrec("bundles", "activate", "toy", active, "--bundles", bundles)
    assert done.stdout == f"active: toy/{active}\n"


def test_recommend_prints_a_list_or_json(bundles: Path) -> None:
    common = ("--name", "toy", "--bundles", bundles)
    done = contrec("recommend", "id0", "nobody", "-k", "2", *common)
    assert done.returncode == 0
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["id1", "id2"]
    assert "[a, b]" in done.stdout
    assert "ignored 1 of 2 ids" in done.stderr
    answer = json.loads(contrec("recommend", "--json", *common).stdout)
    assert [item["item_id"] for item in answer] == ["id0", "id1", "id2", "id3"]
    assert answer[0] == {"item_id": "id0", "title": "Title 0", "categories": ["a", "b"], "score": 4.0}


def test_a_mistake_is_one_sentence(bundles: Path, tmp_path: Path) -> None:
    assert "no bundle 'none'" in refused("bundles", "list", "none", "--bundles", bundles)
    assert "no name of a bundle" in refused("bundles", "list", "../x", "--bundles", bundles)
    assert "no version to roll back" in refused("bundles", "rollback", "none", "--bundles", bundles)
    assert "there is no bundle at" in refused("bundles", "verify", tmp_path / "nowhere")
    assert "no version of bundle 'none' is active" in refused("recommend", "--name", "none", "--bundles", bundles)
    assert "source must be one of" in refused("data", "prepare", "nothing")
    offline = {"CONTREC_MIRROR": "http://127.0.0.1:9", "CONTREC_CACHE": str(tmp_path / "cache")}
    done = contrec("data", "prepare", "ml-latest-small", "--out", tmp_path / "out", **offline)
    assert done.returncode == 2
    assert "127.0.0.1 cannot be reached" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert "does not exist" in refused("data", "validate", "table", tmp_path / "no.csv")
    assert "does not exist" in refused("events", "import", tmp_path / "no.csv", "--store", "sqlite://:memory:")
    assert "is no store" in refused("events", "export", tmp_path / "a.csv", "--store", "mysql://x")
    assert "must end in .jsonl" in refused("events", "export", tmp_path / "a.xls", "--store", "sqlite://:memory:")
    assert not list(tmp_path.glob("*.csv"))


def test_a_damaged_bundle_is_one_sentence(bundles: Path) -> None:
    version = json.loads((bundles / "toy" / "current").read_text())["version"]
    (bundles / "toy" / version / "items.safetensors").write_bytes(b"x")
    assert "items.safetensors" in refused("recommend", "--name", "toy", "--bundles", bundles)
    assert "items.safetensors" in refused("bundles", "verify", bundles / "toy" / version)


def test_debug_shows_the_traceback_of_a_mistake(bundles: Path) -> None:
    done = contrec("bundles", "list", "none", "--bundles", bundles, CONTREC_DEBUG="1")
    assert "Traceback" in done.stderr


def test_validate_writes_nothing_and_prepare_writes_what_it_said(tmp_path: Path) -> None:
    table = tmp_path / "clicks.csv"
    lines = [f"u{user},i{item},{1_600_000_000 + 60 * item}" for user in range(3) for item in range(4)]
    table.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    said = json.loads(contrec("data", "validate", "table", table).stdout)
    assert said["counts"]["events"] == 12
    assert list(tmp_path.iterdir()) == [table]
    done = contrec("data", "prepare", "table", table, "--out", tmp_path / "prepared")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "prepared" / "facts.json").read_text())


def test_the_command_line_and_the_service_agree_on_defaults() -> None:
    from contrec.cli import BUNDLES, NAME, STORE
    from service.settings import Settings

    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert (defaults["bundles"], defaults["bundle"], defaults["store"]) == (BUNDLES, NAME, STORE)


def test_train_and_evaluate_refuse_what_does_not_fit(bundles: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    assert contrec("data", "prepare", "synthetic", "--out", prepared).returncode == 0
    assert "nothing" in refused("train", prepared, "--recipe", "nothing", "--bundles", bundles)
    assert "gigantic" in refused("train", prepared, "--size", "gigantic", "--bundles", bundles)
    assert "trunk.depth" in refused("train", prepared, "--set", "trunk.depth=3", "--bundles", bundles)
    assert str(tmp_path / "no") in refused("train", tmp_path / "no", "--size", "tiny", "--bundles", bundles)
    common = ("--name", "toy", "--bundles", bundles)
    assert "another catalogue" in refused("evaluate", prepared, *common)
    assert "--part must be one of" in refused("evaluate", prepared, "--part", "train", *common)


def test_a_bundle_is_not_asked_about_what_it_may_have_learnt_from(tmp_path: Path) -> None:
    """The same catalogue cut in another way: most of one's test is the other's training."""
    for split in ("leave-one-out", "time"):
        done = contrec("data", "prepare", "synthetic", "--split", split, "--out", tmp_path / split)
        assert done.returncode == 0, done.stderr
    prepared = Prepared.read(tmp_path / "leave-one-out")
    recommender = Popular(prepared.catalogue, prepared.train_counts())
    path = write_bundle(
        tmp_path / "bundles",
        "toy",
        kind="popular",
        recipe="popular",
        config={},
        data_fingerprint=prepared.fingerprint,
        metrics={},
        fill=lambda folder: save_popular(recommender, folder),
    )
    common = ("--name", "toy", "--version", path.name, "--bundles", tmp_path / "bundles", "--no-baselines")
    assert f"toy/{path.name}" in contrec("evaluate", tmp_path / "leave-one-out", *common).stdout
    assert "may have learnt from what is asked" in refused("evaluate", tmp_path / "time", *common)
    page = ("--html", tmp_path / "x.html", "--other-data")
    assert "--other-data out" in refused("evaluate", tmp_path / "time", *page, *common)
    assert f"toy/{path.name}" in contrec("evaluate", tmp_path / "time", "--other-data", *common).stdout


def test_serve_refuses_a_setting_by_name(tmp_path: Path) -> None:
    assert "CONTREC_STORE" in refused("serve", "--store", "mysql://x")
    assert "CONTREC_MAX_BATCH" in refused("serve", CONTREC_MAX_BATCH="0")


def test_threads_of_training_spin_shortly_unless_told_otherwise() -> None:
    """What libgomp says of itself when torch loads it: with its own 300,000 turns busy cores trained far slower."""
    ask = "import sys\nfrom contrec.cli import main\nsys.argv[1:] = ['--help']\ntry: main()\nfinally: import torch"

    def said(**more: str) -> str:
        unset = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        environment = {key: value for key, value in os.environ.items() if key not in unset}
        environment |= {"OMP_DISPLAY_ENV": "verbose", **more}
        run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=environment, check=True)
        return run.stderr

    if "GOMP_SPINCOUNT" not in said():
        pytest.skip("this torch has an OpenMP that says nothing of itself")
    assert "GOMP_SPINCOUNT = '10000'" in said()
    assert "GOMP_SPINCOUNT = '7'" in said(GOMP_SPINCOUNT="7")
    assert "GOMP_SPINCOUNT = '0'" in said(OMP_WAIT_POLICY="passive")
