"""Tells how many CPU cores this process may use.

The host's core count is wrong in a container: a quota of half a core on a 64-core host would start 64
threads that are throttled together. Read: CPU affinity, then the cgroup's CPU quota (v2 `cpu.max`,
v1 `cpu.cfs_quota_us`); the smaller wins.
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
    text = _read(root / "cpu.max")
    if text is None or text.startswith("max"):
        return None
    quota, period = text.split()
    return int(quota) / int(period)


def _quota_v1(root: Path) -> float | None:
    quota, period = _read(root / "cpu/cpu.cfs_quota_us"), _read(root / "cpu/cpu.cfs_period_us")
    if quota is None or period is None or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
