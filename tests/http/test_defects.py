"""One exception, wherever it comes from, fails one request: others are answered as before."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nerve.errors import InvalidRequest, PredictError
from nerve.http.access_log import with_access_log
from nerve.http.app import answer_defects
from nerve.http.in_flight import InFlight
from nerve.http.refusals import Refusals
from nerve.http.request import Response
from nerve.http.responses import error_response
from nerve.http.rsgi import AtOnce, RsgiRequest, receive_with
from nerve.observability import defects

SECRET = "Anna lives in Paris"
BODY = b'{"error":"internal error; the server\'s log has the details","error_type":"Backend"}'


@pytest.fixture(autouse=True)
def _forget_what_was_logged() -> None:
    defects._logged_at.clear()


class Protocol:
    """Granian's side of a request: takes headers that are pairs of texts, as Granian does."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Take the first answer."""
        if not all(isinstance(part, str) for pair in headers for part in pair):
            raise TypeError("not text")
        if not self.answers:
            self.answers.append((status, dict(headers), body))


def make_scope(**more: Any) -> Any:
    """Make Granian's scope of a GET."""
    return SimpleNamespace(headers={}, method="GET", path="/", http_version="1.1", client="", **more)


def make_request() -> tuple[RsgiRequest, Protocol]:
    """Make a request, and what it is answered through."""
    protocol = Protocol()
    return RsgiRequest(make_scope(), protocol), protocol  # type: ignore[arg-type]


def fail(*_: object) -> None:
    """Raise what a defect raises."""
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_exception_out_of_the_handler_is_answered_and_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """With the contract's body and an id that stands in the log; nothing reaches Granian's thread."""

    def handle(_: object) -> None:
        raise error

    protocol = Protocol()
    receive_with(answer_defects(handle))(SimpleNamespace(scope=make_scope(), proto=protocol))
    ((status, headers, body),) = protocol.answers
    assert (status, body) == (500, BODY)
    (record,) = caplog.records
    assert type(error).__name__ in record.getMessage()
    assert record.request_id == headers["x-request-id"]  # type: ignore[attr-defined]


def test_request_that_cannot_be_made_does_not_reach_granian(caplog: pytest.LogCaptureFixture) -> None:
    """Granian answers it, since nobody else can; its thread goes on."""
    receive_with(answer_defects(fail))(SimpleNamespace(scope=None, proto=Protocol()))
    assert "a request that arrives" in caplog.text


def test_answer_that_cannot_be_sent_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """A header that is no text, say; the client is not left waiting."""
    request, protocol = make_request()
    request.respond(Response(200, [("x-request-id", "an-id"), ("x-some", None)], b"[]"))  # type: ignore[list-item]
    ((status, headers, body),) = protocol.answers
    assert (status, body) == (500, BODY)
    assert headers["x-request-id"] == "an-id"
    assert "cannot be sent" in caplog.text


def test_second_answer_is_dropped() -> None:
    """Whatever answers first has answered."""
    request, protocol = make_request()
    request.respond(Response(200, [], b"first"))
    request.respond(Response(500, [], b"second"))
    assert [body for _, _, body in protocol.answers] == [b"first"]


def test_callbacks_that_raise_do_not_cost_those_posted_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    """Granian looks at no exception of its event loop: each is logged here, and the next callback is called."""
    at_once = AtOnce()
    ran: list[str] = []

    def first() -> None:
        at_once.call_soon(fail)
        at_once.call_soon(lambda: ran.append("third"))
        fail()

    at_once.call_soon_threadsafe(first)
    at_once.call_soon_threadsafe(lambda: ran.append("next"))
    assert ran == ["third", "next"]
    assert "a callback of a request: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_looking_on_costs_nobody_an_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of the access log comes after the answer, and is logged."""
    request, protocol = make_request()
    handle = with_access_log(lambda inner: inner.respond(Response(200, [], b"[]")), fail)  # type: ignore[arg-type]
    handle(request)
    assert [status for status, _, _ in protocol.answers] == [200]
    assert "_LoggedRequest: RuntimeError" in caplog.text


def test_every_error_has_an_answer() -> None:
    """Classes that another package has made of the table's, one without a row, one that cannot even be told."""

    class OddError(InvalidRequest):
        pass

    class MuteError(InvalidRequest):
        def __str__(self) -> str:
            raise RuntimeError

    for error, status in ((OddError("x"), 422), (MuteError(), 500), (PredictError("x"), 500)):
        response = error_response(error, [("content-type", "x"), ("x-request-id", "y")], "y")
        assert response.status == status
    del OddError, MuteError, error
    gc.collect()  # other tests look at all classes of errors that there are


class Pending:
    """An exchange whose deadline has passed; the first attempts to end it raise."""

    def __init__(self, watch: InFlight, *errors: BaseException) -> None:
        self.deadline = time.monotonic()
        self.errors = list(errors)
        self.ended = threading.Event()
        self._watch = watch

    def expire(self) -> None:
        """Raise, or end."""
        if self.errors:
            raise self.errors.pop()
        self._watch.remove(self)
        self.ended.set()

    def watch_client(self) -> bool:
        """Raise."""
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError(), MemoryError(), SystemExit(1)])
def test_watch_survives_an_exchange_that_raises(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are ended at their time, and that one is tried again."""
    watch = InFlight()
    bad, good = Pending(watch, error), Pending(watch)
    with caplog.at_level(logging.ERROR):
        watch.add(bad)
        watch.add(good)
        assert good.ended.wait(60)
        assert bad.ended.wait(60)
    assert type(error).__name__ in caplog.text


def test_watch_survives_its_own_defects(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Want of memory in the loop itself: deadlines are kept afterwards."""
    real: Callable[..., None] = InFlight._tick
    raised: list[float] = []

    def tick(self: InFlight, now: float) -> None:
        if len(raised) < 3:
            raised.append(now)
            raise MemoryError
        real(self, now)

    monkeypatch.setattr(InFlight, "_tick", tick)
    watch = InFlight()
    pending = Pending(watch)
    watch.add(pending)
    assert pending.ended.wait(60)
    assert len(raised) == 3
    assert "MemoryError" in caplog.text


def test_refusals_go_on_after_one_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are kept back are sent by one thread."""
    refusals, sent = Refusals(), threading.Event()
    for _ in range(60):
        refusals.send(lambda: None)
    refusals.send(fail)
    refusals.send(sent.set)
    assert sent.wait(60)
    assert SECRET not in caplog.text
