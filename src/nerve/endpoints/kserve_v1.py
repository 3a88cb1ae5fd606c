"""`POST /v1/models/{name}:predict`: KServe's V1 protocol, which is TensorFlow Serving's.

https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from nerve.config import model_name
from nerve.endpoints.entity_options import EntityRow, encode_rows, entity_options, entity_rows
from nerve.endpoints.json_bodies import (
    AT_LEAST_ONE,
    JsonBody,
    check_texts,
    error_in_field,
    one_of,
    require_json,
)
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, GetRoute, PostRoute
from nerve.engine.codec import Query
from nerve.errors import InvalidRequest
from nerve.types import AggregationStrategy

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig, RuntimeConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_REF = "#/components/schemas/{name}"
_STRATEGY = one_of(
    *(member.value for member in AggregationStrategy if member is not AggregationStrategy.NONE)
)
# A wrong body is 400, whatever is wrong with it.
ERRORS = error_in_field("error", {422: 400})
_READY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ready": {"const": True}},
    "required": ["name", "ready"],
}
_MODELS = {
    "type": "object",
    "properties": {"models": {"type": "array", "items": {"type": "string"}}},
    "required": ["models"],
}


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text, where an instance is an object."""

    text: str


class InstanceParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the texts are classified."""

    aggregation_strategy: Annotated[str, _STRATEGY] | None = None


class InstancesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request: an instance is a text, or an object with one."""

    instances: Annotated[list[str | Instance], AT_LEAST_ONE]
    parameters: InstanceParameters | None = None


class InstancesQuery(Query, frozen=True):
    """What a request asks for."""

    def place(self, index: int) -> str:
        """See `Query`."""
        return f"instances[{index}]"


_body = JsonBody(InstancesRequest)


@dataclass(frozen=True, slots=True)
class InstancesCodec:
    """Reads instances and writes predictions, one each."""

    runtime: RuntimeConfig
    limits: LimitsConfig
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        request = _body.decode(body)
        texts = [each if isinstance(each, str) else each.text for each in request.instances]
        check_texts(texts, "instances", self.limits)
        strategy = None if request.parameters is None else request.parameters.aggregation_strategy
        options = entity_options(self.runtime, strategy)
        if options.aggregation_strategy is AggregationStrategy.NONE:
            raise InvalidRequest(
                "parameters.aggregation_strategy: this format has entities only; ask /predict_tokens for tokens"
            )
        return InstancesQuery(texts, options)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        return b'{"predictions":' + encode_rows([entity_rows(each) for each in rows]) + b"}"


class KServeV1:
    """The endpoint."""

    name = "kserve_v1"

    def __init__(self, config: Config) -> None:
        model = model_name(config.model)
        codec = InstancesCodec(config.runtime, config.limits)
        ready = msgspec.json.encode({"name": model, "ready": True})
        models = msgspec.json.encode({"models": [model]})
        self.routes = (
            predict_route(predict_path(config), codec, "Find the entities of each text, as KServe's V1 asks"),
            GetRoute(f"/v1/models/{model}", "Readiness", ready, _READY, is_health=True, errors=ERRORS),
            GetRoute("/v1/models", "The name of the model", models, _MODELS, when_ready=False, errors=ERRORS),
        )


def predict_path(config: Config) -> str:
    """Return the path that V1's texts are posted to."""
    return f"/v1/models/{model_name(config.model)}:predict"


def predict_route(path: str, codec: InstancesCodec, summary: str) -> PostRoute:
    """Return a route that takes this format."""

    def choose_codec(header: Header) -> InstancesCodec:
        require_json(header)
        return codec

    return PostRoute(path, choose_codec, lambda: _describe(summary), ERRORS)


def _describe(summary: str) -> Description:
    request, schemas = _body.schema()
    (entity,), rows = msgspec.json.schema_components([EntityRow], ref_template=_REF)
    entities = {"type": "array", "items": {"type": "array", "items": entity}}
    return Description(
        summary=summary,
        answer_text="The entities of each text",
        media_types=(JSON_TYPE,),
        request=request,
        answer={"type": "object", "properties": {"predictions": entities}, "required": ["predictions"]},
        schemas={**schemas, **rows},
        examples={"entities": {"instances": [EXAMPLE_TEXT, {"text": EXAMPLE_TEXT}]}},
    )
