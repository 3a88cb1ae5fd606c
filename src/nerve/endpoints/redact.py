"""`POST /redact`: texts without what was found in them, by model and by rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.config import Score
from nerve.config.operators import Operator
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
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.text.options import member_of
from nerve.text.redaction import Redacted
from nerve.types import EntityStrategy, OffsetUnit, PatternName

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.config import Config, LimitsConfig
    from nerve.engine.codec import Query
    from nerve.types import Row

# Items of an answer up to which it is encoded in one go, which holds the interpreter lock.
_MANY_ITEMS = 1_000
_REF = "#/components/schemas/{name}"


class RedactRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Body of `POST /redact`; fields that are left out, or null, take the default."""

    inputs: str | list[str | list[str]]
    aggregation_strategy: str | None = None
    labels: list[str] | None = None
    min_score: Score | dict[str, Score] | None = None
    patterns: list[str] | None = None
    operators: dict[str, Operator] | None = None
    offset_unit: str | None = None


_reader = BodyReader(RedactRequest)


@dataclass(frozen=True, slots=True)
class RedactCodec(BodyCodec):
    """Reads and writes one request."""

    defaults: EntityDefaults
    limits: LimitsConfig

    def decode(self, body: bytes | bytearray) -> RedactQuery:
        """See `Codec`."""
        request = _reader.read(body, msgpack=self.reads_msgpack)
        unit = request.offset_unit
        return self.defaults.redact_query(
            texts_of(request.inputs, self.limits),
            request.aggregation_strategy,
            request.labels,
            request.min_score,
            request.patterns,
            request.operators,
            None if unit is None else member_of(OffsetUnit, unit, "offset_unit"),
        )

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, RedactQuery)  # noqa: S101 - of `decode` above
        return encode_redacted(list(query.redacted(rows)), msgpack=self.writes_msgpack)


class RedactEndpoint:
    """The endpoint."""

    name = "redact"
    routes = ("/redact",)

    def __init__(self, config: Config) -> None:
        self._limits = config.limits
        self._codecs = BodyCodecs(partial(RedactCodec, EntityDefaults(config), config.limits))

    def choose_codec(self, header: Callable[[str], str | None]) -> RedactCodec:
        """See `Endpoint`."""
        return self._codecs.choose(header)

    def describe(self) -> Description:
        """See `Endpoint`."""
        (request, answer), schemas = msgspec.json.schema_components(
            [RedactRequest, Redacted], ref_template=_REF
        )
        properties: dict[str, Any] = schemas["RedactRequest"]["properties"]
        properties["inputs"] = describe_inputs(self._limits)
        for name, members in (("aggregation_strategy", EntityStrategy), ("offset_unit", OffsetUnit)):
            properties[name] = {"enum": [*(member.value for member in members), None]}
        names = {"type": "array", "items": {"enum": [name.value for name in PatternName]}}
        properties["patterns"] = {"anyOf": [names, {"type": "null"}], "default": None}
        describe_nulls(properties)
        return Description(
            summary="Write one or more texts without the entities in them",
            answer_text="One object per text: the text, and what was found where",
            media_types=(JSON_TYPE, MSGPACK_TYPE),
            request=request,
            answer={"type": "array", "items": answer},
            schemas=schemas,
            examples={
                "redact": {"inputs": EXAMPLE_TEXT},
                "number": {"inputs": [EXAMPLE_TEXT], "operators": {"DEFAULT": {"type": "number"}}},
            },
        )


def encode_redacted(texts: list[Redacted], *, msgpack: bool) -> bytes:
    """Encode the answer; a large one in parts, since a call holds the interpreter lock throughout."""
    if sum(len(text.items) for text in texts) <= _MANY_ITEMS:
        return encode_value(texts, msgpack=msgpack)
    return join_list([_encode_text(text, msgpack=msgpack) for text in texts], msgpack=msgpack)


def _encode_text(redacted: Redacted, *, msgpack: bool) -> bytes:
    text = encode_value(redacted.text, msgpack=msgpack)
    items = encode_list(redacted.items, msgpack=msgpack)
    if msgpack:  # a map of two pairs; https://github.com/msgpack/msgpack/blob/master/spec.md
        return b"\x82\xa4text" + text + b"\xa5items" + items
    return b'{"text":' + text + b',"items":' + items + b"}"
