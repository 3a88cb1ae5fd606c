"""Deadlines of the predictions under way are kept, their clients watched, and each is answered by one."""

from __future__ import annotations

import math
import threading
import time
import weakref

import pytest

from nerve.http.in_flight import InFlight
from raw_http import wait_until

PATIENCE = 20.0  # seconds after which a test gives up


class Waiting:
    """A prediction that waits; it ends itself at its deadline, as an exchange does."""

    def __init__(self, in_flight: InFlight, deadline: float = math.inf, watch_at: int = 1) -> None:
        self._in_flight = in_flight
        self._watch_at = watch_at  # the time of asking at which it says yes
        self.deadline = deadline
        self.added = time.monotonic()
        self.expired: list[float] = []
        self.asked: list[float] = []
        self.has_expired = threading.Event()

    def expire(self) -> None:
        """End it."""
        self.expired.append(time.monotonic())
        self._in_flight.remove(self)
        self.has_expired.set()

    def watch_client(self) -> bool:
        """Say whether it is time for that."""
        self.asked.append(time.monotonic())
        return len(self.asked) >= self._watch_at


def add(in_flight: InFlight, seconds: float = math.inf, watch_at: int = 1) -> Waiting:
    """Add one whose deadline is so many seconds from now."""
    one = Waiting(in_flight, time.monotonic() + seconds, watch_at)
    in_flight.add(one)
    return one


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


def test_deadlines_are_kept_whatever_the_order() -> None:
    """Each ends at its own, once and not before; the others stay."""
    in_flight = InFlight()
    late, soon, never, middle = (add(in_flight, seconds) for seconds in (0.25, 0.05, math.inf, 0.15))
    equal = [add(in_flight, 0.1) for _ in range(3)]
    for one in (soon, *equal, middle, late):
        assert one.has_expired.wait(PATIENCE)
        assert one.expired[0] >= one.deadline
    assert [len(one.expired) for one in (soon, middle, late, never, *equal)] == [1, 1, 1, 0, 1, 1, 1]
    assert soon.expired < equal[0].expired < middle.expired < late.expired
    assert len(in_flight) == 1
    assert in_flight.remove(never)


def test_deadline_of_one_that_was_answered_is_nothing() -> None:
    """Whether it was answered before it was looked at, or later."""
    in_flight = InFlight()
    quick = add(in_flight, 0.1)
    assert in_flight.remove(quick)
    seen = add(in_flight, 0.1)
    wait_until(lambda: bool(seen.asked), "it was looked at")
    assert in_flight.remove(seen)
    last = add(in_flight, 0.1)
    assert last.has_expired.wait(PATIENCE)
    assert (quick.expired, seen.expired, quick.asked) == ([], [], [])


def test_client_is_watched_after_a_while() -> None:
    """Not at once, for most are answered by then; where it is too early, it is asked again, and then no more."""
    in_flight = InFlight()
    one, early = add(in_flight), add(in_flight, watch_at=3)
    wait_until(lambda: len(early.asked) == 3, "it was asked three times")
    time.sleep(0.1)
    assert (len(one.asked), len(early.asked)) == (1, 3)
    assert one.asked[0] - one.added >= 0.02
    assert min(b - a for a, b in zip(early.asked, early.asked[1:], strict=False)) >= 0.01


def test_defect_of_one_costs_no_other_its_deadline(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, without the message, which could quote a text."""
    monkeypatch.setattr("nerve.observability.defects._logged_at", {})  # of other tests

    class Broken(Waiting):
        def expire(self) -> None:
            self._in_flight.remove(self)
            raise RuntimeError("sec" + "ret")

        def watch_client(self) -> bool:
            raise RuntimeError("sec" + "ret")

    in_flight = InFlight()
    broken = [Broken(in_flight, time.monotonic() + seconds) for seconds in (0.01, 0.5)]
    for one in broken:
        in_flight.add(one)
    other = add(in_flight, 0.55)
    assert other.has_expired.wait(PATIENCE)
    assert caplog.text.count("a defect while deadlines were looked at: RuntimeError") == 1
    assert "secret" not in caplog.text


def test_it_sleeps_while_there_are_none_and_wakes() -> None:
    """After a second without any it holds nothing; the deadline of the next one is kept as before."""
    in_flight = InFlight()
    one = add(in_flight, 60.0)
    wait_until(lambda of=one: bool(of.asked), "it was looked at")  # type: ignore[misc]
    assert in_flight.remove(one)
    gone = weakref.ref(one)
    del one
    wait_until(lambda: not in_flight._is_awake, "it sleeps")
    assert gone() is None
    other = add(in_flight, 0.05)
    assert other.has_expired.wait(PATIENCE)
    assert in_flight._is_awake


def test_those_that_were_answered_do_not_pile_up() -> None:
    """While others wait, no more of them are kept than a bounded number, however far their deadlines are."""
    in_flight = InFlight()
    waiting = add(in_flight)
    for _ in range(3):
        many = [add(in_flight, 60.0) for _ in range(2000)]
        wait_until(lambda of=many: all(one.asked for one in of), "they were looked at")  # type: ignore[misc]
        for one in many:
            assert in_flight.remove(one)
    wait_until(lambda: len(in_flight._deadlines) <= 1_002, "they were let go of")
    assert not in_flight._unwatched
    assert in_flight.remove(waiting)
