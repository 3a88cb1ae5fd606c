"""Tells how many CPU cores this process may use.

The host's core count is wrong in a container: a quota of half a core on a 64-core host would start 64
threads that are throttled together. Read: CPU affinity, then the cgroup's CPU quota (v2 `cpu.max`,
v1 `cpu.cfs_quota_us`); the smaller wins. The quota is that of the root of the cgroup file system, which in
a container is the container's own. A file that is absent or makes no sense limits nothing.
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores to plan for, at least 1; a fractional quota is rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup_root) or _quota_v1(cgroup_root)
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _quota_v2(root: Path) -> float | None:
    quota, _, period = _read(root / "cpu.max").partition(" ")
    return _cores(quota, period)


def _quota_v1(root: Path) -> float | None:
    return _cores(_read(root / "cpu/cpu.cfs_quota_us"), _read(root / "cpu/cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> float | None:
    """Return quota / period; None for "max", -1 and whatever else is no limit."""
    try:
        granted, of = int(quota), int(period)
    except ValueError:
        return None
    return granted / of if granted > 0 and of > 0 else None


def _read(path: Path) -> str:
    """Return the text of a cgroup file, empty when it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
