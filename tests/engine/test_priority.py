"""Priority of the threads that compute: `cpu.niceness`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import ServerProcess

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="niceness belongs to whole processes elsewhere"
)


def niceness_by_thread(server: ServerProcess) -> dict[int, int]:
    """Return how many threads of all processes of a server have each nice value."""
    own = Path(f"/proc/{server.process.pid}/task")
    children = " ".join((task / "children").read_text() for task in own.iterdir()).split()
    found: dict[int, int] = {}
    for pid in (server.process.pid, *children):
        for task in Path(f"/proc/{pid}/task").iterdir():
            value = os.getpriority(os.PRIO_PROCESS, int(task.name))
            found[value] = found.get(value, 0) + 1
    return found


@pytest.mark.parametrize(("niceness", "bulk"), [(10, 19), (0, 9), (15, 19)])
def test_threads_that_compute_give_way(serve: Callable[..., ServerProcess], niceness: int, bulk: int) -> None:
    """By as much as is configured, and those of large requests by 9 more; all others keep their priority."""
    server = serve(cpu={"niceness": niceness, "threads": 2})
    server.predict("Anna").raise_for_status()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    found = niceness_by_thread(server)
    computing = Counter(2 * [min(19, own + niceness)]) + Counter(2 * [min(19, own + bulk)])
    others = found.pop(own) - computing.pop(own, 0)
    assert found == computing
    assert others > 0
