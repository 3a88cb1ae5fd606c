"""Signals beside SIGTERM and SIGINT: none of them may end a server by accident.

SIGHUP, SIGUSR1 and SIGUSR2 are ignored, with a line in the log: tools that rotate logs send them to every server, and
a terminal that closes sends SIGHUP to all processes in it, workers included. A changed configuration takes a restart.
SIGQUIT ends a process as SIGTERM does, without the core dump.

A process begins with the actions of the one that started it blocked, where that one says so (`held_back`): what
comes before the process can act waits until it calls `handle_signals`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

log = logging.getLogger(__name__)

# By name: Windows has none of them.
IGNORED = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
QUIT = [getattr(signal, name) for name in ("SIGQUIT",) if hasattr(signal, name)]


def note(number: int, _frame: FrameType | None = None) -> None:
    """Say that a signal is ignored; a signal handler."""
    name = signal.Signals(number).name
    log.warning("%s is ignored; restart the server to load a changed configuration or model", name)


def handle_signals() -> None:
    """Ignore what is to be ignored, take SIGQUIT as SIGTERM, and let in what was held back. For the main thread."""
    for number in IGNORED:
        signal.signal(number, note)
    for number in QUIT:
        signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if IGNORED:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*IGNORED, *QUIT})


@contextmanager
def held_back() -> Iterator[None]:
    """Hold these signals back in the block, and in the processes that it starts until they handle them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*IGNORED, *QUIT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
