"""The limit on how long a core may sleep is in force while requests come, and only then."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from builders import PATIENCE
from nerve.errors import StartupError
from nerve.exchange import Watch
from nerve.wakeup import WakeupLimit


def is_open(device: Path) -> bool:
    """Tell whether this process has the file open."""
    return any(
        os.path.realpath(f"/proc/self/fd/{number}") == str(device) for number in os.listdir("/proc/self/fd")
    )


def wait_for(device: Path, *, is_held: bool) -> None:
    """Wait until the file is open, or is not."""
    deadline = time.monotonic() + PATIENCE
    while is_open(device) is not is_held:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Stand in for the kernel's file; what is written to it has no effect."""
    file = tmp_path / "cpu_dma_latency"
    file.touch()
    return file


def test_held_until_released(device: Path) -> None:
    """The kernel takes 32 bits in the machine's order, and forgets them when the file is closed."""
    limit = WakeupLimit(7, device)
    limit.hold()
    limit.hold()
    assert is_open(device)
    assert struct.unpack("=i", device.read_bytes()) == (7,)
    limit.release()
    limit.release()
    assert not is_open(device)


def test_check_leaves_nothing_open(device: Path) -> None:
    """At the start it is only tried."""
    WakeupLimit(0, device).check()
    assert not is_open(device)


def test_check_says_what_to_do(tmp_path: Path) -> None:
    """Where it cannot be had, the start is refused."""
    with pytest.raises(StartupError, match=r"cpu\.wakeup_latency_us.*No such file.*operations\.md"):
        WakeupLimit(0, tmp_path / "none").check()


def test_refused_later_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests are answered all the same, and the log is not filled with it."""
    limit = WakeupLimit(0, tmp_path / "none")
    for _ in range(3):
        limit.hold()
        limit.release()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_write_that_fails_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    """/dev/full takes nothing."""
    device = Path("/dev/full")
    WakeupLimit(0, device).hold()
    assert "No space left" in caplog.text
    assert not is_open(device)


def test_held_while_exchanges_are_watched(device: Path) -> None:
    """From the first one on, and for a second after the last."""
    watch = Watch(WakeupLimit(0, device))
    assert not is_open(device)
    for _ in range(2):
        exchange = Resting()
        watch.add(exchange)  # type: ignore[arg-type]
        wait_for(device, is_held=True)
        time.sleep(1.2)
        assert is_open(device)
        watch.remove(exchange)  # type: ignore[arg-type]
        wait_for(device, is_held=False)


class Resting:
    """An exchange that nothing happens to."""

    def look(self, now: float) -> None:
        """See `Exchange.look`."""
