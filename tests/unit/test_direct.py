"""Answers made while a callback of Granian's runs go out together; others at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nerve.direct import _MOST_TOGETHER, _AtOnce
from nerve.responses import Response


class Protocol:
    """Keeps what is sent, in a list that protocols may share."""

    def __init__(self, sent: list[bytes], error: Exception | None = None) -> None:
        self._sent = sent
        self._error = error

    def response_bytes(self, status: int, headers: object, body: bytes) -> None:
        """Keep the body, or fail."""
        if self._error is not None:
            raise self._error
        self._sent.append(body)


def answer(at_once: _AtOnce, sent: list[bytes], body: bytes, error: Exception | None = None) -> bool:
    """Make an answer."""
    protocol: Any = Protocol(sent, error)
    return at_once.answer(protocol, Response(200, [], body))


def test_an_answer_outside_a_callback_is_sent_at_once() -> None:
    """Also on another thread, while a callback runs on this one."""
    at_once = _AtOnce()
    sent: list[bytes] = []
    assert not answer(at_once, sent, b"1")
    assert sent == [b"1"]

    def callback() -> None:
        assert answer(at_once, sent, b"held")
        thread = threading.Thread(target=answer, args=(at_once, sent, b"2"))
        thread.start()
        thread.join()
        assert sent == [b"1", b"2"]

    at_once.call_soon_threadsafe(callback)
    assert sent == [b"1", b"2", b"held"]


def test_answers_of_a_callback_are_sent_when_it_has_ended() -> None:
    """And those of the callbacks that it posts, in their order."""
    at_once = _AtOnce()
    sent: list[bytes] = []

    def second() -> None:
        assert sent == []
        answer(at_once, sent, b"2")

    def first() -> None:
        answer(at_once, sent, b"1")
        at_once.call_soon(second)
        assert sent == []

    at_once.call_soon_threadsafe(first)
    assert sent == [b"1", b"2"]


def test_many_answers_do_not_wait_for_the_last() -> None:
    """They are sent in groups."""
    at_once = _AtOnce()
    sent: list[bytes] = []
    bodies = [b"%d" % number for number in range(_MOST_TOGETHER + 1)]

    def callback() -> None:
        for body in bodies:
            answer(at_once, sent, body)
        assert sent == bodies[:_MOST_TOGETHER]

    at_once.call_soon_threadsafe(callback)
    assert sent == bodies


def test_one_that_cannot_be_sent_costs_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does a callback that fails after it has answered."""
    at_once = _AtOnce()
    sent: list[bytes] = []

    def callback() -> None:
        answer(at_once, sent, b"1", RuntimeError("secret text"))
        answer(at_once, sent, b"2")
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        at_once.call_soon_threadsafe(callback)
    assert sent == [b"2"]
    assert "while an answer was sent" in caplog.text
    assert "secret" not in caplog.text
    assert not answer(at_once, sent, b"3")
    assert sent == [b"2", b"3"]
