from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nerve.runtime.cores import usable_cores, why_busy

CORES = len(os.sched_getaffinity(0))


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write files with their folders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def mount(point: Path, root: str = "/", *, v1: bool = False) -> str:
    """Return the line of mountinfo for a cgroup file system."""
    escaped = str(point).replace(" ", r"\040")
    kind = "cgroup cgroup rw,cpu,cpuacct" if v1 else "cgroup2 cgroup2 rw,nsdelegate"
    return f"33 24 0:28 {root} {escaped} rw,nosuid shared:9 - {kind}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(2, CORES)),  # rounded up
        ({"cpu.max": "6400000 100000\n"}, CORES),  # affinity is the smaller
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, CORES),
        ({"cpu.max": ""}, CORES),
        ({"cpu.max": "50000\n"}, CORES),
        ({"cpu.max": "50000 0\n"}, CORES),
        ({"cpu.max": "lots 100000\n"}, CORES),
        ({"cpu.max": "50000 é\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "", "cpu/cpu.cfs_period_us": ""}, CORES),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "0\n"}, CORES),
    ],
)
def test_cores_are_the_smaller_of_affinity_and_quota(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    """In a container the mount's own group (v2, else v1) limits the cores of the affinity mask; never below one.

    Odd content limits nothing and ends nothing.
    """
    write_files(tmp_path, {**files, "proc/cgroup": "4:cpu,cpuacct:/\n0::/\n"})
    write_files(tmp_path, {"proc/mountinfo": mount(tmp_path) + mount(tmp_path / "cpu", v1=True)})
    assert usable_cores(tmp_path / "proc") == expected


@pytest.mark.parametrize("v1", [False, True], ids=["v2", "v1"])
@pytest.mark.parametrize(
    "where", ["", "system.slice", "system.slice/a b.service", "system.slice/a b.service/in"]
)
@pytest.mark.skipif(CORES < 2, reason="one core cannot be limited further")
def test_a_nested_groups_quota_counts(tmp_path: Path, where: str, v1: bool) -> None:
    """Outside a container the quota is in the process's own group or in any above it, not only at the top."""
    top = tmp_path / "sys fs"  # a blank is escaped in mountinfo, and is not in cgroup
    path = "/system.slice/a b.service/in"
    cgroup = f"4:cpu,cpuacct:{path}\n1:name=systemd:/else\n" if v1 else f"0::{path}\n"
    write_files(tmp_path, {"proc/cgroup": cgroup, "proc/mountinfo": mount(top, v1=v1)})
    assert usable_cores(tmp_path / "proc") == CORES
    ample = (
        {"cpu.cfs_quota_us": "6400000", "cpu.cfs_period_us": "100000"} if v1 else {"cpu.max": "max 100000"}
    )
    scarce = (
        {"cpu.cfs_quota_us": "90000", "cpu.cfs_period_us": "100000"} if v1 else {"cpu.max": "90000 100000"}
    )
    write_files(top / "system.slice", ample)
    write_files(top / path[1:], ample)
    assert usable_cores(tmp_path / "proc") == CORES
    write_files(top / "other.slice", scarce)
    assert usable_cores(tmp_path / "proc") == CORES
    write_files(top / where, scarce)
    assert usable_cores(tmp_path / "proc") == 1


@pytest.mark.parametrize(
    ("root", "path", "limited"),
    [
        ("/docker/abc", "/docker/abc", "."),  # Docker on v1: the host's path, the container's mount
        ("/docker/abc", "/docker/abc/nested", "nested"),
        ("/docker/abc", "/docker/abc/nested", "."),
        ("/docker/abc", "/", "."),  # not inside the mount: its top is all that is known
        ("/../..", "/", "."),
        ("/", "/../other", "."),
    ],
)
@pytest.mark.skipif(CORES < 2, reason="one core cannot be limited further")
def test_a_mount_may_show_a_part_only(tmp_path: Path, root: str, path: str, limited: str) -> None:
    """Paths are those of the cgroup namespace; the mount's root says which of them is its top."""
    write_files(tmp_path / "top", {f"{limited}/cpu.max": "50000 100000"})
    write_files(tmp_path / "proc", {"cgroup": f"0::{path}\n", "mountinfo": mount(tmp_path / "top", root)})
    assert usable_cores(tmp_path / "proc") == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cgroup": "0::/\n"},
        {"mountinfo": "nonsense\n\n1 2 3 - cgroup2\n", "cgroup": "nonsense\n::\n"},
        {"mountinfo": "29 1 8:1 / / rw - ext4 /dev/vda rw\n", "cgroup": "0::/\n"},
    ],
)
def test_without_cgroups_affinity_decides(tmp_path: Path, files: dict[str, str]) -> None:
    """A kernel without cgroups, or files that make no sense, limit nothing."""
    write_files(tmp_path, files)
    assert usable_cores(tmp_path) == CORES


@pytest.mark.parametrize(("given", "expected"), [(None, 1), ("2", 2)], ids=["quota", "told otherwise"])
@pytest.mark.skipif(CORES < 2, reason="numpy starts no threads on one core")
def test_numpy_starts_no_more_threads_than_cores(tmp_path: Path, given: str | None, expected: int) -> None:
    """A quota of half a core leaves numpy one thread; who names a number gets it."""
    write_files(tmp_path, {"cpu.max": "50000 100000", "proc/cgroup": "0::/\n"})
    write_files(tmp_path, {"proc/mountinfo": mount(tmp_path)})
    script = (
        "import os, sys, pathlib; from nerve.runtime.cores import limit_blas_threads; "
        "limit_blas_threads(pathlib.Path(sys.argv[1])); import numpy; print(len(os.listdir('/proc/self/task')))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "proc"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected


def test_a_busy_machine_is_told_by_its_own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is of the machine: what fills the two cores of a container does not fill those of its host."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (7.9, 20.0, 20.0))
    assert why_busy() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (9.25, 0.0, 0.0))
    assert why_busy() == "the machine is busy: 9.2 processes want its 8 cores, so requests take longer"
