"""Finds the cgroups that limit this process, and reads the files of the kernel.

They are the process's own group and every one above it that can be seen. In a container the topmost is the container's
own; outside of one, such as under systemd's limits, the limit is in a nested group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")


def cgroup_folders(controller: str, proc: Path = PROCESS) -> Iterator[Path]:
    """Give the folders of the cgroups in which `controller` may limit this process: its own and those above it.

    proc: folder with this process's `cgroup` and `mountinfo`.
    """
    paths = dict(_cgroup_paths(proc))
    for line in read_text(proc / "mountinfo").splitlines():
        # ID PARENT DEVICE ROOT POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        if tail[0] == "cgroup2":
            path = paths.get("")
        elif tail[0] == "cgroup" and controller in tail[2].split(","):
            path = paths.get(controller)
        else:
            continue
        root, point = _unescape(fields[3]), Path(_unescape(fields[4]))
        below = _below(root, path)
        yield from (point / part for part in (below, *below.parents))


def _cgroup_paths(proc: Path) -> Iterator[tuple[str, str]]:
    """Give this process's path in each hierarchy, by controller; by "" in that of version 2."""
    for line in read_text(proc / "cgroup").splitlines():
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


def _unescape(field: str) -> str:
    r"""Return a path of mountinfo, in which a blank is written \040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def read_text(path: Path) -> str:
    """Return the text of a file of the kernel, empty when it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
