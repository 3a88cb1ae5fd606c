"""The RSGI request leaves nothing behind that Python's collector cannot see through."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nerve.interfaces import RsgiRequest
from nerve.responses import Response


class Awaitable:
    """What Granian gives to wait on: it keeps its callback, as Granian's does."""

    def __init__(self) -> None:
        self.callback: Callable[[Any], None] | None = None
        self.is_cancelled = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Keep the callback."""
        self.callback = callback

    def cancelled(self) -> bool:
        """Tell whether it was."""
        return self.is_cancelled

    def cancel(self) -> None:
        """Call back, as Granian does."""
        self.is_cancelled = True
        assert self.callback is not None
        self.callback(self)

    def result(self) -> bytes:
        """Return a body."""
        return b"{}"


class Protocol:
    """Granian's side of one request."""

    def __init__(self) -> None:
        self.body, self.disconnect = Awaitable(), Awaitable()
        self.n_responses = 0

    def __call__(self) -> Awaitable:
        """Give the body."""
        return self.body

    def client_disconnect(self) -> Awaitable:
        """Give the client's leaving."""
        return self.disconnect

    def response_bytes(self, *_: object) -> None:
        """Count."""
        self.n_responses += 1


def make_request() -> tuple[RsgiRequest, Protocol]:
    """Make a request with a body of two bytes."""
    protocol = Protocol()
    scope = SimpleNamespace(headers={"content-length": "2"}, method="POST", path="/")
    return RsgiRequest(scope, protocol), protocol  # type: ignore[arg-type]


def test_answer_ends_what_was_begun() -> None:
    """After the answer the request holds none of Granian's awaitables, and nobody is told that the client left."""
    request, protocol = make_request()
    told: list[object] = []
    request.read(10, lambda *body: told.append(body))
    assert protocol.body.callback is not None
    protocol.body.callback(protocol.body)
    request.watch(lambda: told.append("gone"))
    request.respond(Response(200, [], b""))
    assert told == [(b"{}", None)]
    assert protocol.disconnect.is_cancelled
    assert (request._gone, request._reading) == (None, None)
    assert protocol.n_responses == 1


@pytest.mark.parametrize(("limit", "given"), [(10, b"12345678"), (5, None)])
def test_body_in_chunks_is_not_kept(limit: int, given: bytes | None) -> None:
    """Whoever wanted it has it, and may let go of megabytes while the model is at work."""
    chunks = [b"1234", b"5678"]

    class Stream(Protocol):
        def __aiter__(self) -> Stream:
            return self

        def __anext__(self) -> Awaitable:  # type: ignore[override] # as Granian's, it gives no coroutine
            if not chunks:
                raise StopAsyncIteration
            chunk = chunks.pop(0)
            self.body.result = lambda: chunk  # type: ignore[method-assign]
            return self.body

    protocol = Stream()
    scope = SimpleNamespace(headers={}, method="POST", path="/")
    request = RsgiRequest(scope, protocol)  # type: ignore[arg-type]
    told: list[object] = []
    request.read(limit, lambda *body: told.append(body))
    for _ in range(2):
        assert protocol.body.callback is not None
        protocol.body.callback(protocol.body)
    assert told == [(given, None)]
    assert not request._reading._body


def test_client_that_left_is_told_once() -> None:
    """And its awaitable is let go of, though nothing was answered."""
    request, protocol = make_request()
    told: list[str] = []
    request.watch(lambda: told.append("gone"))
    assert protocol.disconnect.callback is not None
    protocol.disconnect.callback(protocol.disconnect)
    assert told == ["gone"]
    assert request._gone is None


def test_watch_that_comes_after_the_answer_is_ended_at_once() -> None:
    """Another thread may have answered meanwhile."""
    request, protocol = make_request()
    told: list[str] = []
    request.read(10, lambda *_: None)
    request.respond(Response(504, [], b""))
    request.watch(lambda: told.append("gone"))
    assert protocol.disconnect.is_cancelled
    assert told == []
