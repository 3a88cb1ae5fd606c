"""The predictions under way: ends them at their deadline, and notices clients that leave.

One thread looks every 10 ms at what is due, and sleeps while there is nothing. What it does in a tick does not grow
with the number of predictions that wait. Any thread adds and removes.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from typing import Protocol

from nerve.observability.defects import log_defect, survive

# Seconds between two looks: how late a deadline may be noticed.
_TICK_SECONDS = 0.01
# Seconds that a request waits before its connection is watched: asking costs about as much as answering.
_WATCH_AFTER_SECONDS = 0.02
# Seconds without any exchange after which the thread sleeps until the next one.
_IDLE_SECONDS = 1.0
# Entries of exchanges that were answered, which may lie in the heap beside as many that were not.
_MOST_STALE = 1_000
# Seconds after which an exchange that a defect kept from being ended is tried again.
_AGAIN_SECONDS = 1.0
_NAME = "while deadlines were looked at"


class Pending(Protocol):
    """A prediction under way. deadline: `time.monotonic()` at which it must be answered."""

    deadline: float

    @property
    def client_port(self) -> int:
        """Port that its client connects from."""

    def expire(self) -> None:
        """End it: its deadline has passed."""

    def watch_client(self) -> bool:
        """Ask to be called when its client leaves; False while it is too early for that."""


class InFlight:
    """The exchanges that wait for their answer. Whoever removes one answers it."""

    def __init__(self) -> None:
        self._open: dict[Pending, bool] = {}  # a dict, because its `pop` is atomic
        self._new: deque[Pending] = deque()  # not sorted in yet; most are answered before the next tick
        self._deadlines: list[tuple[float, int, Pending]] = []  # a heap
        self._unwatched: deque[tuple[float, Pending]] = deque()  # with the moment from which on to watch
        self._numbers = itertools.count()  # tell equal deadlines apart
        self._is_awake = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="nerve-watch", daemon=True).start()

    def add(self, exchange: Pending) -> None:
        """Look after an exchange until it is removed."""
        self._open[exchange] = True
        self._new.append(exchange)
        if not self._is_awake:
            self._wake.set()

    def remove(self, exchange: Pending) -> bool:
        """Remove an exchange; True for the first caller, who must answer."""
        return self._open.pop(exchange, False)

    def __len__(self) -> int:
        """Return how many exchanges wait for their answer."""
        return len(self._open)

    def __contains__(self, exchange: Pending) -> bool:
        """Tell whether an exchange still waits for its answer."""
        return exchange in self._open

    def client_ports(self) -> set[int]:
        """Return the ports of the clients that wait for an answer."""
        return {exchange.client_port for exchange in list(self._open)}

    def _tick(self, now: float) -> None:
        """Do what is due; apart from `_run`, which would hold the last exchange for as long as it sleeps."""
        while self._new:
            exchange = self._new[0]
            if exchange in self._open:
                self._expect(exchange, exchange.deadline)
                self._unwatched.append((now + _WATCH_AFTER_SECONDS, exchange))
            self._new.popleft()
        while self._deadlines and self._deadlines[0][0] <= now:
            exchange = heapq.heappop(self._deadlines)[2]
            if exchange in self._open and not survive(exchange.expire, _NAME):
                self._expect(exchange, now + _AGAIN_SECONDS)
        for _ in range(len(self._unwatched)):
            if self._unwatched[0][0] > now:
                break
            exchange = self._unwatched.popleft()[1]
            if exchange in self._open and not _watch(exchange):
                self._unwatched.append((now + _WATCH_AFTER_SECONDS, exchange))
        if (
            len(self._deadlines) > 2 * len(self._open) + _MOST_STALE
        ):  # what was answered is not held until its deadline
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self._open]
            heapq.heapify(self._deadlines)

    def _expect(self, exchange: Pending, deadline: float) -> None:
        heapq.heappush(self._deadlines, (deadline, next(self._numbers), exchange))

    def _run(self) -> None:
        while True:
            if not survive(self._look_until_idle, _NAME):
                time.sleep(_TICK_SECONDS)

    def _look_until_idle(self) -> None:
        """Wait for an exchange, and look until there is none."""
        if not self._is_awake:  # else a defect broke it off
            self._wake.wait()
            self._wake.clear()
            self._is_awake = True
        seen = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if self._open:
                seen = now
            self._tick(now)
            if not self._open and now - seen > _IDLE_SECONDS:
                self._is_awake = False
                if not self._open:  # else it came between
                    self._deadlines.clear()
                    return
                self._is_awake = True


def _watch(exchange: Pending) -> bool:
    """Ask an exchange to watch its client; False while it is too early for that."""
    try:
        return exchange.watch_client()
    except BaseException as error:  # noqa: BLE001 - it is not watched then, and meets its deadline
        log_defect(error, _NAME)
        return True
