"""Keeps Granian's network threads from interrupting the thread that runs Python, where that one does all the work.

Linux lets a thread that wakes up interrupt one that runs. Each request that comes wakes a network thread, which takes
the core from the very thread that makes the answers, or from that of another worker, and gives it back some 10 us later
with cold caches. In the scheduling class for batch work (sched(7), "SCHED_BATCH") a thread waits until the one
that runs has nothing to do, or has had its slice of some ms. Meanwhile more requests come, which are then
taken together.

That is for models that are quicker than a hand-over, whose calls run on the thread that received the request. Where
engine threads compute, a network thread that waited for them would keep requests from the cores that are free.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Answers in a row made on the server's own thread, after which network threads step back.
_MANY_ANSWERS = 100


class NetworkThreads:
    """The network threads of one worker; any thread may call `note_answer`."""

    def __init__(self) -> None:
        self._thread_ids: set[int] = set()  # native ids; the thread that runs Python can be among them
        self._n_answers = 0  # in a row, made on the server's own thread
        self._step_back = False
        self._lock = threading.Lock()

    def start(self, start: Callable[[], None]) -> None:
        """Call `start`, and take the threads that this process has more afterwards for network threads."""
        before = _thread_ids()
        start()
        self._thread_ids = _thread_ids() - before

    def note_answer(self, *, is_own: bool) -> None:
        """Take note of an answer. is_own: it was made on the server's thread, which calls this."""
        if not is_own:
            self._n_answers = 0
            if self._step_back:
                self._set(step_back=False)
        elif not self._step_back:
            self._n_answers += 1
            if self._n_answers >= _MANY_ANSWERS:
                self._set(step_back=True)

    def _set(self, *, step_back: bool) -> None:
        with self._lock:
            self._step_back = step_back
            if sys.platform != "linux":
                return
            policy = os.SCHED_BATCH if step_back else os.SCHED_OTHER
            for thread_id in self._thread_ids - {threading.get_native_id()}:
                try:
                    os.sched_setscheduler(thread_id, policy, os.sched_param(0))
                except OSError as error:  # forbidden, or the thread has ended
                    log.info("thread %d keeps its scheduling class: %s", thread_id, error.strerror)
                    self._thread_ids.discard(thread_id)


def _thread_ids() -> set[int]:
    """Return the native ids of the threads of this process; none where they cannot be had."""
    if sys.platform != "linux":
        return set()
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
