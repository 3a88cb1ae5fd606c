"""A request and its answer, whatever the server's interface (`rsgi`, `asgi`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from nerve.errors import MalformedRequest
from nerve.observability.defects import survive

if TYPE_CHECKING:
    from nerve.types import Summary

Headers = list[tuple[str, str]]
Body = bytes | bytearray
OnBody = Callable[[Body | None, Exception | None], None]

# Ports of clients that speak HTTP/2; whoever looks after connections takes away those that have left.
multiplexed_ports: set[int] = set()

_MOST_DIGITS = 18
# Of the `MalformedRequest` when the client stopped sending before the end.
CUT_SHORT = "the body is cut short; send as many bytes as content-length states"


def stated_length(value: str | None) -> int | None:
    """Return how many bytes a `content-length` states, None where there is none. Raises `MalformedRequest`.

    Several values must be the same one (RFC 9110, 8.6).
    """
    if value is None:
        return None
    values = {part.strip() for part in value.split(",")}
    length = values.pop()
    if values or not length.isascii() or not length.isdigit():
        raise MalformedRequest("content-length must be one whole number of bytes")
    return int(length) if len(length) <= _MOST_DIGITS else sys.maxsize


class Response(msgspec.Struct):
    """An answer, ready to be sent.

    rejection: the reason of one that is no answer, for metrics and logs. summary: of the prediction, for traces and
    logs. encode_seconds: what it took to write the body of a prediction.
    """

    status: int
    headers: Headers
    body: bytes
    rejection: str | None = None
    summary: Summary | None = None
    encode_seconds: float = 0.0

    @property
    def request_id(self) -> str:
        """The id that the answer carries; every answer has one."""
        return next(value for name, value in self.headers if name == "x-request-id")


class Request(Protocol):
    """What is needed of a request, whatever the server's interface. Any thread may call its methods."""

    @property
    def method(self) -> str:
        """HTTP method, upper case."""

    @property
    def path(self) -> str:
        """Path without the query string."""

    @property
    def client_port(self) -> int:
        """Port that the client connects from; 0 where there is none."""

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""

    def read(self, limit: int, then: OnBody) -> None:
        """Read the body and give it to `then`, or None as soon as it is known to be above `limit` bytes.

        The error, if there is one, is a `MalformedRequest`: the client stopped sending before the end.
        """

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client leaves before it is answered."""

    def respond(self, response: Response) -> None:
        """Send the answer, once; ends what was begun for this request. Never raises; a second answer is dropped."""


Handler = Callable[[Request], None]


class ForwardedRequest:
    """A request that passes everything on: a base for what looks on, and must not cost anybody an answer."""

    __slots__ = ("_request", "method", "path")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.method = request.method
        self.path = request.path

    @property
    def client_port(self) -> int:
        """See `Request`."""
        return self._request.client_port

    def header(self, name: str) -> str | None:
        """See `Request`."""
        return self._request.header(name)

    def read(self, limit: int, then: OnBody) -> None:
        """See `Request`."""
        self._request.read(limit, then)

    def watch(self, gone: Callable[[], None]) -> None:
        """See `Request`."""
        self._request.watch(gone)

    def respond(self, response: Response) -> None:
        """See `Request`."""
        self._request.respond(response)
        survive(partial(self.answered, response), f"in {type(self).__name__}")

    def answered(self, response: Response) -> None:
        """Note an answer that was sent."""
