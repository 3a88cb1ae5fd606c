"""What formats with a body of nerve's own share: JSON or MessagePack, checked fields and texts."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from nerve.accept import read_choices
from nerve.endpoints.explaining import explain
from nerve.endpoints.protocol import JSON_TYPE
from nerve.errors import InvalidRequest, MalformedRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.config import LimitsConfig

MSGPACK_TYPE = "application/msgpack"
# curl says of any body that it is a form.
CURL_HINT = f"with curl: -H 'content-type: {JSON_TYPE}'"
_MSGPACK_TYPES = frozenset({MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"})

# Values of a list up to which it is encoded in one go.
_FEW = 64
# Where msgspec says that a body breaks off from what it should be.
_PLACE = re.compile(r"\(byte (\d+)\)$")

CodecT = TypeVar("CodecT", bound="BodyCodec")
RequestT = TypeVar("RequestT", bound=msgspec.Struct)

_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


def is_msgpack(content_type: str | None) -> bool:
    """Tell whether a request body is MessagePack; a missing content type is JSON.

    Raises `UnsupportedMediaType` for anything else.
    """
    if content_type is None or content_type == JSON_TYPE:
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _MSGPACK_TYPES:
        return True
    if media_type in (JSON_TYPE, ""):
        return False
    raise UnsupportedMediaType(f"header content-type must be {JSON_TYPE} or {MSGPACK_TYPE}; {CURL_HINT}")


def wants_msgpack(accept: str | None) -> bool:
    """Tell whether `Accept` prefers a MessagePack type to JSON: named before it, or with a higher q."""
    if accept is None or "msgpack" not in accept.lower():
        return False
    best_msgpack = best_json = 0.0
    first = ""
    for media_type, quality in read_choices(accept):
        if media_type in _MSGPACK_TYPES:
            best_msgpack = max(best_msgpack, quality)
            first = first or "msgpack"
        elif media_type == JSON_TYPE:
            best_json = max(best_json, quality)
            first = first or "json"
    return best_msgpack > 0 and (
        best_msgpack > best_json or (best_msgpack == best_json and first == "msgpack")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyCodec:
    """A codec of one request with the encodings of its two ways."""

    reads_msgpack: bool
    writes_msgpack: bool

    @property
    def media_type(self) -> str:
        """See `Codec`."""
        return MSGPACK_TYPE if self.writes_msgpack else JSON_TYPE


class BodyCodecs(Generic[CodecT]):
    """The codecs of an endpoint, one for each pair of encodings; `make` takes the two fields of `BodyCodec`."""

    def __init__(self, make: Callable[..., CodecT]) -> None:
        self._codecs = {
            (reads, writes): make(reads_msgpack=reads, writes_msgpack=writes)
            for reads in (False, True)
            for writes in (False, True)
        }

    def choose(self, header: Callable[[str], str | None]) -> CodecT:
        """Return the codec for a request with these headers. Raises `UnsupportedMediaType`."""
        return self._codecs[is_msgpack(header("content-type")), wants_msgpack(header("accept"))]


class BodyReader(Generic[RequestT]):
    """Decodes bodies that are `kind`."""

    def __init__(self, kind: type[RequestT]) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._kind = kind

    def read(self, body: bytes | bytearray, *, msgpack: bool) -> RequestT:
        """Decode a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types or fields)."""
        try:
            return self._msgpack.decode(body) if msgpack else self._json.decode(body)
        except msgspec.ValidationError as error:
            _check_well_formed(body, msgpack=msgpack)
            raise InvalidRequest(explain(str(error), self._kind)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _malformed(body, error, msgpack=msgpack) from None


def texts_of(inputs: str | list[str | list[str]], limits: LimitsConfig) -> list[str]:
    """Return the flat list of texts. Raises `InvalidRequest` where there are none, or too many."""
    texts = _flatten(inputs)
    if not texts:
        raise InvalidRequest("inputs: no text; send at least one")
    if len(texts) > limits.max_inputs:
        raise InvalidRequest(
            f"inputs: {len(texts)} texts, above limits.max_inputs = {limits.max_inputs}; send several requests"
        )
    return texts


def describe_inputs(limits: LimitsConfig) -> dict[str, Any]:
    """Return the JSON schema of the field `inputs`."""
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": limits.max_inputs}
    return {
        "description": f"Texts, {limits.max_inputs} at most in all; nested lists are flattened in order",
        "anyOf": [
            {"type": "string"},
            {**texts, "minItems": 1},
            {"type": "array", "items": texts, "contains": {"type": "array", "minItems": 1}},
        ],
    }


def describe_nulls(properties: dict[str, Any]) -> None:
    """Say of every field but `inputs` that it may be null."""
    for name, described in properties.items():
        if name != "inputs":
            described.setdefault("description", "null counts as absent")


def encode_value(value: object, *, msgpack: bool) -> bytes:
    """Encode in one go."""
    return _msgpack_encoder.encode(value) if msgpack else _json_encoder.encode(value)


def encode_list(values: Sequence[object], *, msgpack: bool) -> bytes:
    """Encode a list; a long one in parts, since a call holds the interpreter lock throughout."""
    if len(values) <= _FEW:
        return encode_value(values, msgpack=msgpack)
    return join_list([encode_value(value, msgpack=msgpack) for value in values], msgpack=msgpack)


def join_list(encoded: Sequence[bytes], *, msgpack: bool) -> bytes:
    """Return the list of values that are encoded already."""
    if msgpack:
        return _array_header(len(encoded)) + b"".join(encoded)
    return b"[" + b",".join(encoded) + b"]"


def _flatten(inputs: str | list[str | list[str]]) -> list[str]:
    """Flatten nested inputs in order; raises `InvalidRequest` when strings and lists are mixed."""
    if isinstance(inputs, str):
        return [inputs]
    texts = [item for item in inputs if isinstance(item, str)]
    if len(texts) == len(inputs):
        return texts
    if texts:
        raise InvalidRequest("inputs: strings and lists are mixed; send a list of strings or a list of lists")
    return [text for item in inputs for text in item]


def _check_well_formed(body: bytes | bytearray, *, msgpack: bool) -> None:
    """Raise `MalformedRequest` when the whole body cannot be decoded; the typed decoder stops early."""
    try:
        (msgspec.msgpack if msgpack else msgspec.json).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _malformed(body, error, msgpack=msgpack) from None


def _malformed(body: bytes | bytearray, error: Exception, *, msgpack: bool) -> MalformedRequest:
    kind = "MessagePack" if msgpack else "JSON in UTF-8"
    if not body:
        return MalformedRequest(f"the body is empty; send {kind}")
    found = _PLACE.search(str(error)) if isinstance(error, msgspec.DecodeError) else None
    place = f"; see byte {found[1]} of {len(body)}" if found else ""
    return MalformedRequest(f"the body is not valid {kind}, or is cut short{place}")


def _array_header(length: int) -> bytes:
    """Return MessagePack's `array 32` header; https://github.com/msgpack/msgpack/blob/master/spec.md."""
    return struct.pack(">BI", 0xDD, length)
