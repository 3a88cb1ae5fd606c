"""The predictions under way: ends them at their deadline, and notices clients that leave.

One thread looks at them every 10 ms, and sleeps while there are none. Any thread adds and removes.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from nerve.observability.defects import log_defect, survive

# Seconds between two looks at the exchanges under way: how late a deadline may be noticed.
_TICK_SECONDS = 0.01
# Seconds without any exchange after which the thread sleeps until the next one.
_IDLE_SECONDS = 1.0
_NAME = "the watch over requests"


class Pending(Protocol):
    """A prediction under way."""

    def look(self, now: float) -> None:
        """End it if its deadline (`time.monotonic()`) has passed."""


class InFlight:
    """The exchanges that wait for their answer. Whoever removes one answers it."""

    def __init__(self) -> None:
        self._open: dict[Pending, bool] = {}  # a dict, because its `pop` is atomic
        self._is_awake = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="nerve-watch", daemon=True).start()

    def add(self, exchange: Pending) -> None:
        """Look at an exchange until it is removed."""
        self._open[exchange] = True
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

    def _look(self, now: float) -> None:
        """Look at all; apart from `_run`, which would hold the last one for as long as it sleeps."""
        for exchange in list(self._open):
            try:
                exchange.look(now)
            except BaseException as error:  # noqa: BLE001 - the others have deadlines, too
                log_defect(error, _NAME)

    def _run(self) -> None:
        while True:
            if not survive(self._watch, _NAME):
                time.sleep(_TICK_SECONDS)

    def _watch(self) -> None:
        """Sleep until there is an exchange, and look until there is none."""
        if not self._is_awake:  # else it was interrupted
            self._wake.wait()
            self._wake.clear()
            self._is_awake = True
        self._look_until_idle()

    def _look_until_idle(self) -> None:
        seen = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if self._open:
                seen = now
                self._look(now)
            elif now - seen > _IDLE_SECONDS:
                self._is_awake = False
                if not self._open:  # else it came between
                    return
                self._is_awake = True
