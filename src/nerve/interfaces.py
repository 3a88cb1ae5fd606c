"""Two thin shims that make an `App` callable: RSGI for Granian, ASGI for any other server.

They only move bytes in and out, and call the hooks of the worker's life.
RSGI: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
ASGI: https://asgi.readthedocs.io/en/stable/specs/www.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined] # it exports them

from nerve.errors import MalformedRequest

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol
    from granian.rsgi import Scope as RsgiScope

    from nerve.app import Request, Response

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Seconds for which the rest of a refused body is read and thrown away. Without it the connection is reset
# while the client still sends, and many a client then never reads why (RFC 9112, 9.6).
_LINGER_SECONDS = 2.0
# Bytes of a body up to which it is taken whole: one copy, for which the event loop stands still. Of 8 MB that is 10 ms.
_WHOLE_BYTES = 256 * 1024
_CUT_SHORT = "the body is cut short; send as many bytes as content-length states"


class RsgiRequest:
    """A request as Granian hands it over."""

    __slots__ = ("_chunks", "_headers", "_proto", "has_unread_body", "method", "path")

    def __init__(self, scope: RsgiScope, proto: RSGIHTTPProtocol) -> None:
        self._proto = proto
        self._chunks: AsyncIterator[bytes] | None = None
        self._headers = scope.headers
        self.has_unread_body = scope.method == "POST"
        self.method = scope.method
        self.path = scope.path

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""
        value: str | None = self._headers.get(name)
        return value

    async def read(self, limit: int) -> bytes | bytearray | None:
        """Return the body, or None as soon as it is known to be above `limit` bytes.

        Raises `MalformedRequest` when the client stops sending before the end.
        """
        stated = self._headers.get("content-length")
        if stated is not None and int(stated) > limit:
            return None
        self.has_unread_body = False
        try:
            if stated is not None and int(stated) <= _WHOLE_BYTES:
                return await self._proto()
            body = bytearray()
            while (chunk := await self._next_chunk()) is not None:
                body += chunk
                if len(body) > limit:
                    self.has_unread_body = True
                    return None
        except (ProtocolClosed, ProtocolError):
            raise MalformedRequest(_CUT_SHORT) from None
        if stated is not None and len(body) < int(stated):
            raise MalformedRequest(_CUT_SHORT)
        return body

    async def discard_body(self) -> None:
        """Throw the rest of the body away, for a short while."""
        with suppress(TimeoutError, ProtocolClosed, ProtocolError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self._next_chunk() is not None:
                    pass

    async def _next_chunk(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = aiter(self._proto)  # may be called only once
        try:
            return await anext(self._chunks)  # with a default, `anext` crashes on Granian's awaitables
        except StopAsyncIteration:
            return None

    async def gone(self) -> None:
        """Return once the client has left."""
        await self._proto.client_disconnect()


class AsgiRequest:
    """A request as an ASGI server hands it over."""

    def __init__(self, scope: AsgiScope, receive: Receive) -> None:
        self._receive = receive
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.method: str = scope["method"]
        self.path: str = scope["path"]

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""
        return self._headers.get(name)

    async def read(self, limit: int) -> bytes | bytearray | None:
        """Return the body, or None as soon as it is known to be above `limit` bytes.

        Raises `MalformedRequest` when the client stops sending before the end.
        """
        stated = self._headers.get("content-length")
        if stated is not None and int(stated) > limit:
            return None
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise MalformedRequest(_CUT_SHORT)
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                return None
        return body

    async def gone(self) -> None:
        """Return once the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Application:
    """What a server is given: callable as RSGI and as ASGI.

    handle: answers one request.
    start: begins to load the model; given the worker's event loop.
    close: finishes what was admitted; blocks.
    """

    def __init__(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        start: Callable[[asyncio.AbstractEventLoop], None],
        close: Callable[[], None],
    ) -> None:
        self._handle = handle
        self._start = start
        self._close = close

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to load the model; Granian calls this before it accepts connections."""
        self._start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish; Granian calls this once its connections have ended."""
        self._close()

    async def __rsgi__(self, scope: RsgiScope, proto: RSGIHTTPProtocol) -> None:
        """Answer one RSGI request."""
        request = RsgiRequest(scope, proto)
        response = await self._handle(request)
        proto.response_bytes(response.status, response.headers, response.body)
        if request.has_unread_body:
            await request.discard_body()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request, or run the lifespan protocol."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"nerve answers HTTP only, not {scope['type']}")
        response = await self._handle(AsgiRequest(scope, receive))
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
