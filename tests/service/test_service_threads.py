"""Threads from the cgroup's quota less one for the event loop, with a reason."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.threads import decide
from tests.service.toy import Circle, running


def version_2(folder: Path, text: str) -> Path:
    (folder / "cpu.max").write_text(text)
    return folder


def version_1(folder: Path, quota: int, period: int) -> Path:
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400000 100000", 3),
        ("200000 100000", 1),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("max 100000", 63),
        ("6400000 100000", 63),
        ("", 63),
    ],
)
def test_version_2_of_the_cgroup(tmp_path: Path, text: str, count: int) -> None:
    decision = decide(cpus=64, cgroup=version_2(tmp_path, text), environment={})
    assert decision.count == count
    assert decision.reason.startswith(f"{count} torch threads: ")
    assert ("quota is" in decision.reason) == (count < 63)


@pytest.mark.parametrize(
    ("member", "quotas", "count"),
    [
        ("0::/system.slice/contrec.service", {"system.slice/contrec.service": "300000 100000"}, 2),
        ("0::/a/b", {"a/b": "max 100000", "a": "400000 100000"}, 3),
        ("0::/a/b", {"a/b": "500000 100000", "a": "300000 100000"}, 2),
        ("0::/a/b", {"a/b": "300000 100000", "a": "500000 100000", "": "600000 100000"}, 2),
        ("4:memory:/z\n0::/a", {"a": "400000 100000", "z": "200000 100000"}, 3),
        ("0::/", {"": "400000 100000", "a": "200000 100000"}, 3),
        ("0::/docker/not-mounted-here", {"": "400000 100000"}, 3),
        ("0::/../beside", {"": "400000 100000"}, 3),
        ("", {"": "400000 100000"}, 3),
        ("0::/a", {"a": "max 100000"}, 63),
    ],
)
def test_the_smallest_quota_from_our_cgroup_upwards_counts(
    tmp_path: Path, member: str, quotas: dict[str, str], count: int
) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text(f"{member}\n")
    for name, text in {**quotas, "../beside": "200000 100000"}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        version_2(root / name, text)
    assert decide(cpus=64, cgroup=root, membership=membership, environment={}).count == count


def test_without_a_membership_the_root_counts(tmp_path: Path) -> None:
    decision = decide(
        cpus=64, cgroup=version_2(tmp_path, "400000 100000"), membership=tmp_path / "none", environment={}
    )
    assert decision.count == 3


@pytest.mark.parametrize(("quota", "count"), [(300_000, 2), (-1, 7), (0, 7)])
def test_version_1_of_the_cgroup(tmp_path: Path, quota: int, count: int) -> None:
    assert decide(cpus=8, cgroup=version_1(tmp_path, quota, 100_000), environment={}).count == count


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert decide(cpus=4, cgroup=tmp_path, environment={}).count == 3


def test_what_is_asked_for_wins(tmp_path: Path) -> None:
    decision = decide(3, cpus=64, cgroup=version_2(tmp_path, "200000 100000"), environment={})
    assert decision.count == 3
    assert "CONTREC_THREADS" in decision.reason


def test_an_environment_that_works_against_it_is_a_warning(tmp_path: Path) -> None:
    environment = {"OMP_NUM_THREADS": "16", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "x"}
    (warning,) = decide(cpus=2, cgroup=tmp_path, environment=environment).warnings
    assert "OMP_NUM_THREADS=16" in warning


def test_this_machine_gets_a_number() -> None:
    assert decide().count >= 1


async def test_the_service_logs_its_number_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="service.core"):
        async with running(threads=3):
            assert "3 torch threads: CONTREC_THREADS says so" in caplog.messages
        async with running():
            assert decide().reason in caplog.messages


async def test_the_number_holds_on_the_thread_that_computes() -> None:
    """FAISS, or rather its OpenMP, keeps one for each thread: where it was set is where it counts."""
    import faiss
    import torch

    async with running(Circle(), threads=1) as run:
        told = await run.service.batcher.on_thread(lambda: (torch.get_num_threads(), faiss.omp_get_max_threads()))
        assert told == (1, 1)
