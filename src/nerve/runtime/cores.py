"""Tells how many CPU cores this process may use.

The host's core count is wrong under a CPU quota: half a core on a 64-core host would start 64 threads that
are throttled together. Read: CPU affinity, then the quotas (v2 `cpu.max`, v1 `cpu.cfs_quota_us`) of this
process's cgroup and of every one above it that can be seen; the smallest wins. In a container the topmost is
the container's own; outside of one, such as under systemd's CPUQuota, the quota is in a nested group. A file
that is absent or makes no sense limits nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(proc: Path = Path("/proc/self")) -> int:
    """Return the number of cores to plan for, at least 1; a fractional quota is rounded up.

    proc: folder with this process's `cgroup` and `mountinfo`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroup_folders(proc) if (quota := _quota(folder))]
    return max(1, min(cores, math.ceil(min(quotas)))) if quotas else cores


def limit_blas_threads(proc: Path = Path("/proc/self")) -> None:
    """Keep numpy, not imported yet, to the usable cores, in this process and those it starts.

    Its OpenBLAS looks at the affinity only: with a quota of one core of two, building an int8 graph takes three
    times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(usable_cores(proc)))


def _cgroup_folders(proc: Path) -> Iterator[Path]:
    """Give the folders of the cgroups that may limit CPU time: this process's own and those above it."""
    paths = dict(_cgroup_paths(proc))
    for line in _read(proc / "mountinfo").splitlines():
        # ID PARENT DEVICE ROOT POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        if tail[0] == "cgroup2":
            path = paths.get("")
        elif tail[0] == "cgroup" and "cpu" in tail[2].split(","):
            path = paths.get("cpu")
        else:
            continue
        root, point = _unescape(fields[3]), Path(_unescape(fields[4]))
        below = _below(root, path)
        yield from (point / part for part in (below, *below.parents))


def _cgroup_paths(proc: Path) -> Iterator[tuple[str, str]]:
    """Give this process's path in each hierarchy, by controller; by "" in that of version 2."""
    for line in _read(proc / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, path


def _below(root: str, path: str | None) -> PurePosixPath:
    """Return where the cgroup `path` is in a mount that shows `root`; the top when it is not in there.

    A container that shares the host's cgroup namespace sees host paths, but only its own group as a mount.
    """
    try:
        below = PurePosixPath(path or "/").relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _quota(folder: Path) -> float | None:
    """Return the cores that one cgroup grants; None without a limit."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        granted, of = int(quota), int(period)
    except ValueError:  # "max", and whatever else is no limit
        return None
    return granted / of if granted > 0 and of > 0 else None


def _unescape(field: str) -> str:
    r"""Return a path of mountinfo, in which a blank is written \040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _read(path: Path) -> str:
    """Return the text of a file of the kernel, empty when it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
