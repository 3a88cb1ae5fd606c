"""`POST /pipeline/token-classification`: the token classification task of Hugging Face's clients.

As huggingface_hub's `InferenceClient(model=URL).token_classification` and huggingface.js send it:
https://github.com/huggingface/huggingface.js/tree/main/packages/tasks/src/tasks/token-classification/spec
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from nerve.endpoints.bodies import encode_list
from nerve.endpoints.entity_options import (
    EntityRow,
    TokenRow,
    encode_rows,
    entity_options,
    entity_rows,
    token_rows,
)
from nerve.endpoints.json_bodies import AT_LEAST_ONE, JsonBody, check_texts, one_of, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description
from nerve.engine.codec import Query
from nerve.errors import InvalidRequest
from nerve.text.labels import OUTSIDE
from nerve.types import AggregationStrategy

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig, RuntimeConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_REF = "#/components/schemas/{name}"
_STRATEGY = one_of(*(member.value for member in AggregationStrategy))


class HuggingFaceParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the texts are classified.

    ignore_labels: those of which nothing is answered; O where it is left out. stride: taken, and without effect: what
    windows share is the server's to say.
    """

    aggregation_strategy: Annotated[str, _STRATEGY] | None = None
    ignore_labels: list[str] | None = None
    stride: Annotated[int, msgspec.Meta(ge=0)] | None = None


class HuggingFaceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request; `options` are of Hugging Face's own servers, and without effect."""

    inputs: str | Annotated[list[str], AT_LEAST_ONE]
    parameters: HuggingFaceParameters | None = None
    options: dict[str, Any] | None = None


class HuggingFaceQuery(Query, frozen=True):
    """What a request asks for. is_list: the answer is a list for each text. ignored: labels that are left out."""

    is_list: bool
    ignored: frozenset[str]

    def place(self, index: int) -> str:
        """See `Query`."""
        return f"inputs[{index}]" if self.is_list else "inputs"


_body = JsonBody(HuggingFaceRequest)
_DEFAULTS = HuggingFaceParameters()


@dataclass(frozen=True, slots=True)
class HuggingFaceCodec:
    """Reads and writes one request."""

    runtime: RuntimeConfig
    limits: LimitsConfig
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        request = _body.decode(body)
        is_list = not isinstance(request.inputs, str)
        texts = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        check_texts(texts, "inputs", self.limits)
        parameters = request.parameters or _DEFAULTS
        strategy = parameters.aggregation_strategy or AggregationStrategy.SIMPLE.value
        options = entity_options(self.runtime, strategy)
        ignored = frozenset((OUTSIDE,) if parameters.ignore_labels is None else parameters.ignore_labels)
        if OUTSIDE not in ignored and strategy != AggregationStrategy.NONE.value:
            raise InvalidRequest(
                f"parameters.ignore_labels: with an aggregation_strategy what is no entity is never answered; add "
                f"{OUTSIDE}, or ask for aggregation_strategy none"
            )
        return HuggingFaceQuery(texts, options, is_list, ignored)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, HuggingFaceQuery)  # noqa: S101 - `decode` has made it
        ignored = query.ignored
        found: list[list[Any]]
        if query.options.aggregation_strategy is AggregationStrategy.NONE:
            found = [[row for row in token_rows(each) if row.entity not in ignored] for each in rows]
        else:
            found = [[row for row in entity_rows(each) if row.entity_group not in ignored] for each in rows]
        return encode_rows(found) if query.is_list else encode_list(found[0], msgpack=False)


class HuggingFace:
    """The endpoint."""

    name = "huggingface"
    routes = ("/pipeline/token-classification",)

    def __init__(self, config: Config) -> None:
        self._codec = HuggingFaceCodec(config.runtime, config.limits)

    def choose_codec(self, header: Header) -> HuggingFaceCodec:
        """See `SimpleEndpoint`."""
        require_json(header)
        return self._codec

    def describe(self) -> Description:
        """See `SimpleEndpoint`."""
        return describe("Find the entities of one or more texts, as clients of Hugging Face ask for them")


def describe(summary: str) -> Description:
    """Describe a route that takes this format."""
    request, schemas = _body.schema()
    (entity, token), rows = msgspec.json.schema_components([EntityRow, TokenRow], ref_template=_REF)
    each = {"type": "array", "items": {"anyOf": [entity, token]}}
    return Description(
        summary=summary,
        answer_text="The entities of a text; a list of them for each text of a list",
        media_types=(JSON_TYPE,),
        request=request,
        answer={"anyOf": [each, {"type": "array", "items": each}]},
        schemas={**schemas, **rows},
        examples={
            "entities": {"inputs": EXAMPLE_TEXT},
            "tokens": {"inputs": [EXAMPLE_TEXT], "parameters": {"aggregation_strategy": "none"}},
        },
    )
