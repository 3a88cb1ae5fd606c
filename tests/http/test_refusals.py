"""Refusals cost next to nothing, however often a client repeats: they are sent at a bounded rate."""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial

import pytest

from nerve.http.refusals import Refusals
from raw_http import wait_until


class Sent:
    """What was sent, in its order, when, and by which thread."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.threads: list[int] = []

    def send(self, number: int) -> None:
        """Take note."""
        self.numbers.append(number)
        self.times.append(time.monotonic())
        self.threads.append(threading.get_ident())


def test_refusals_that_come_one_by_one_are_sent_at_once() -> None:
    """By whoever brings them; and fifty after a pause."""
    refusals, sent = Refusals(), Sent()
    for number in range(50):
        refusals.send(partial(sent.send, number))
        assert sent.numbers[-1] == number
    assert set(sent.threads) == {threading.get_ident()}


def test_refusals_beyond_the_rate_are_kept_back() -> None:
    """Whoever brings them goes on at once; they are sent in their order, at 500 a second at most."""
    refusals, sent = Refusals(), Sent()
    started = time.monotonic()
    for number in range(250):
        refusals.send(partial(sent.send, number))
    brought = time.monotonic() - started
    n_at_once = sent.threads.count(threading.get_ident())
    assert 50 <= n_at_once <= 50 + 500 * brought + 1
    wait_until(lambda: len(sent.numbers) == 250, "all were sent")
    assert sent.numbers == list(range(250))
    assert sent.times[-1] - started >= (250 - n_at_once) / 500
    refusals.send(partial(sent.send, 250))
    refusals.send(partial(sent.send, 251))
    wait_until(lambda: len(sent.numbers) == 252, "both were sent")
    assert sent.numbers[-2:] == [250, 251]


def test_no_more_are_kept_than_there_is_room_for() -> None:
    """Requests that come without regard to answers would take one connection after the other."""
    refusals, sent = Refusals(room=lambda: 20), Sent()
    started = time.monotonic()
    for number in range(2000):
        refusals.send(partial(sent.send, number))
        assert number + 1 - len(sent.numbers) <= 20
    assert time.monotonic() - started < 1980 / 500
    wait_until(lambda: len(sent.numbers) == 2000, "all were sent")
    assert sorted(sent.numbers) == list(range(2000))


def test_pause_makes_room_for_fifty_again() -> None:
    """A tenth of a second is enough, and a longer one makes room for no more."""
    refusals, sent = Refusals(), Sent()
    for number in range(60):
        refusals.send(partial(sent.send, number))
    wait_until(lambda: len(sent.numbers) == 60, "all were sent")
    time.sleep(0.3)
    before = sent.threads.count(threading.get_ident())
    started = time.monotonic()
    for number in range(100):
        refusals.send(partial(sent.send, number))
    n_at_once = sent.threads.count(threading.get_ident()) - before
    assert 50 <= n_at_once <= 50 + 500 * (time.monotonic() - started) + 1


def test_closing_sends_what_is_kept() -> None:
    """A server that stops need not wait for its turn, nor does what comes later."""
    refusals, sent = Refusals(), Sent()
    for number in range(2050):
        refusals.send(partial(sent.send, number))
    started = time.monotonic()
    refusals.close()
    refusals.send(partial(sent.send, -1))
    assert -1 in sent.numbers
    wait_until(lambda: len(sent.numbers) == 2051, "all were sent")
    assert time.monotonic() - started < 2  # of the 4 s that their turns would have taken
    assert sorted(sent.numbers) == list(range(-1, 2050))


def test_defect_of_one_costs_no_other_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next one is sent."""
    refusals, sent = Refusals(), Sent()

    def fail() -> None:
        raise RuntimeError("sec" + "ret")

    for number in range(52):
        refusals.send(partial(sent.send, number))
    refusals.send(fail)
    refusals.send(partial(sent.send, 52))
    wait_until(lambda: len(sent.numbers) == 53, "the others were sent")
    assert "a defect in an answer that refuses: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_one_that_was_sent_is_let_go_of() -> None:
    """It holds a connection."""
    refusals, sent = Refusals(), Sent()
    for number in range(60):
        refusals.send(partial(sent.send, number))
    last = Sent()
    gone = weakref.ref(last)
    refusals.send(partial(last.send, 1))
    del last
    wait_until(lambda: gone() is None, "it is let go of")
