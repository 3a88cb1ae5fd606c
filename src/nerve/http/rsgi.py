"""Two thin shims around an `App`: RSGI requests for Granian (`direct`), and ASGI for any other server.

They only move bytes in and out, and call the hooks of the worker's life.
RSGI: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
ASGI: https://asgi.readthedocs.io/en/stable/specs/www.html
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined] # it exports them

from nerve.errors import MalformedRequest

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol
    from granian.rsgi import Scope as RsgiScope

    from nerve.http.exchange import Request
    from nerve.http.responses import Response

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OnBody = Callable[[bytes | bytearray | None, Exception | None], None]

# Seconds for which the rest of a refused body is read and thrown away. Without it the connection is reset
# while the client still sends, and many a client then never reads why (RFC 9112, 9.6).
_LINGER_SECONDS = 2.0
_CUT_SHORT = "the body is cut short; send as many bytes as content-length states"


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
        "_proto",
        "_reading",
        "method",
        "path",
    )

    def __init__(self, scope: RsgiScope, proto: RSGIHTTPProtocol) -> None:
        self._proto = proto
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
        self._reading = chunks = _Chunks(self._proto)
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
            _Chunks(self._proto).discard()


class _Chunks:
    """Reads a body piece by piece."""

    def __init__(self, proto: RSGIHTTPProtocol) -> None:
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
        if self._is_over:
            return
        self._then = None
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
            self._end(*((None, MalformedRequest(_CUT_SHORT)) if is_cut else (self._body, None)))
            return
        awaitable.add_done_callback(self._on_chunk)

    def _on_chunk(self, awaitable: Any) -> None:
        self._awaitable = None  # a cycle through Granian's objects is never collected
        if self._is_over or awaitable.cancelled():
            return
        try:
            chunk = awaitable.result()
        except (ProtocolClosed, ProtocolError):
            self._end(None, MalformedRequest(_CUT_SHORT))
            return
        if self._then is not None:
            if len(chunk) == self._ends_at:  # all of it
                self._end(chunk, None)
                return
            self._body += chunk
            if len(self._body) > self._limit:
                self._end(None, None)
                return
            if len(self._body) == self._ends_at:
                self._end(self._body, None)
                return
        self._next()

    def _end(self, body: bytes | bytearray | None, error: Exception | None) -> None:
        self._is_over = body is not None or error is not None
        self._body = bytearray()  # else it is held until the request is answered
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


class AsgiRequest:
    """A request as an ASGI server hands it over; `answer` is set to the response."""

    def __init__(self, scope: AsgiScope, receive: Receive) -> None:
        self._receive = receive
        # A value that is not ASCII counts as absent, as it does with Granian's RSGI.
        self._headers = {
            name.decode("latin-1"): value.decode() for name, value in scope["headers"] if value.isascii()
        }
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []  # what reads from the client
        self.answer: asyncio.Future[Response] = self._loop.create_future()
        self.method: str = scope["method"]
        self.path: str = scope["path"]

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""
        return self._headers.get(name)

    def read(self, limit: int, then: OnBody) -> None:
        """Read the body and give it to `then`; None as soon as it is known to be above `limit` bytes."""
        stated = self._headers.get("content-length")
        if stated is not None and int(stated) > limit:
            then(None, None)
        else:
            self._tasks.append(self._loop.create_task(self._read(limit, then)))

    async def _read(self, limit: int, then: OnBody) -> None:
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                then(None, MalformedRequest(_CUT_SHORT))
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                then(None, None)
                return
        then(body, None)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client leaves before it is answered."""
        self._loop.call_soon_threadsafe(
            lambda: self._tasks.append(self._loop.create_task(self._wait_until_gone(gone)))
        )

    async def _wait_until_gone(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()

    def respond(self, response: Response) -> None:
        """Hand the answer to the coroutine that waits for it."""
        self._loop.call_soon_threadsafe(self._settle, response)

    def _settle(self, response: Response) -> None:
        if not self.answer.done():
            self.answer.set_result(response)
        for task in self._tasks:
            task.cancel()


class Application:
    """What a server is given: callable as ASGI; Granian's RSGI worker calls `handle` (`direct`).

    handle: answers one request.
    start: begins to load the model; given the worker's event loop.
    close: finishes what was admitted; blocks.
    """

    def __init__(
        self,
        handle: Callable[[Request], None],
        start: Callable[[asyncio.AbstractEventLoop], None],
        close: Callable[[], None],
    ) -> None:
        self.handle = handle
        self._start = start
        self._close = close

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to load the model; Granian calls this before it accepts connections."""
        self._start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish; Granian calls this once its connections have ended."""
        self._close()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request, or run the lifespan protocol."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"nerve answers HTTP only, not {scope['type']}")
        request = AsgiRequest(scope, receive)
        self.handle(request)
        response = await request.answer
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        headers.append((b"content-length", str(len(response.body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self._start(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await asyncio.get_running_loop().run_in_executor(None, self._close)
        await send({"type": "lifespan.shutdown.complete"})
