"""Requests as Granian hands them over, and a stand-in for the event loop that it posts callbacks to.

It only moves bytes in and out. RSGI: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined] # it exports them

from nerve.endpoints.protocol import JSON_TYPE
from nerve.errors import MalformedRequest
from nerve.http.pending import UNBOUNDED, UNCOUNTED_BYTES, PendingBytes, Share
from nerve.http.request import CUT_SHORT, OnBody, multiplexed_ports, stated_length
from nerve.http.responses import defect_response
from nerve.http.timer import Timer
from nerve.observability.defects import log_defect, survive

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol
    from granian.rsgi import Scope as RsgiScope

    from nerve.http.request import Handler, Response

# Seconds for which the rest of a refused body is read and thrown away. Without it the connection is reset
# while the client still sends, and many a client then never reads why (RFC 9112, 9.6).
_LINGER_SECONDS = 2.0
# A usual `content-length`; `stated_length` looks at any other.
_PLAIN = re.compile("[0-9]{1,18}")
# Seconds after the head of a request for which a refusal waits for the rest of the body.
_MOMENT_SECONDS = 0.2


class RsgiRequest:
    """A request as Granian hands it over.

    Granian's awaitables are used as the futures they are, by `add_done_callback`: no coroutine waits for them.
    """

    __slots__ = (
        "_began",
        "_gone",
        "_headers",
        "_is_answered",
        "_pending",
        "_proto",
        "_reading",
        "_scope",
        "is_http1",
        "method",
        "path",
    )

    def __init__(self, scope: RsgiScope, proto: RSGIHTTPProtocol, pending: PendingBytes = UNBOUNDED) -> None:
        self._proto = proto
        self._scope = scope
        self._pending = pending
        self._headers = scope.headers
        self._is_answered = False
        self._began = time.monotonic()
        self.is_http1 = scope.http_version[0] == "1"
        self._reading: _Chunks | None = None
        self._gone: Any = None  # the awaitable of the client's leaving
        self.method = scope.method
        self.path = scope.path

    @property
    def client_port(self) -> int:
        """Port that the client connects from; 0 for a Unix socket."""
        port = self._scope.client.rpartition(":")[2]
        return int(port) if port.isdecimal() else 0

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""
        value: str | None = self._headers.get(name)
        return value

    def read(self, limit: int, then: OnBody) -> None:
        """Read the body and give it to `then`; None as soon as it is known to be above `limit` bytes."""
        stated = self._headers.get("content-length")
        n_bytes = int(stated) if stated is not None and _PLAIN.fullmatch(stated) else stated_length(stated)
        if n_bytes is not None and n_bytes > limit:
            then(None, None)
            return
        self._reading = chunks = self._chunks(n_bytes)
        chunks.read(limit, then)

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
        """Send the answer. Where a body was left unread, its rest is thrown away for a short while.

        Over HTTP/1.1 a connection can go on only after the whole body. So the answer waits for the rest, a moment at
        most: if that is not all there is, the answer says that the connection will be closed.
        """
        if self._is_answered:
            return
        self._is_answered = True
        try:
            rest = self._unread()
            if rest is None:
                self._send(response)
            elif self.is_http1:
                rest.discard(partial(self._send_beside, response), self._patience())
            else:
                self._send(response)
                rest.discard()
            if self._gone is not None:
                self._watch_no_more()
        except BaseException as error:  # noqa: BLE001 - whoever answers has more to do
            log_defect(error, "in what follows an answer")
            survive(partial(self._send, response), "in an answer")  # does nothing where it was sent

    def _unread(self) -> _Chunks | None:
        """Return what is left of the body; None where nothing is."""
        if self._reading is not None:
            self._reading.let_go()
            return None if self._reading.is_over else self._reading
        try:
            n_bytes = stated_length(self._headers.get("content-length"))
        except MalformedRequest:
            n_bytes = None
        if n_bytes is None and (
            "transfer-encoding" not in self._headers if self.is_http1 else self.method in ("GET", "HEAD")
        ):
            return None
        return None if n_bytes == 0 else self._chunks(n_bytes)

    def _chunks(self, n_bytes: int | None) -> _Chunks:
        # Over HTTP/2 the end of a body is a message of the client's own, and the stream is reset where it is
        # answered before that.
        return _Chunks(self._proto, n_bytes, not self.is_http1, self._pending)

    def _patience(self) -> float:
        """Return the seconds for which an answer waits for the rest of the body."""
        # What was begun would be here if it came fast; and to read it may ask the client to send it.
        if self._reading is not None or "expect" in self._headers:
            return 0.0
        return self._began + _MOMENT_SECONDS - time.monotonic()

    def _send_beside(self, response: Response, is_whole: bool) -> None:
        if not is_whole:
            response.headers.append(("connection", "close"))
        self._send(response)

    def _send(self, response: Response) -> None:
        try:
            self._proto.response_bytes(response.status, response.headers, response.body)
        except BaseException as error:  # noqa: BLE001 - a header that is no text, say: the client must hear of it
            log_defect(error, "in an answer that cannot be sent")
            fallback = defect_response([("content-type", JSON_TYPE), ("x-request-id", response.request_id)])
            self._proto.response_bytes(fallback.status, fallback.headers, fallback.body)

    def _watch_no_more(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone.cancel()  # else Granian holds it for as long as the connection lives


class _Chunks:
    """Reads a body piece by piece.

    n_bytes: as the client states. reads_end: wait for the news that the body has ended even when all bytes are there.
    is_over: nothing more of it will be read, be it whole or cut. pending: counts what has arrived.
    """

    def __init__(
        self, proto: RSGIHTTPProtocol, n_bytes: int | None, reads_end: bool, pending: PendingBytes
    ) -> None:
        self._pending = pending
        self._share: Share | None = None
        self._iterator: Any = aiter(proto)  # may be called only once
        self._awaitable: Any = None
        self._body = bytearray()
        self._limit = 0
        self._n_bytes = n_bytes
        self._n_read = 0
        self._then: OnBody | None = None
        self._ends_at = None if reads_end else n_bytes  # bytes with which it is whole
        self._settled: list[
            Callable[[bool], None]
        ] = []  # who waits for the rest; a list, because its `pop` is atomic
        self.is_over = False

    def read(self, limit: int, then: OnBody) -> None:
        """Give the whole body to `then`; None as soon as it is above `limit` bytes."""
        self._limit = limit
        self._then = then
        self._next()

    def discard(self, settled: Callable[[bool], None] | None = None, patience: float = 0.0) -> None:
        """Throw the rest away, for a short while.

        settled: told once, whether all of it came within `patience` seconds; it may be told before this returns.
        """
        was_waiting = self._then is not None  # read before the other: `_end` writes them the other way round
        self._then = None
        self.let_go()  # after the other: `_count` writes them the other way round
        self._body = bytearray()
        if settled is not None:
            self._settled.append(settled)
        if self.is_over:
            self._settle(is_whole=True)
        elif patience <= 0:
            self._lose_patience()
        elif not survive(partial(timer.call_after, patience, self._lose_patience), "in a timer"):
            self._settle(is_whole=False)
        if not was_waiting and not self.is_over:
            self._next()

    def _lose_patience(self) -> None:
        """Say that the rest is not there, and read it for a while all the same."""
        self._settle(is_whole=False)
        if not self.is_over:
            timer.call_after(_LINGER_SECONDS, self.stop)

    def _settle(self, *, is_whole: bool) -> None:
        try:
            settled = self._settled.pop()
        except IndexError:
            return
        settled(is_whole)

    def stop(self) -> None:
        """Read no more."""
        self.is_over = True
        awaitable = self._awaitable
        if awaitable is not None:
            awaitable.cancel()

    def _next(self) -> None:
        try:
            self._awaitable = awaitable = anext(self._iterator)
        except StopAsyncIteration:
            is_cut = self._n_bytes is not None and self._n_read < self._n_bytes
            self._end(*((None, MalformedRequest(CUT_SHORT)) if is_cut else (self._body, None)))
            return
        awaitable.add_done_callback(self._on_chunk)

    def _on_chunk(self, awaitable: Any) -> None:
        try:
            self._take(awaitable)
        except Exception as error:  # noqa: BLE001 - whoever waits for the body would wait for its deadline
            log_defect(error, "in a body that arrives")
            self._end(None, error)

    def _take(self, awaitable: Any) -> None:
        self._awaitable = None  # a cycle through Granian's objects is never collected
        if self.is_over or awaitable.cancelled():
            return
        try:
            chunk = awaitable.result()
        except (ProtocolClosed, ProtocolError):
            self._end(None, MalformedRequest(CUT_SHORT))
            return
        self._n_read += len(chunk)
        if self._then is None:
            if self._n_read == self._ends_at:  # all of what nobody wants
                self._end(self._body, None)
                return
        elif len(chunk) == self._ends_at:  # all of it
            self._end(chunk, None)
            return
        else:
            self._body += chunk
            n_bytes = len(self._body)
            if n_bytes > self._limit:
                self._end(None, None)
                return
            if n_bytes == self._ends_at:
                self._end(self._body, None)
                return
            if n_bytes > UNCOUNTED_BYTES and not self._count(n_bytes):
                self._body = bytearray()  # nobody wants it any more: what comes yet is thrown away
        self._next()

    def _count(self, n_bytes: int) -> bool:
        """Count what has arrived; False when the body was refused or answered, on this thread or another one."""
        share, then = self._share, self._then
        if share is None and then is not None:
            self._share = share = self._pending.open(partial(then, None), self._n_bytes)
        if share is None or not share.grow(n_bytes):
            return False
        if self._then is None:  # answered meanwhile, by somebody who may not have seen the share
            share.close()
            return False
        return True

    def let_go(self) -> None:
        """Give the room back that the body had."""
        if self._share is not None:
            self._share.close()

    def _end(self, body: bytes | bytearray | None, error: Exception | None) -> None:
        self.is_over = body is not None or error is not None
        self._body = bytearray()  # else it is held until the request is answered
        then, self._then = self._then, None
        if then is not None:
            if body is None or self._share is None or self._share.keep(len(body)):  # else it was refused
                then(body, error)
        elif self.is_over:
            self._settle(is_whole=error is None)


timer = Timer("nerve-linger")


class AtOnce(threading.local):
    """Stands in for the event loop in Granian's eyes: what is posted is called by the thread that posts it.

    What a callback raises is logged, as an event loop would: Granian would drop it unseen, and with it the callbacks
    that were posted meanwhile.

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
            _call(callback, args)
            while posted:
                _call(*posted.popleft())
        finally:
            self._posted = None

    call_soon = call_soon_threadsafe


def _call(callback: Callable[..., object], args: tuple[object, ...]) -> None:
    try:
        callback(*args)
    except BaseException as error:  # noqa: BLE001 - see `AtOnce`
        log_defect(error, "in a callback of a request")


def receive_with(handle: Handler, pending: PendingBytes = UNBOUNDED) -> Callable[[Any], None]:
    """Return what Granian calls for each request, with the two objects that it has of one.

    handle: never raises. Nor does what is returned: an exception that Granian does not look for stays set on its
    thread, and every later call there fails. A request that could not even be made is answered by Granian.
    """
    timer.start()

    def receive(watcher: Any) -> None:
        try:
            request = RsgiRequest(watcher.scope, watcher.proto, pending)
            if not request.is_http1:
                multiplexed_ports.add(request.client_port)
            handle(request)
        except BaseException as error:  # noqa: BLE001 - see above
            log_defect(error, "in a request that arrives")

    return receive
