"""Teaches Schemathesis MessagePack, for request bodies and answers."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis


@schemathesis.serializer("application/msgpack")
def to_msgpack(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Encode a generated body; numbers beyond 64 bits become text, for MessagePack has none."""
    return msgspec.msgpack.encode(_within_64_bits(value))


@schemathesis.deserializer("application/msgpack")
def from_msgpack(ctx: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """Decode an answer."""
    return msgspec.msgpack.decode(response.content)


def _within_64_bits(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_64_bits(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
