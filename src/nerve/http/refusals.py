"""Sends refusals at a bounded rate, so that they cost next to nothing however often they are asked for.

A client that repeats a refused request at once would take more of the cores than the model has. The answer to it is
kept back for a moment instead: it learns nothing new by asking sooner, and the model goes on at its full rate.
Refusals that come one by one are sent at once. Where connections run out, those who ask do not wait for their answers,
and to keep more would only take the rest: then each one that comes sends the oldest.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING

from nerve.observability.defects import survive

if TYPE_CHECKING:
    from collections.abc import Callable

# Refusals a second, and how many may be sent at once after a pause.
_RATE = 500.0
_BURST = 50.0
# Those that are kept back are sent so many at a time: a wake-up for each would cost as much as the rest of it.
_AT_ONCE = 5
_PAUSE_SECONDS = _AT_ONCE / _RATE


class Refusals:
    """Answers that say no; any thread may call `send`. room: tells how many may be kept at the moment."""

    def __init__(self, room: Callable[[], int] = lambda: sys.maxsize) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._kept: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._n_kept = 0
        self._allowance = _BURST
        self._seen = time.monotonic()
        self._is_closed = False
        threading.Thread(target=self._run, name="nerve-refusals", daemon=True).start()

    def send(self, respond: Callable[[], None]) -> None:
        """Call `respond`, now or when it is its turn."""
        with self._lock:
            self._refill()
            is_first = not self._n_kept and self._allowance >= 1
            if is_first or self._is_closed:
                self._allowance -= 1
            else:
                self._kept.put(respond)
                self._n_kept += 1
                if self._n_kept <= self._room():
                    return
                try:
                    respond = self._kept.get_nowait()
                except queue.Empty:  # the thread has just taken it
                    return
                self._n_kept -= 1
        respond()

    def close(self) -> None:
        """Send what is kept at once, from now on."""
        self._is_closed = True

    def _refill(self) -> None:
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._seen) * _RATE)
        self._seen = now

    def _run(self) -> None:
        while True:
            respond = self._kept.get()
            n_sent = 0
            if not self._is_closed:
                time.sleep(_PAUSE_SECONDS)
            while True:
                survive(respond, "in an answer that refuses")
                del respond  # what it holds is not kept until the next one comes
                n_sent += 1
                if n_sent >= _AT_ONCE:
                    break
                try:
                    respond = self._kept.get_nowait()
                except queue.Empty:
                    break
            with self._lock:
                self._n_kept -= n_sent
                self._refill()
                self._allowance = 0.0
