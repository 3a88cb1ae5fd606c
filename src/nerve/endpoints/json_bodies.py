"""What the formats of other clients share: bodies that are JSON, limits on their texts, errors of one field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from nerve.endpoints.bodies import CURL_HINT, BodyReader
from nerve.endpoints.protocol import JSON_TYPE, ErrorForm
from nerve.errors import InvalidRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nerve.config import LimitsConfig
    from nerve.endpoints.protocol import Header

BodyT = TypeVar("BodyT", bound=msgspec.Struct)
# What the OpenAPI document says of a list; it is checked where the message can say what to do.
AT_LEAST_ONE = msgspec.Meta(extra_json_schema={"minItems": 1})
EXACTLY_ONE = msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": 1})
EMPTY = msgspec.Meta(extra_json_schema={"maxItems": 0})
_REF = "#/components/schemas/{name}"


def one_of(*values: str) -> msgspec.Meta:
    """Return what the OpenAPI document says of a string that is one of these."""
    return msgspec.Meta(extra_json_schema={"enum": list(values)})


class JsonBody(Generic[BodyT]):
    """Reads bodies of one type."""

    def __init__(self, body_type: type[BodyT]) -> None:
        self._type = body_type
        self._reader = BodyReader(body_type)

    def decode(self, body: bytes | bytearray) -> BodyT:
        """Decode a body. Raises `MalformedRequest` (not decodable) or `InvalidRequest` (wrong types or fields)."""
        return self._reader.read(body, msgpack=False)

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the JSON schema of the body, and those that it refers to."""
        (found,), schemas = msgspec.json.schema_components([self._type], ref_template=_REF)
        return found, schemas


def require_json(header: Header, *also: str) -> None:
    """Raise `UnsupportedMediaType` unless a body is JSON; one without a content type is. also: other types of it."""
    content_type = header("content-type")
    if content_type is None or content_type == JSON_TYPE:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (JSON_TYPE, "", *also):
        raise UnsupportedMediaType(f"header content-type must be {JSON_TYPE}; {CURL_HINT}")


def check_texts(texts: Sequence[str], field: str, limits: LimitsConfig) -> None:
    """Raise `InvalidRequest` for no text at all, and for more than a request may have."""
    if not texts:
        raise InvalidRequest(f"{field}: no text; send at least one")
    check_count(len(texts), field, limits)


def check_count(n_texts: int, field: str, limits: LimitsConfig) -> None:
    """Raise `InvalidRequest` for more texts than a request may have."""
    if n_texts > limits.max_inputs:
        raise InvalidRequest(
            f"{field}: {n_texts} texts, above limits.max_inputs = {limits.max_inputs}; send several requests"
        )


def error_in_field(name: str, statuses: Mapping[int, int] | None = None) -> ErrorForm:
    """Return the form of an error that is an object with one field, the message. statuses: see `ErrorForm`."""
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"}},
        "required": [name],
        "additionalProperties": False,
    }
    return ErrorForm(lambda message, _: msgspec.json.encode({name: message}), schema, statuses or {})
