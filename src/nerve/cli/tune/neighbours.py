"""How many cores other programs use while something is measured, from the kernel's counters in /proc/stat.

All that the processors did, less what this process and the servers that it started did. The counters are those of
the whole machine: in a container, too, whatever else runs there takes time from what is measured.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_STAT = Path("/proc/stat")
# Columns of /proc/stat that are no work: idle and iowait; the last two are counted in user and nice already.
_IDLE = (3, 4)
_COLUMNS = 8
# Share of the cores that may be missing before a measurement counts as disturbed.
_SPARE = 0.05


class Neighbours:
    """Begin before a measurement; ask after the server that was measured has ended, whose time then is known."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._begun = time.monotonic()
        self._busy, self._own = _busy_seconds(stat), _own_seconds()

    def cores(self) -> float:
        """Return the cores that others used on average since the beginning; 0 where nothing tells."""
        seconds = time.monotonic() - self._begun
        busy, own = _busy_seconds(self._stat), _own_seconds()
        if busy is None or self._busy is None or seconds <= 0:
            return 0.0
        return max(0.0, (busy - self._busy - (own - self._own)) / seconds)


def is_disturbed(others: float, cores: int, of_machine: int) -> bool:
    """Tell whether what others use leaves less than the cores that are measured.

    cores: those that servers may use. of_machine: all that there are.
    """
    return of_machine - others < cores * (1 - _SPARE)


def _busy_seconds(stat: Path) -> float | None:
    """Return the time that all processors have worked, or were taken away by a hypervisor; None if nobody tells."""
    try:
        first = stat.read_text(encoding="ascii").partition("\n")[0].split()
        ticks = [int(value) for value in first[1 : 1 + _COLUMNS]]
    except (OSError, ValueError):
        return None
    if first[:1] != ["cpu"] or len(ticks) <= max(_IDLE):
        return None
    return sum(value for column, value in enumerate(ticks) if column not in _IDLE) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the time of this process, and of those that it started and that have ended."""
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in every)
