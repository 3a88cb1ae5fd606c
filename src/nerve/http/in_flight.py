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
from typing import Any, Protocol

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


# Deadline, number, and the exchange until it is removed: a list, because the last changes.
_Entry = list[Any]


class InFlight:
    """The exchanges that wait for their answer. Whoever removes one answers it."""

    def __init__(self) -> None:
        self._open: dict[Pending, _Entry] = {}  # a dict, because its `pop` is atomic
        self._new: deque[_Entry] = deque()  # not sorted in yet; most are answered before the next tick
        self._deadlines: list[_Entry] = []  # a heap
        self._unwatched: deque[tuple[float, _Entry]] = deque()  # with the moment from which on to watch
        self._numbers = itertools.count()  # tell equal deadlines apart
        self._is_awake = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="nerve-watch", daemon=True).start()

    def add(self, exchange: Pending) -> None:
        """Look after an exchange until it is removed."""
        entry: _Entry = [exchange.deadline, next(self._numbers), exchange]
        self._open[exchange] = entry
        self._new.append(entry)
        if not self._is_awake:
            self._wake.set()

    def remove(self, exchange: Pending) -> bool:
        """Remove an exchange; True for the first caller, who must answer."""
        entry = self._open.pop(exchange, None)
        if entry is None:
            return False
        entry[2] = None  # the entry may stay until its deadline; what the exchange holds must not
        return True

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
            entry = self._new.popleft()
            if entry[2] is not None:
                heapq.heappush(self._deadlines, entry)
                self._unwatched.append((now + _WATCH_AFTER_SECONDS, entry))
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = heapq.heappop(self._deadlines)
            exchange = entry[2]
            if exchange is not None and not survive(exchange.expire, _NAME) and entry[2] is not None:
                entry[0] = now + _AGAIN_SECONDS
                heapq.heappush(self._deadlines, entry)
        for _ in range(len(self._unwatched)):
            if self._unwatched[0][0] > now:
                break
            entry = self._unwatched.popleft()[1]
            exchange = entry[2]
            if exchange is not None and not _watches(exchange):
                self._unwatched.append((now + _WATCH_AFTER_SECONDS, entry))
        if len(self._deadlines) > 2 * len(self._open) + _MOST_STALE:
            self._deadlines = [entry for entry in self._deadlines if entry[2] is not None]
            heapq.heapify(self._deadlines)

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


def _watches(exchange: Pending) -> bool:
    """Watch the client of an exchange; False while it is too early for that."""
    try:
        return exchange.watch_client()
    except BaseException as error:  # noqa: BLE001 - the others have deadlines, too
        log_defect(error, _NAME)
        return True
