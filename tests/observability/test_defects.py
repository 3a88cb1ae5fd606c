"""A defect costs what it happened in, and a line in the log that quotes no text."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from nerve.observability import defects
from nerve.observability.defects import log_defect, log_what_escapes, survive

SECRET = "Anna lives in Paris"


@pytest.fixture(autouse=True)
def _forget_what_was_logged() -> None:
    defects._logged_at.clear()


def fail(error: BaseException) -> None:
    """Raise an error."""
    raise error


@pytest.mark.parametrize("error", [RuntimeError(SECRET), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_step_that_raises_is_logged_without_its_message(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises; the log names the step, the class and the place."""
    assert not survive(lambda: fail(error), "in a step")
    (record,) = caplog.records
    assert f"a defect in a step: {type(error).__name__}" in record.getMessage()
    assert "in fail" in record.getMessage()
    assert SECRET not in caplog.text
    assert survive(lambda: None, "in a step")


def test_step_that_fails_again_and_again_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line in some seconds for each kind of step."""
    for _ in range(1000):
        survive(lambda: fail(RuntimeError()), "in a step")
        survive(lambda: fail(RuntimeError()), "in another step")
    assert len(caplog.records) == 2


def test_want_of_memory_while_it_is_told_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step goes on even where the defect cannot be logged."""
    monkeypatch.setattr(defects, "stack_of", lambda _: fail(MemoryError()))
    log_defect(RuntimeError(), "in a step")


def test_end_of_a_thread_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would print the message, which may hold a text, to stderr."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    log_what_escapes()
    with caplog.at_level(logging.ERROR):
        thread = threading.Thread(target=fail, args=(RuntimeError(SECRET),), name="nerve-some")
        thread.start()
        thread.join()
    assert "nerve-some, which has ended: RuntimeError" in caplog.text
    assert SECRET not in caplog.text + capsys.readouterr().err
