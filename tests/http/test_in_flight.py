"""Who looks after the predictions under way, and who answers them."""

from __future__ import annotations

import threading
import time

import pytest

from nerve.http.in_flight import InFlight

PATIENCE = 20.0  # seconds after which a test gives up
SOON = 0.03


class Waiting:
    """A prediction that waits until its deadline, a moment from now."""

    def __init__(self, in_flight: InFlight, seconds: float = SOON) -> None:
        self._in_flight = in_flight
        self.deadline = time.monotonic() + seconds
        self.expired_at = 0.0
        self.has_expired = threading.Event()
        self.n_watched = 0
        self.early = 0  # times that it is too early to watch its client
        self.is_watched = threading.Event()
        self.defect: Exception | None = None

    def expire(self) -> None:
        """End, and take note."""
        self._in_flight.remove(self)
        self.expired_at = time.monotonic()
        self.has_expired.set()
        if self.defect is not None:
            raise self.defect

    def watch_client(self) -> bool:
        """Take note, unless it is too early."""
        self.n_watched += 1
        if self.n_watched <= self.early:
            return False
        self.is_watched.set()
        return True


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


def test_each_expires_at_its_own_deadline() -> None:
    """Whatever the order in which they came; one that was answered before does not."""
    in_flight = InFlight()
    late, early, answered = Waiting(in_flight, 0.3), Waiting(in_flight), Waiting(in_flight)
    for one in (late, early, answered):
        in_flight.add(one)
    in_flight.remove(answered)
    assert late.has_expired.wait(PATIENCE)
    assert early.deadline <= early.expired_at < late.deadline <= late.expired_at
    assert not answered.has_expired.is_set()
    assert len(in_flight) == 0


def test_its_client_is_watched_once_it_waits() -> None:
    """Again and again while it is too early, and not any more once it is."""
    in_flight = InFlight()
    one = Waiting(in_flight, seconds=PATIENCE)
    one.early = 2
    in_flight.add(one)
    assert one.is_watched.wait(PATIENCE)
    time.sleep(0.1)
    assert one.n_watched == 3
    assert in_flight.remove(one)


def test_a_defect_of_one_costs_no_other_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged without its message, which could quote a text."""
    in_flight = InFlight()
    broken, other = Waiting(in_flight), Waiting(in_flight)
    broken.defect = RuntimeError("secret text")
    in_flight.add(broken)
    in_flight.add(other)
    assert other.has_expired.wait(PATIENCE)
    assert "a defect while deadlines" in caplog.text
    assert "secret" not in caplog.text
    third = Waiting(in_flight)
    in_flight.add(third)
    assert third.has_expired.wait(PATIENCE)


def test_it_sleeps_while_there_are_none_and_wakes() -> None:
    """After a second without any; then the next one is looked after as before."""
    in_flight = InFlight()
    first = Waiting(in_flight)
    in_flight.add(first)
    assert first.has_expired.wait(PATIENCE)
    until = time.monotonic() + PATIENCE
    while in_flight._is_awake:
        assert time.monotonic() < until
        time.sleep(0.02)
    second = Waiting(in_flight)
    in_flight.add(second)
    assert second.has_expired.wait(PATIENCE)


def test_what_was_answered_is_not_held_until_its_deadline() -> None:
    """Requests that were answered leave nothing behind, however far their deadline is."""
    in_flight = InFlight()
    for _ in range(20):
        many = [Waiting(in_flight, seconds=1000) for _ in range(200)]
        for one in many:
            in_flight.add(one)
        time.sleep(0.03)
        for one in many:
            in_flight.remove(one)
    staying = Waiting(in_flight, seconds=1000)
    in_flight.add(staying)
    time.sleep(0.1)
    assert len(in_flight._deadlines) < 1500
    in_flight.remove(staying)
