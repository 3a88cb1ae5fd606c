"""`POST /predict_tokens`: the JSON and MessagePack of Baseten's BEI, and what nerve adds to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.config import Score
from nerve.endpoints.bodies import (
    MSGPACK_TYPE,
    BodyCodec,
    BodyCodecs,
    BodyReader,
    describe_inputs,
    describe_nulls,
    encode_list,
    encode_value,
    join_list,
    texts_of,
)
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description
from nerve.engine.codec import Query
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

# Rows of an answer up to which it is encoded in one go, which holds the interpreter lock: some 0.3 ms.
_MANY_ROWS = 1_000
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


_reader = BodyReader(PredictRequest)


@dataclass(frozen=True, slots=True)
class PredictTokensCodec(BodyCodec):
    """Reads and writes one request."""

    runtime: RuntimeConfig
    limits: LimitsConfig

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
        self._codecs = BodyCodecs(partial(PredictTokensCodec, config.runtime, config.limits))

    def choose_codec(self, header: Callable[[str], str | None]) -> PredictTokensCodec:
        """See `Endpoint`."""
        return self._codecs.choose(header)

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
            examples={
                "tokens": {"inputs": EXAMPLE_TEXT},
                "entities": {"inputs": [EXAMPLE_TEXT], "aggregation_strategy": "first"},
            },
        )


def _describe_fields(properties: dict[str, Any], limits: LimitsConfig) -> None:
    """Write down what the types of a request's fields do not say."""
    properties["inputs"] = describe_inputs(limits)
    for name, members in (("aggregation_strategy", AggregationStrategy), ("offset_unit", OffsetUnit)):
        properties[name] = {"enum": [*(member.value for member in members), None]}
    direction = {"type": "string", "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$"}
    properties["truncation_direction"] = {"anyOf": [direction, {"type": "null"}], "default": "Right"}
    describe_nulls(properties)


def decode_request(body: bytes | bytearray, *, msgpack: bool) -> PredictRequest:
    """Decode a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types or fields)."""
    return _reader.read(body, msgpack=msgpack)


def resolve_request(
    request: PredictRequest, runtime: RuntimeConfig, limits: LimitsConfig
) -> tuple[list[str], PredictOptions]:
    """Return the flat list of texts and the options, defaults filled in.

    Raises `InvalidRequest` naming the field and the limit.
    """
    texts = texts_of(request.inputs, limits)
    filters = runtime.labels is not None or runtime.min_score != 0
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
        filter=choose_filter(runtime, strategy, request.labels, request.min_score)
        if filters or request.labels is not None or request.min_score is not None
        else None,
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
        return encode_value(rows, msgpack=msgpack)
    return join_list([encode_list(text, msgpack=msgpack) for text in rows], msgpack=msgpack)
