"""What the engine needs of a wire format: to read a request, and to write its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from nerve.types import FloatArray, PredictOptions, Row


class Query(msgspec.Struct, frozen=True):
    """What a request asks for. A format that needs more to write its answer adds fields in a subclass."""

    texts: list[str]
    options: PredictOptions

    def place(self, index: int) -> str:
        """Return where a text stands in the request, as its format names it."""
        return f"inputs[{index}]"


class IdQuery(msgspec.Struct, frozen=True):
    """What a request asks for that has token ids, as a client's own tokenizer gave them.

    ids: of each sequence, special tokens included, padding not; at least one each.
    write: makes the answer of the logits of each sequence, float32 (T, L).
    """

    ids: list[list[int]]
    write: Callable[[list[FloatArray]], bytes]


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request that has nothing for the model. write: makes it; what it raises is the answer."""

    write: Callable[[], bytes]


class Codec(Protocol):
    """Reads one request and writes its answer; chosen by an endpoint from the request's headers."""

    @property
    def media_type(self) -> str:
        """Content type of the answer."""

    def decode(self, body: bytes | bytearray) -> Query | IdQuery | Reply:
        """Read a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types, fields, values)."""

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """Write the answer to a `Query`; rows: one list per text."""
