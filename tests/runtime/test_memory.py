"""The memory to plan for: the least of what the machine, its cgroups and the limits of the process leave."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nerve.runtime.memory import Memory, usable_memory

GB = 10**9
MEMINFO = "MemTotal:       64000000 kB\nMemFree:  1 kB\nMemAvailable:   50000000 kB\n"
MACHINE = Memory(64_000_000 * 1024, 50_000_000 * 1024)


def write(folder: Path, files: dict[str, str], mounts: str = "") -> Path:
    """Write files of the kernel; returns the folder of the process."""
    for name, content in {
        "meminfo": MEMINFO,
        "proc/cgroup": "4:memory:/pod/one\n0::/pod/one\n",
        "proc/mountinfo": mounts
        or f"33 24 0:28 / {folder / 'v2'} rw - cgroup2 cgroup2 rw\n"
        f"34 24 0:29 / {folder / 'v1'} rw - cgroup cgroup rw,memory\n",
        **files,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "proc"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({"v2/memory.max": "max\n"}, MACHINE),
        ({"v1/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ({"v2/pod/one/memory.max": f"{2 * GB}\n"}, Memory(2 * GB, 2 * GB)),
        ({"v2/pod/memory.max": f"{2 * GB}\n", "v2/pod/memory.current": f"{GB}\n"}, Memory(2 * GB, GB)),
        ({"v2/pod/one/memory.max": "max\n", "v2/memory.high": f"{GB}\n"}, Memory(GB, GB)),
        (
            {  # files that are only cached are given back when memory is short
                "v2/pod/one/memory.max": f"{2 * GB}\n",
                "v2/pod/one/memory.current": f"{2 * GB}\n",
                "v2/pod/one/memory.stat": f"anon 5\ninactive_file {GB}\nodd\n",
            },
            Memory(2 * GB, GB),
        ),
        (
            {
                "v1/pod/one/memory.limit_in_bytes": f"{2 * GB}\n",
                "v1/pod/one/memory.usage_in_bytes": f"{2 * GB}\n",
                "v1/pod/one/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}\n",
            },
            Memory(2 * GB, GB),
        ),
        ({"v2/memory.max": "lots\n", "v2/pod/memory.max": "-1\n", "v2/pod/one/memory.max": ""}, MACHINE),
        ({"v2/memory.max": f"{GB}\n", "v2/memory.current": f"{3 * GB}\n"}, Memory(GB, 0)),
        ({"meminfo": "MemTotal: many kB\n", "v2/memory.max": f"{GB}\n"}, Memory(GB, GB)),
    ],
)
def test_the_least_of_all_limits(tmp_path: Path, files: dict[str, str], expected: Memory) -> None:
    """Of this process's own group and all above it, in either version of cgroups; odd content limits nothing."""
    proc = write(tmp_path, files)
    assert usable_memory(proc, tmp_path / "meminfo") == expected


def test_nothing_known_limits_nothing(tmp_path: Path) -> None:
    """As on other systems than Linux."""
    assert usable_memory(tmp_path, tmp_path / "meminfo") is None


@pytest.mark.parametrize("kind", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_limits_of_the_process_count(kind: str) -> None:
    """What `ulimit -d` and `ulimit -v` allow, less what the process has."""
    limit = 3 * GB
    script = (
        f"import resource as r; r.setrlimit(r.{kind}, ({limit}, {limit})); "
        "from nerve.runtime.memory import usable_memory; m = usable_memory(); print(m.total, m.free)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    total, free = map(int, done.stdout.split())
    assert total == min(limit, usable_memory().total)  # type: ignore[union-attr]
    assert 0 < free < limit
    assert resource.getrlimit(getattr(resource, kind))[0] != limit  # of the other process only


def test_this_machine_has_memory() -> None:
    """The files of this kernel are read as they are."""
    found = usable_memory()
    assert found is not None
    assert 10**8 < found.free <= found.total
