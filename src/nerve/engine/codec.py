"""What the engine needs of a wire format: to read a request, and to write its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from nerve.types import PredictOptions, Row


class Query(msgspec.Struct, frozen=True):
    """What a request asks for. A format that needs more to write its answer adds fields in a subclass."""

    texts: list[str]
    options: PredictOptions


class Codec(Protocol):
    """Reads one request and writes its answer; chosen by an endpoint from the request's headers."""

    @property
    def media_type(self) -> str:
        """Content type of the answer."""

    def decode(self, body: bytes | bytearray) -> Query:
        """Read a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types, fields, values)."""

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """Write the answer; rows: one list per text."""
