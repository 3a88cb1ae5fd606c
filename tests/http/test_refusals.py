"""Refusals are sent at a bounded rate, none is lost, and one that comes alone is sent at once."""

from __future__ import annotations

import threading
import time

import pytest

from nerve.http.refusals import Refusals


def test_a_refusal_that_comes_alone_is_sent_at_once() -> None:
    """On the thread that sends it."""
    refusals = Refusals()
    threads: list[int] = []
    for _ in range(3):
        refusals.send(lambda: threads.append(threading.get_ident()))
        assert threads[-1] == threading.get_ident()


def test_many_are_sent_at_a_bounded_rate_in_order() -> None:
    """So that clients that repeat at once do not take the cores from the model."""
    refusals = Refusals()
    sent: list[tuple[int, float]] = []
    done = threading.Event()
    started = time.monotonic()
    for number in range(300):
        refusals.send(
            lambda number=number: sent.append((number, time.monotonic())) or (number == 299 and done.set())
        )  # type: ignore[func-returns-value,misc]
    assert 40 <= len(sent) <= 80
    assert done.wait(20)
    assert [number for number, _ in sent] == list(range(300))
    assert sent[-1][1] - started > 0.3


def test_a_defect_of_one_costs_no_other_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged without its message."""
    refusals = Refusals()
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("".join(["se", "cret"]))

    for _ in range(60):
        refusals.send(lambda: None)
    refusals.send(fail)
    refusals.send(done.set)
    assert done.wait(20)
    assert "a defect while a refusal" in caplog.text
    assert "secret" not in caplog.text


def test_what_is_kept_is_sent_when_the_server_ends() -> None:
    """Nobody waits longer than that."""
    refusals = Refusals()
    done = threading.Event()
    for _ in range(2000):
        refusals.send(lambda: None)
    refusals.send(done.set)
    refusals.close()
    assert done.wait(2)
