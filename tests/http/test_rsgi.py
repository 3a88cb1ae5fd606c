"""Requests as Granian hands them over: they leave nothing behind, and what is posted is called at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nerve.http.request import Request, Response
from nerve.http.rsgi import AtOnce, RsgiRequest, receive_with


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
    """Granian's side of one request; its body comes in these chunks, and nothing after the last one."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.asked: list[Awaitable] = []  # for a chunk
        self.disconnect = Awaitable()
        self.n_responses = 0

    def __aiter__(self) -> Protocol:
        """Give the chunks."""
        return self

    def __anext__(self) -> Awaitable:
        """Give the next chunk; an empty one tells that the body has ended."""
        if len(self.asked) > len(self.chunks):
            raise StopAsyncIteration
        self.asked.append(Awaitable())
        return self.asked[-1]

    def arrive(self) -> None:
        """Give what was asked for last."""
        index = len(self.asked) - 1
        awaitable = self.asked[index]
        chunk = self.chunks[index] if index < len(self.chunks) else b""
        awaitable.result = lambda: chunk  # type: ignore[method-assign]
        assert awaitable.callback is not None
        awaitable.callback(awaitable)

    def client_disconnect(self) -> Awaitable:
        """Give the client's leaving."""
        return self.disconnect

    def response_bytes(self, *_: object) -> None:
        """Count."""
        self.n_responses += 1


def make_request(
    *chunks: bytes, stated: int | None = 2, http_version: str = "1.1"
) -> tuple[RsgiRequest, Protocol]:
    """Make a request with a body, of two bytes if nothing else is said."""
    protocol = Protocol(*(chunks or (b"{}",)))
    headers = {} if stated is None else {"content-length": str(stated)}
    scope = SimpleNamespace(headers=headers, method="POST", path="/", http_version=http_version)
    return RsgiRequest(scope, protocol), protocol  # type: ignore[arg-type]


def test_answer_ends_what_was_begun() -> None:
    """After the answer the request holds none of Granian's awaitables, and nobody is told that the client left."""
    request, protocol = make_request()
    told: list[object] = []
    request.read(10, lambda *body: told.append(body))
    protocol.arrive()
    request.watch(lambda: told.append("gone"))
    request.respond(Response(200, [], b""))
    assert told == [(b"{}", None)]
    assert protocol.disconnect.is_cancelled
    assert request._gone is None
    assert request._reading is not None
    assert request._reading._awaitable is None
    assert protocol.n_responses == 1


@pytest.mark.parametrize("stated", [None, 8])
@pytest.mark.parametrize(("limit", "given"), [(10, b"12345678"), (5, None)])
def test_body_in_chunks_is_not_kept(stated: int | None, limit: int, given: bytes | None) -> None:
    """Whoever wanted it has it, and may let go of megabytes while the model is at work."""
    request, protocol = make_request(b"1234", b"5678", stated=stated)
    told: list[object] = []
    request.read(limit, lambda *body: told.append(body))
    while protocol.asked and not told:
        protocol.arrive()
    assert told == [(given, None)]
    if protocol.asked:
        assert request._reading is not None
        assert not request._reading._body


def test_body_is_there_with_its_last_byte() -> None:
    """Granian is not asked for what comes after as many bytes as were stated."""
    request, protocol = make_request(b"1234", b"5678", stated=8)
    told: list[object] = []
    request.read(10, lambda *body: told.append(body))
    protocol.arrive()
    assert told == []
    protocol.arrive()
    assert told == [(b"12345678", None)]
    assert len(protocol.asked) == 2


def test_http2_body_is_read_to_its_end() -> None:
    """The client tells it apart, and its stream would be reset before."""
    request, protocol = make_request(http_version="2")
    told: list[object] = []
    request.read(10, lambda *body: told.append(body))
    protocol.arrive()
    assert told == []
    protocol.arrive()
    assert told == [(b"{}", None)]


def test_body_that_nobody_wants_any_more_is_let_go() -> None:
    """Its deadline has passed: what had arrived is not kept while the rest is thrown away."""
    request, protocol = make_request(b"1234", b"5678", stated=8)
    told: list[object] = []
    request.read(10, lambda *body: told.append(body))
    protocol.arrive()
    request.respond(Response(504, [], b""))
    assert request._reading is not None
    assert not request._reading._body
    protocol.arrive()
    assert told == []
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


def test_what_granian_gives_becomes_a_request() -> None:
    """Method, path and headers are those of its scope."""
    seen: list[Request] = []
    scope = SimpleNamespace(
        headers={"x-request-id": "7"}, method="POST", path="/predict_tokens", http_version="1.1"
    )
    receive_with(seen.append)(SimpleNamespace(scope=scope, proto=Protocol()))
    (request,) = seen
    assert (request.method, request.path) == ("POST", "/predict_tokens")
    assert (request.header("x-request-id"), request.header("accept")) == ("7", None)


def test_a_callback_is_called_by_the_thread_that_posts_it() -> None:
    """Before the call returns, also while a callback runs on another thread."""
    at_once = AtOnce()
    called: list[int] = []

    def first() -> None:
        thread = threading.Thread(target=at_once.call_soon, args=(lambda: called.append(2),))
        thread.start()
        thread.join()
        assert called == [2]
        called.append(1)

    at_once.call_soon_threadsafe(first)
    assert called == [2, 1]


def test_a_callback_posted_by_a_callback_is_called_after_it() -> None:
    """So that a body of a million chunks does not make a stack of a million frames."""
    at_once = AtOnce()
    depth = deepest = n_called = 0

    def chunk() -> None:
        nonlocal depth, deepest, n_called
        depth += 1
        deepest = max(deepest, depth)
        n_called += 1
        if n_called < 10_000:
            at_once.call_soon(chunk)
        depth -= 1

    at_once.call_soon_threadsafe(chunk)
    assert (n_called, deepest) == (10_000, 1)
