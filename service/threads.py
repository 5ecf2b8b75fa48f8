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
    environment: Mapping[str, str] = os.environ,
) -> Threads:
    """requested: 0 to decide here. cpus: those this process may run on (default: ask the system).

    One CPU is left to the event loop, which else waits for the model and the model for it: the products of one request
    are small, and OpenMP threads that share a core spin. A quota that is no whole number is rounded down: a thread that
    is throttled makes the others wait for it.
    """
    allowed = len(os.sched_getaffinity(0)) if cpus is None else cpus
    quota = _quota(cgroup)
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


def _quota(cgroup: Path) -> float | None:
    """CPUs that the cgroup may use, or None without a limit. Reads version 2, then version 1."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return None if limit_us <= 0 or period_us <= 0 else limit_us / period_us
    except (OSError, ValueError):
        return None
