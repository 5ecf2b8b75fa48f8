"""How many threads torch and FAISS may use: decided once, from the CPU quota of the cgroup, with a reason to log.

In a container the libraries see every core of the node, start a thread for each and crawl. Knows no model.

    decision = decide(settings.threads)
    log.info(decision.reason)
    apply(decision.count)        # on the thread that will compute
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Threads:
    """count: for torch. reason: why. warnings: what in the environment works against it."""

    count: int
    reason: str
    warnings: tuple[str, ...] = ()


def decide(
    requested: int = 0,
    *,
    cpus: int | None = None,
    cgroup: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    environment: Mapping[str, str] = os.environ,
) -> Threads:
    """requested: 0 to decide here. cpus: those this process may run on (default: ask the system).
    cgroup: where cgroups are mounted. membership: says which of them is this process'.

    One CPU is left to the event loop, which else waits for the model and the model for it: the products of one request
    are small, and OpenMP threads that share a core spin. A quota that is no whole number is rounded down: a thread that
    is throttled makes the others wait for it.
    """
    allowed = len(os.sched_getaffinity(0)) if cpus is None else cpus
    quota = _quota(cgroup, membership)
    if requested:
        count, reason = requested, f"{requested} torch threads: CONTREC_THREADS says so"
    elif quota is not None and quota < allowed:
        count = max(1, int(quota) - 1)
        reason = f"{count} torch threads: the cgroup's quota is {quota:g} CPUs of {allowed}, one for the event loop"
    else:
        count = max(1, allowed - 1)
        reason = f"{count} torch threads: this process may run on {allowed} CPUs, one for the event loop"
    warnings = tuple(
        f"{name}={environment[name]} disagrees with the {count} threads decided on; it rules what torch does not"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        if environment.get(name, "").isdigit() and int(environment[name]) > count
    )
    return Threads(count, reason, warnings)


def apply(count: int) -> None:
    """Sets torch to `count` and FAISS to one thread (queries are small; a second thread only adds waiting)."""
    import faiss
    import torch

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(1)


def _quota(cgroup: Path, membership: Path) -> float | None:
    """CPUs that the cgroup may use, or None without a limit. Reads version 2, then version 1.

    In version 2 the quota of every cgroup above holds as well: the smallest counts.
    """
    limits = [limit for folder in _lineage(cgroup, membership) if (limit := _quota_of(folder)) is not None]
    if limits:
        return min(limits)
    try:
        limit_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return None if limit_us <= 0 or period_us <= 0 else limit_us / period_us
    except (OSError, ValueError):
        return None


def _lineage(cgroup: Path, membership: Path) -> list[Path]:
    """The folder of this process' cgroup of version 2, and those above it up to the root of the mount.

    In a container the root alone is mounted mostly, and is this cgroup; one that systemd gave a quota lies below it.
    """
    try:
        lines = membership.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    # Dots lead out of the mount: the cgroup is not below what we see of it.
    own = cgroup if ".." in Path(path).parts else cgroup / path
    return [own, *(folder for folder in own.parents if folder.is_relative_to(cgroup))]


def _quota_of(folder: Path) -> float | None:
    """Of this folder alone; None without a limit, and where there is no such folder."""
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None
