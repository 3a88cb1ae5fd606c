"""`POST /predict_tokens`: the JSON and MessagePack of Baseten's BEI, and what nerve adds to them.

`msgspec` checks types while it parses. Its messages are rewritten here, because they can quote what the
client sent, and a client may send personal data in any place, even as the name of a field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.config import Score
from nerve.endpoints.protocol import JSON_TYPE, Description
from nerve.engine.codec import Query
from nerve.errors import InvalidRequest, MalformedRequest, UnsupportedMediaType
from nerve.text.filters import choose_filter
from nerve.text.options import member_of
from nerve.types import (
    AggregationStrategy,
    OffsetUnit,
    PredictOptions,
    Row,
    TruncationDirection,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.config import Config, LimitsConfig, RuntimeConfig

MSGPACK_TYPE = "application/msgpack"
_MSGPACK_TYPES = frozenset({MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"})
# Rows of an answer up to which it is encoded in one go, which holds the interpreter lock: some 0.3 ms.
_MANY_ROWS = 1_000
# Rows of a text that are encoded in one go in a larger answer.
_FEW_ROWS = 64
_REF = "#/components/schemas/{name}"


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Body of `POST /predict_tokens`; fields that are left out, or null, take the default."""

    inputs: str | list[str | list[str]]
    truncate: bool | None = None
    truncation_direction: str | None = None
    raw_scores: bool | None = None
    aggregation_strategy: str | None = None
    offset_unit: str | None = None
    labels: list[str] | None = None
    min_score: Score | dict[str, Score] | None = None


KNOWN_FIELDS = ", ".join(field.name for field in msgspec.structs.fields(PredictRequest))

_json_decoder = msgspec.json.Decoder(PredictRequest)
_msgpack_decoder = msgspec.msgpack.Decoder(PredictRequest)
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class PredictTokensCodec:
    """Reads and writes one request; which of the two encodings is decided for each way."""

    runtime: RuntimeConfig
    limits: LimitsConfig
    reads_msgpack: bool
    writes_msgpack: bool

    @property
    def media_type(self) -> str:
        """See `Codec`."""
        return MSGPACK_TYPE if self.writes_msgpack else JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        return Query(
            *resolve_request(decode_request(body, msgpack=self.reads_msgpack), self.runtime, self.limits)
        )

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        return encode_rows(rows, msgpack=self.writes_msgpack)


class PredictTokens:
    """The endpoint."""

    name = "predict_tokens"
    routes = ("/predict_tokens",)

    def __init__(self, config: Config) -> None:
        self._limits = config.limits
        self._codecs = {
            (reads, writes): PredictTokensCodec(config.runtime, config.limits, reads, writes)
            for reads in (False, True)
            for writes in (False, True)
        }

    def choose_codec(self, header: Callable[[str], str | None]) -> PredictTokensCodec:
        """See `Endpoint`."""
        return self._codecs[is_msgpack(header("content-type")), wants_msgpack(header("accept"))]

    def describe(self) -> Description:
        """See `Endpoint`."""
        (request, row), schemas = msgspec.json.schema_components([PredictRequest, Row], ref_template=_REF)
        _describe_fields(schemas["PredictRequest"]["properties"], self._limits)
        return Description(
            summary="Classify the tokens, or find the entities, of one or more texts",
            answer_text="One list per text, of one row per token or entity",
            media_types=(JSON_TYPE, MSGPACK_TYPE),
            request=request,
            answer={"type": "array", "items": {"type": "array", "items": row}},
            schemas=schemas,
        )


def _describe_fields(properties: dict[str, Any], limits: LimitsConfig) -> None:
    """Write down what the types of a request's fields do not say."""
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": limits.max_inputs}
    properties["inputs"] = {
        "description": f"Texts, {limits.max_inputs} at most in all; nested lists are flattened in order",
        "anyOf": [
            {"type": "string"},
            {**texts, "minItems": 1},
            {"type": "array", "items": texts, "contains": {"type": "array", "minItems": 1}},
        ],
    }
    for name, members in (("aggregation_strategy", AggregationStrategy), ("offset_unit", OffsetUnit)):
        properties[name] = {"enum": [*(member.value for member in members), None]}
    direction = {"type": "string", "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$"}
    properties["truncation_direction"] = {"anyOf": [direction, {"type": "null"}], "default": "Right"}
    for name, described in properties.items():
        if name != "inputs":
            described.setdefault("description", "null counts as absent")


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
    raise UnsupportedMediaType(f"content-type must be {JSON_TYPE} or {MSGPACK_TYPE}")


def wants_msgpack(accept: str | None) -> bool:
    """Tell whether `Accept` prefers a MessagePack type to JSON: named before it, or with a higher q."""
    if accept is None or "msgpack" not in accept.lower():
        return False
    best_msgpack = best_json = 0.0
    first = ""
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = _quality(parameters)
        if media_type in _MSGPACK_TYPES:
            best_msgpack = max(best_msgpack, quality)
            first = first or "msgpack"
        elif media_type == JSON_TYPE:
            best_json = max(best_json, quality)
            first = first or "json"
    return best_msgpack > 0 and (
        best_msgpack > best_json or (best_msgpack == best_json and first == "msgpack")
    )


def decode_request(body: bytes | bytearray, *, msgpack: bool) -> PredictRequest:
    """Decode a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types or fields)."""
    decoder = _msgpack_decoder if msgpack else _json_decoder
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _check_well_formed(body, msgpack=msgpack)
        raise InvalidRequest(_explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed(msgpack=msgpack) from None


def resolve_request(
    request: PredictRequest, runtime: RuntimeConfig, limits: LimitsConfig
) -> tuple[list[str], PredictOptions]:
    """Return the flat list of texts and the options, defaults filled in.

    Raises `InvalidRequest` naming the field and the limit.
    """
    texts = _flatten(request.inputs)
    if not texts:
        raise InvalidRequest("inputs: no text; send at least one")
    if len(texts) > limits.max_inputs:
        raise InvalidRequest(
            f"inputs: {len(texts)} texts, above limits.max_inputs = {limits.max_inputs}; send several requests"
        )
    strategy, unit, direction = _choices(
        request.aggregation_strategy, request.offset_unit, request.truncation_direction
    )
    if strategy is None:
        strategy = runtime.aggregation_strategy
    options = PredictOptions(
        aggregation_strategy=strategy,
        truncate=runtime.truncate if request.truncate is None else request.truncate,
        truncation_direction=direction,
        raw_scores=runtime.raw_scores if request.raw_scores is None else request.raw_scores,
        raw_scores_as=runtime.raw_scores_as,
        offset_unit=runtime.offset_unit if unit is None else unit,
        to_encode=True,
        filter=choose_filter(runtime, strategy, request.labels, request.min_score),
    )
    return texts, options


@lru_cache(maxsize=256)  # of known values only: others raise. Enumerations are slow to look up
def _choices(
    strategy: str | None, unit: str | None, direction: str | None
) -> tuple[AggregationStrategy | None, OffsetUnit | None, TruncationDirection]:
    """Read what a request chooses by name; None for what it leaves to the configuration."""
    return (
        None if strategy is None else member_of(AggregationStrategy, strategy, "aggregation_strategy"),
        None if unit is None else member_of(OffsetUnit, unit, "offset_unit"),
        TruncationDirection.RIGHT
        if direction is None
        else member_of(TruncationDirection, direction.lower(), "truncation_direction"),
    )


def encode_rows(rows: list[list[Row]], *, msgpack: bool) -> bytes:
    """Encode the answer to a prediction; a large one in parts, since a call holds the interpreter lock throughout."""
    if sum(map(len, rows)) <= _MANY_ROWS:
        return _msgpack_encoder.encode(rows) if msgpack else _json_encoder.encode(rows)
    if msgpack:
        return _array_header(len(rows)) + b"".join([_encode_msgpack(text) for text in rows])
    return b"[" + b",".join([_encode_json(text) for text in rows]) + b"]"


def _encode_json(text: list[Row]) -> bytes:
    if len(text) <= _FEW_ROWS:
        return _json_encoder.encode(text)
    return b"[" + b",".join([_json_encoder.encode(row) for row in text]) + b"]"


def _encode_msgpack(text: list[Row]) -> bytes:
    if len(text) <= _FEW_ROWS:
        return _msgpack_encoder.encode(text)
    return _array_header(len(text)) + b"".join([_msgpack_encoder.encode(row) for row in text])


def _array_header(length: int) -> bytes:
    """Return MessagePack's `array 32` header; https://github.com/msgpack/msgpack/blob/master/spec.md."""
    return struct.pack(">BI", 0xDD, length)


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


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _check_well_formed(body: bytes | bytearray, *, msgpack: bool) -> None:
    """Raise `MalformedRequest` when the whole body cannot be decoded; the typed decoder stops early."""
    try:
        (msgspec.msgpack if msgpack else msgspec.json).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise _malformed(msgpack=msgpack) from None


def _malformed(*, msgpack: bool) -> MalformedRequest:
    kind = "MessagePack" if msgpack else "JSON in UTF-8"
    return MalformedRequest(f"the body is not valid {kind}, or is cut short")


def _explain(message: str) -> str:
    """Rewrite msgspec's message without anything that the client sent."""
    if "unknown field" in message:
        return f"the body has an unknown field; known fields: {KNOWN_FIELDS}"
    if "missing required field" in message:
        return f"inputs: required, but missing; known fields: {KNOWN_FIELDS}"
    text, _, where = message.replace(" | null`", "`").partition(" - at `$")
    path = where.rstrip("`").lstrip(".") or "the body"
    return f"{path}: {text[0].lower()}{text[1:]}"
