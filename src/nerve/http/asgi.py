"""The application as any server takes it: ASGI requests, and the hooks of the worker's life.

It only moves bytes in and out. ASGI: https://asgi.readthedocs.io/en/stable/specs/www.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from nerve.endpoints.protocol import JSON_TYPE
from nerve.errors import MalformedRequest
from nerve.http.pending import UNBOUNDED, UNCOUNTED_BYTES, PendingBytes, Share
from nerve.http.request import CUT_SHORT, OnBody, multiplexed_ports, stated_length
from nerve.http.responses import defect_response
from nerve.observability.defects import log_defect

if TYPE_CHECKING:
    from nerve.http.request import Request, Response

# Answers whose content length would be another one's, or is forbidden (RFC 9110, 8.6).
_WITHOUT_BODY = (204, 304)

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiRequest:
    """A request as an ASGI server hands it over; `answer` is set to the response."""

    def __init__(self, scope: AsgiScope, receive: Receive, pending: PendingBytes = UNBOUNDED) -> None:
        self._receive = receive
        self._pending = pending
        self._share: Share | None = None
        # A value that is not ASCII counts as absent, as it does with Granian's RSGI.
        self._headers = {
            name.decode("latin-1"): value.decode() for name, value in scope["headers"] if value.isascii()
        }
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if lengths:
            self._headers["content-length"] = b",".join(lengths).decode("latin-1")
        self._is_http1 = scope.get("http_version", "1.1").startswith("1")
        self.client_port: int = (scope.get("client") or (None, 0))[1]
        if not self._is_http1:
            multiplexed_ports.add(self.client_port)
        self._is_read = False
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
        stated = stated_length(self._headers.get("content-length"))
        if stated is not None and stated > limit:
            then(None, None)
        else:
            self._tasks.append(self._loop.create_task(self._read(limit, stated or 0, then)))

    @property
    def leaves_body(self) -> bool:
        """Whether a part of the body was left unread, so that an HTTP/1 connection cannot go on."""
        has_body = self._headers.get("content-length", "0") != "0" or "transfer-encoding" in self._headers
        return self._is_http1 and has_body and not self._is_read

    async def _read(self, limit: int, stated: int, then: OnBody) -> None:
        try:
            await self._read_all(limit, stated, then)
        except Exception as error:  # noqa: BLE001 - nobody looks at what a task raises
            log_defect(error, "in a body that arrives")
            then(None, error)

    async def _read_all(self, limit: int, stated: int, then: OnBody) -> None:
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                then(None, MalformedRequest(CUT_SHORT))
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                then(None, None)
                return
            if more and len(body) > UNCOUNTED_BYTES:
                if self._share is None:
                    self._share = self._pending.open(partial(then, None), stated or None)
                if not self._share.grow(len(body)):  # it was refused
                    return
        self._is_read = True
        if len(body) < stated:
            then(None, MalformedRequest(CUT_SHORT))
        elif self._share is None or self._share.keep(len(body)):
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
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, response)

    def _settle(self, response: Response) -> None:
        if self._share is not None:
            self._share.close()
        if not self.answer.done():
            self.answer.set_result(response)
        for task in self._tasks:
            task.cancel()


class Application:
    """What a server is given: callable as ASGI; Granian's RSGI worker calls `handle` (`server.rsgi_worker`).

    handle: answers one request.
    start: begins to load the model; given the worker's event loop.
    close: finishes what was admitted; blocks.
    pending: bounds the bodies that arrive.
    """

    def __init__(
        self,
        handle: Callable[[Request], None],
        start: Callable[[asyncio.AbstractEventLoop], None],
        close: Callable[[], None],
        pending: PendingBytes = UNBOUNDED,
    ) -> None:
        self.handle = handle
        self.pending = pending
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
        request = AsgiRequest(scope, receive, self.pending)
        self.handle(request)
        response = await request.answer
        if request.leaves_body:
            response.headers.append(("connection", "close"))
        try:
            headers = _encode_headers(response)
        except Exception as error:  # noqa: BLE001 - a header that is no text, say: the client must hear of it
            log_defect(error, "in an answer that cannot be sent")
            response = defect_response([("content-type", JSON_TYPE), ("x-request-id", response.request_id)])
            headers = _encode_headers(response)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self._start(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await asyncio.get_running_loop().run_in_executor(None, self._close)
        await send({"type": "lifespan.shutdown.complete"})


def _encode_headers(response: Response) -> list[tuple[bytes, bytes]]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    if response.status in _WITHOUT_BODY:
        return headers
    return [*headers, (b"content-length", str(len(response.body)).encode())]
