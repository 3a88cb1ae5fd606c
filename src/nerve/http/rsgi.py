"""Requests as Granian hands them over, and a stand-in for the event loop that it posts callbacks to.

It only moves bytes in and out. RSGI: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined] # it exports them

from nerve.errors import MalformedRequest, Overloaded
from nerve.http.pending import UNBOUNDED, UNCOUNTED_BYTES, PendingBytes, Share
from nerve.http.request import CUT_SHORT, OnBody

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol
    from granian.rsgi import Scope as RsgiScope

    from nerve.http.request import Handler, Response

# Seconds for which the rest of a refused body is read and thrown away. Without it the connection is reset
# while the client still sends, and many a client then never reads why (RFC 9112, 9.6).
_LINGER_SECONDS = 2.0


class RsgiRequest:
    """A request as Granian hands it over.

    Granian's awaitables are used as the futures they are, by `add_done_callback`: no coroutine waits for them.
    """

    __slots__ = (
        "_gone",
        "_has_unread_body",
        "_headers",
        "_is_answered",
        "_is_http1",
        "_pending",
        "_proto",
        "_reading",
        "method",
        "path",
    )

    def __init__(self, scope: RsgiScope, proto: RSGIHTTPProtocol, pending: PendingBytes = UNBOUNDED) -> None:
        self._proto = proto
        self._pending = pending
        self._headers = scope.headers
        self._is_answered = False
        self._has_unread_body = scope.method == "POST"
        self._is_http1 = scope.http_version[0] == "1"
        self._reading: _Chunks | None = None
        self._gone: Any = None  # the awaitable of the client's leaving
        self.method = scope.method
        self.path = scope.path

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""
        value: str | None = self._headers.get(name)
        return value

    def read(self, limit: int, then: OnBody) -> None:
        """Read the body and give it to `then`; None as soon as it is known to be above `limit` bytes."""
        stated = self._headers.get("content-length")
        n_bytes = int(stated) if stated is not None else None
        if n_bytes is not None and n_bytes > limit:
            then(None, None)
            return
        self._has_unread_body = False
        self._reading = chunks = _Chunks(self._proto, self._pending)
        chunks.read(limit, n_bytes, then, reads_end=not self._is_http1)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client leaves before it is answered."""
        awaitable: Any = self._proto.client_disconnect()
        if not hasattr(awaitable, "add_done_callback"):  # it has left already
            gone()
            return

        def on_end(awaitable: Any) -> None:
            self._gone = None  # a cycle through Granian's objects is never collected
            if not awaitable.cancelled():
                gone()

        self._gone = awaitable
        awaitable.add_done_callback(on_end)
        if self._is_answered:  # meanwhile, by another thread
            awaitable.cancel()

    def respond(self, response: Response) -> None:
        """Send the answer; a body that was refused unread is thrown away for a short while."""
        self._is_answered = True
        self._proto.response_bytes(response.status, response.headers, response.body)
        gone, self._gone = self._gone, None
        if gone is not None:
            gone.cancel()  # else Granian holds it for as long as the connection lives
        if self._reading is not None:
            self._reading.discard()
        elif self._has_unread_body:
            _Chunks(self._proto, self._pending).discard()


class _Chunks:
    """Reads a body piece by piece."""

    def __init__(self, proto: RSGIHTTPProtocol, pending: PendingBytes) -> None:
        self._pending = pending
        self._share: Share | None = None
        self._iterator: Any = aiter(proto)  # may be called only once
        self._awaitable: Any = None
        self._body = bytearray()
        self._limit = 0
        self._n_bytes: int | None = None  # as stated
        self._then: OnBody | None = None
        self._ends_at: int | None = None  # bytes with which it is given
        self._is_over = False

    def read(self, limit: int, n_bytes: int | None, then: OnBody, reads_end: bool) -> None:
        """Give the whole body, which states to have `n_bytes`, to `then`; None as soon as it is above `limit` bytes.

        reads_end: wait for the news that the body has ended even when all bytes are there. Over HTTP/2 that is a
            message of the client's own, and the stream is reset where it is answered before.
        """
        self._ends_at = None if reads_end else n_bytes
        self._limit = limit
        self._n_bytes = n_bytes
        self._then = then
        self._next()

    def discard(self) -> None:
        """Throw the rest away, for a short while."""
        was_waiting = self._then is not None  # read before the other: `_end` writes them the other way round
        self._then = None
        if self._share is not None:
            self._share.close()
        if self._is_over:
            return
        self._body = bytearray()
        _linger.add(self)
        if not was_waiting:
            self._next()

    def stop(self) -> None:
        """Read no more."""
        self._is_over = True
        awaitable = self._awaitable
        if awaitable is not None:
            awaitable.cancel()

    def _next(self) -> None:
        try:
            self._awaitable = awaitable = anext(self._iterator)
        except StopAsyncIteration:
            is_cut = self._n_bytes is not None and len(self._body) < self._n_bytes
            self._end(*((None, MalformedRequest(CUT_SHORT)) if is_cut else (self._body, None)))
            return
        awaitable.add_done_callback(self._on_chunk)

    def _on_chunk(self, awaitable: Any) -> None:
        self._awaitable = None  # a cycle through Granian's objects is never collected
        if self._is_over or awaitable.cancelled():
            return
        try:
            chunk = awaitable.result()
        except (ProtocolClosed, ProtocolError):
            self._end(None, MalformedRequest(CUT_SHORT))
            return
        if self._then is not None:
            if len(chunk) == self._ends_at:  # all of it
                self._end(chunk, None)
                return
            self._body += chunk
            n_bytes = len(self._body)
            if n_bytes > self._limit:
                self._end(None, None)
                return
            if n_bytes == self._ends_at:
                self._end(self._body, None)
                return
            if n_bytes > UNCOUNTED_BYTES and not self._count(n_bytes):
                self._body = bytearray()  # it was refused: what comes yet is thrown away
        self._next()

    def _count(self, n_bytes: int) -> bool:
        """Count what has arrived; False when the body was refused, on this thread or another one."""
        share = self._share
        if share is None:
            self._share = share = self._pending.open(self._refuse, self._n_bytes)
        has_room = share.grow(n_bytes)
        if self._then is None:  # answered meanwhile, by somebody who may not have seen the share
            share.close()
        return has_room

    def _refuse(self, error: Overloaded) -> None:
        """Refuse the body, of which more may come: the answer begins to throw it away."""
        then = self._then
        if then is not None:
            then(None, error)

    def _end(self, body: bytes | bytearray | None, error: Exception | None) -> None:
        self._is_over = body is not None or error is not None
        self._body = bytearray()  # else it is held until the request is answered
        if body is not None and self._share is not None and not self._share.keep(len(body)):
            return
        then, self._then = self._then, None
        if then is not None:
            then(body, error)


class _Linger:
    """Stops the reading of refused bodies when their time is over, all of them on one thread."""

    def __init__(self) -> None:
        self._bodies: queue.SimpleQueue[tuple[float, _Chunks]] = queue.SimpleQueue()  # the first ends first
        self._lock = threading.Lock()
        self._is_started = False

    def add(self, body: _Chunks) -> None:
        """Stop a body after the time that each has."""
        with self._lock:
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="nerve-linger", daemon=True).start()
        self._bodies.put((time.monotonic() + _LINGER_SECONDS, body))

    def _run(self) -> None:
        while True:
            until, body = self._bodies.get()
            time.sleep(max(0.0, until - time.monotonic()))
            body.stop()
            del body  # what it holds is not kept until the next one comes


_linger = _Linger()


class AtOnce(threading.local):
    """Stands in for the event loop in Granian's eyes: what is posted is called by the thread that posts it.

    A callback that posts another one does not call it within itself, so that a body of a million chunks does
    not make a stack of a million frames.
    """

    def __init__(self) -> None:
        self._posted: deque[tuple[Callable[..., object], tuple[object, ...]]] | None = None

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: object = None
    ) -> None:
        """Call `callback` now, or after the one that is running on this thread."""
        if self._posted is not None:
            self._posted.append((callback, args))
            return
        posted: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._posted = posted
        try:
            callback(*args)
            while posted:
                callback, args = posted.popleft()
                callback(*args)
        finally:
            self._posted = None

    call_soon = call_soon_threadsafe


def receive_with(handle: Handler, pending: PendingBytes = UNBOUNDED) -> Callable[[Any], None]:
    """Return what Granian calls for each request, with the two objects that it has of one."""

    def receive(watcher: Any) -> None:
        handle(RsgiRequest(watcher.scope, watcher.proto, pending))

    return receive
