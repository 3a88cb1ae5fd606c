"""Keeps Granian's network threads from interrupting the thread that runs Python, where that one does all the work.

Linux lets a thread that wakes up interrupt one that runs. Each request that comes wakes a network thread, which takes
the core from the very thread that makes the answers, or from that of another worker, and gives it back some 10 us later
with cold caches. In the scheduling class for batch work (sched(7), "SCHED_BATCH") a thread waits until the one
that runs has nothing to do, or has had its slice of some ms. Meanwhile more requests come, which are then
taken together.

That is for models that are quicker than a hand-over, whose calls run on the thread that received the request. Where
other threads compute for long, a network thread that waited for them would keep requests from the cores that are free.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Predictions in a row that the server's own thread has answered, after which network threads step back.
_MANY_ANSWERS = 100


class NetworkThreads:
    """The network threads of one worker; any thread may call its methods, also before `start` has returned."""

    def __init__(self) -> None:
        self._thread_ids: set[int] = set()  # native ids; the thread that runs Python can be among them
        self._waiting: set[object] = set()
        self._n_answers = 0  # in a row, made on the server's own thread
        self._step_back = False
        self._lock = threading.Lock()

    def start(self, start: Callable[[], None]) -> None:
        """Call `start`, and take the threads that this process has more afterwards for network threads.

        Not where whoever started the server chose a scheduling class for it.
        """
        before = _thread_ids()
        start()
        if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
            self._thread_ids = _thread_ids() - before

    def begin_wait(self, request: object) -> None:
        """Take note that a request waits for other threads; until `end_wait` no thread steps back."""
        self._waiting.add(request)
        self.note_prediction(is_own=False)

    def end_wait(self, request: object) -> None:
        """Take note that a request is answered, whether it waited or not."""
        self._waiting.discard(request)

    def note_prediction(self, *, is_own: bool) -> None:
        """Take note of an answered prediction. is_own: on the server's own thread, which calls this."""
        if not is_own:
            self._n_answers = 0
            if self._step_back:
                self._set(step_back=False)
        elif not self._step_back and not self._waiting:
            self._n_answers += 1
            if self._n_answers >= _MANY_ANSWERS:
                self._set(step_back=True)

    def _set(self, *, step_back: bool) -> None:
        with self._lock:
            self._step_back = step_back
            if sys.platform != "linux":
                return
            policy = os.SCHED_BATCH if step_back else os.SCHED_OTHER
            self._thread_ids &= _thread_ids()  # the id of one that has ended may be another process's
            for thread_id in self._thread_ids - {threading.get_native_id()}:
                try:
                    os.sched_setscheduler(thread_id, policy, os.sched_param(0))
                except OSError as error:  # forbidden
                    log.info("thread %d keeps its scheduling class: %s", thread_id, error.strerror)
                    self._thread_ids.discard(thread_id)


def _thread_ids() -> set[int]:
    """Return the native ids of the threads of this process; none where they cannot be had."""
    try:
        ids = {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
    except OSError:  # not Linux, or without /proc
        return set()
    return ids if threading.get_native_id() in ids else set()  # /proc may be that of other processes
