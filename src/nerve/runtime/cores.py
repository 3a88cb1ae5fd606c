"""Tells how many CPU cores this process may use.

The host's core count is wrong under a CPU quota: half a core on a 64-core host would start 64 threads that
are throttled together. Read: CPU affinity, then the quotas (v2 `cpu.max`, v1 `cpu.cfs_quota_us`) of every cgroup that
this process is in (`cgroups`); the smallest wins. A file that is absent or makes no sense limits nothing.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from nerve.runtime.cgroups import PROCESS, cgroup_folders, read_text

if TYPE_CHECKING:
    from pathlib import Path


def usable_cores(proc: Path = PROCESS) -> int:
    """Return the number of cores to plan for, at least 1; a fractional quota is rounded up.

    proc: folder with this process's `cgroup` and `mountinfo`.
    """
    cores, quota = allowed_cores(), core_quota(proc)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def allowed_cores() -> int:
    """Return how many cores the CPU affinity leaves to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_quota(proc: Path = PROCESS) -> float | None:
    """Return the cores that the tightest cgroup grants, as 0.5; None where none limits."""
    return min((quota for folder in cgroup_folders("cpu", proc) if (quota := _quota(folder))), default=None)


def why_busy() -> str | None:
    """Return what says that programs want more than the machine's cores already; None where they do not.

    The load is of the whole machine, whatever a cgroup leaves to this process, and so are the cores beside it.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cores:
        return None
    return f"the machine is busy: {load:.1f} processes want its {cores} cores, so requests take longer"


def limit_blas_threads(proc: Path = PROCESS) -> None:
    """Keep numpy, not imported yet, to the usable cores, in this process and those it starts.

    Its OpenBLAS looks at the affinity only: with a quota of one core of two, building an int8 graph takes three
    times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(usable_cores(proc)))


def _quota(folder: Path) -> float | None:
    """Return the cores that one cgroup grants; None without a limit."""
    quota, _, period = read_text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    try:
        granted, of = int(quota), int(period)
    except ValueError:  # "max", and whatever else is no limit
        return None
    return granted / of if granted > 0 and of > 0 else None
