"""Keeps cores from sleeping deeply while requests come, by a limit of the kernel's on how long one may take to wake.

A core without work sleeps, in a virtual machine by an exit to the host, and takes 25 to 60 us here to go on. A request
wakes a thread five times, so where requests come one at a time much of what is not the model is the waking.
The limit is Linux's "PM Quality of Service": in force for the whole machine, for as long as the file is open
(https://docs.kernel.org/power/pm_qos_interface.html).
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

from nerve.errors import StartupError

log = logging.getLogger(__name__)

DEVICE = Path("/dev/cpu_dma_latency")


class WakeupLimit:
    """The limit of one process, asked for between `hold` and `release`; one thread calls these.

    microseconds: that a core may take; with 0 it does not sleep, but waits in a loop.
    """

    def __init__(self, microseconds: int, device: Path = DEVICE) -> None:
        self._microseconds = microseconds
        self._device = device
        self._file: int | None = None
        self._is_refused = False

    def check(self) -> None:
        """Raise `StartupError` where the limit cannot be had."""
        try:
            os.close(self._open())
        except OSError as error:
            raise StartupError(
                f"cpu.wakeup_latency_us needs {self._device}, which cannot be written: {error.strerror}; let this user "
                'write it (docs/operations.md, "Sleeping cores"), or remove the key'
            ) from error

    def hold(self) -> None:
        """Ask for the limit. Where that fails it is logged, once, and requests are answered all the same."""
        if self._file is not None or self._is_refused:
            return
        try:
            self._file = self._open()
        except OSError as error:
            self._is_refused = True
            log.warning("cpu.wakeup_latency_us has no effect: %s: %s", self._device, error.strerror)

    def release(self) -> None:
        """Let cores sleep as they would."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        file = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, struct.pack("=i", self._microseconds))
        except OSError:
            os.close(file)
            raise
        return file
