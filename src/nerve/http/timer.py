"""Calls what it is given when its time has come: one thread for all, where each of Python's timers has its own."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING

from nerve.observability.defects import survive

if TYPE_CHECKING:
    from collections.abc import Callable


# The thread wakes no more often: thousands of calls a second would have it fight for the interpreter lock.
_TICK_SECONDS = 0.01


class Timer:
    """Any thread may call its methods; the thread starts with the first call, or with `start`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._due: list[tuple[float, int, Callable[[], object]]] = []  # a heap
        self._numbers = itertools.count()  # tell equal times apart
        self._changed = threading.Condition()
        self._is_started = False

    def start(self) -> None:
        """Start the thread. Raises `RuntimeError` when none can be made."""
        with self._changed:
            if not self._is_started:
                threading.Thread(target=self._run, name=self.name, daemon=True).start()
                self._is_started = True

    def call_after(self, seconds: float, call: Callable[[], object]) -> None:
        """Have `call` called on the thread in so many seconds."""
        self.start()
        with self._changed:
            entry = (time.monotonic() + seconds, next(self._numbers), call)
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            survive(self._call_next, f"on {self.name}")

    def _call_next(self) -> None:
        """Wait for the next one and call it; what it holds is not kept until the one after it comes."""
        with self._changed:
            while not self._due or (left := self._due[0][0] - time.monotonic()) > 0:
                self._changed.wait(max(left, _TICK_SECONDS) if self._due else None)
            call = heapq.heappop(self._due)[2]
        call()
