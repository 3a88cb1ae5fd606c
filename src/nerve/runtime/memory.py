"""Tells how much memory this process may use.

The machine's memory is wrong in a container: what goes beyond the limit of its cgroup is killed without a word. Read:
what /proc/meminfo says, the limits (v2 `memory.max` and `memory.high`, v1 `memory.limit_in_bytes`) of every cgroup that
this process is in (`cgroups`), and its resource limits on data and address space. A file that is absent or makes no
sense limits nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nerve.runtime.cgroups import PROCESS, cgroup_folders, read_text

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that this process may use in all, what it and others hold included, and those that nobody holds yet."""

    total: int
    free: int


def usable_memory(proc: Path = PROCESS, meminfo: Path = _MEMINFO) -> Memory | None:
    """Return the memory to plan for; None where nothing tells.

    proc: folder with this process's `cgroup`, `mountinfo` and `status`.
    """
    found = [*_of_machine(meminfo), *_of_cgroups(proc), *_of_process(proc)]
    if not found:
        return None
    return Memory(min(limit for limit, _ in found), max(0, min(limit - used for limit, used in found)))


def give_back_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library is glibc; it keeps much of it otherwise.

    Takes milliseconds. For the moment after something large was made and dropped.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _of_machine(meminfo: Path) -> Iterator[tuple[int, int]]:
    """Yield what there is and what is used, where the kernel tells."""
    sizes = _sizes(read_text(meminfo))
    total = sizes.get("MemTotal")
    if total:
        yield total, total - sizes.get("MemAvailable", total)


def _of_cgroups(proc: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit and the use of each cgroup; files that are only cached can be dropped, so they do not count."""
    for folder in cgroup_folders("memory", proc):
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        statistics = dict(
            line.split(" ", 1) for line in read_text(folder / "memory.stat").splitlines() if " " in line
        )
        idle = statistics.get("total_inactive_file") or statistics.get("inactive_file", "")
        used -= int(idle) if idle.isdecimal() else 0
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None:
                yield limit, max(0, used)


def _of_process(proc: Path) -> Iterator[tuple[int, int]]:
    """Yield the resource limits of this process, and what it has of each."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Unix only

    sizes = _sizes(read_text(proc / "status"))
    for kind, name in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit, sizes.get(name, 0)


def _sizes(text: str) -> dict[str, int]:
    """Return the bytes of every line `Name:  123 kB`."""
    lines = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if parts[1].isdecimal()}


def _number(path: Path) -> int | None:
    """Return the number that a file holds; None for "max", and for whatever else is none."""
    text = read_text(path)
    return int(text) if text.isdecimal() else None
