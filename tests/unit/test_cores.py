from __future__ import annotations

import os
from pathlib import Path

import pytest

from nerve.cores import usable_cores

CORES = len(os.sched_getaffinity(0))


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
    """The cgroup's quota (v2, else v1) limits the cores of the affinity mask; never below one.

    Odd content limits nothing and ends nothing.
    """
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert usable_cores(tmp_path) == expected
