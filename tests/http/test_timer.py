"""One thread calls many things, each when its time has come."""

from __future__ import annotations

import queue
import time

import pytest

from nerve.http.timer import Timer


def test_calls_come_in_the_order_of_their_times() -> None:
    """Not in that in which they were given; none comes before its time."""
    timer, called = Timer("test"), queue.SimpleQueue[tuple[float, float]]()
    started = time.monotonic()

    def give(seconds: float) -> None:
        timer.call_after(seconds, lambda: called.put((seconds, time.monotonic() - started)))

    for seconds in (0.3, 0.1, 0.2, 0.0):
        give(seconds)
    found = [called.get(timeout=5) for _ in range(4)]
    assert [wanted for wanted, _ in found] == [0.0, 0.1, 0.2, 0.3]
    assert all(came >= wanted for wanted, came in found)


def test_call_that_raises_does_not_cost_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged under the thread's name."""
    timer, called = Timer("nerve-test"), queue.SimpleQueue[str]()
    timer.call_after(0.0, lambda: 1 / 0)
    timer.call_after(0.05, lambda: called.put("next"))
    assert called.get(timeout=5) == "next"
    assert "a defect on nerve-test: ZeroDivisionError" in caplog.text
