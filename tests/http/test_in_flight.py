"""Who looks at the predictions under way, and who answers them."""

from __future__ import annotations

import threading
import time

from nerve.http.in_flight import InFlight

PATIENCE = 20.0  # seconds after which a test gives up


class Waiting:
    """A prediction that waits; it can be told to end itself when it is looked at."""

    def __init__(self, in_flight: InFlight, ends: bool = False) -> None:
        self._in_flight = in_flight
        self._ends = ends
        self.looks: list[float] = []
        self.was_seen = threading.Event()

    def look(self, now: float) -> None:
        """Take note, and end."""
        self.looks.append(now)
        if self._ends:
            self._in_flight.remove(self)
        self.was_seen.set()


def test_first_who_removes_it_must_answer() -> None:
    """Everybody else is told that somebody has."""
    in_flight = InFlight()
    one = Waiting(in_flight)
    assert not in_flight.remove(one)
    in_flight.add(one)
    assert one in in_flight
    assert [in_flight.remove(one) for _ in range(3)] == [True, False, False]
    assert one not in in_flight
    assert len(in_flight) == 0


def test_all_are_looked_at_until_they_end() -> None:
    """With the time at which that happens; a look may end the prediction."""
    in_flight = InFlight()
    ending, staying = Waiting(in_flight, ends=True), Waiting(in_flight)
    started = time.monotonic()
    in_flight.add(ending)
    in_flight.add(staying)
    assert ending.was_seen.wait(PATIENCE)
    assert staying.was_seen.wait(PATIENCE)
    staying.was_seen.clear()
    assert staying.was_seen.wait(PATIENCE)
    assert len(ending.looks) == 1
    assert len(in_flight) == 1
    assert started <= staying.looks[0] < staying.looks[1] <= time.monotonic()
    assert in_flight.remove(staying)


def test_it_sleeps_while_there_are_none_and_wakes() -> None:
    """After a second without any; the next one is looked at as before, the last one no more."""
    in_flight = InFlight()
    first, second = (Waiting(in_flight, ends=True) for _ in range(2))
    in_flight.add(first)
    assert first.was_seen.wait(PATIENCE)
    until = time.monotonic() + PATIENCE
    while in_flight._is_awake:
        assert time.monotonic() < until
        time.sleep(0.02)
    in_flight.add(second)
    assert second.was_seen.wait(PATIENCE)
    assert len(first.looks) == 1
