"""`POST /beta/litellm_basic_guardrail_api`: the generic guardrail of the LiteLLM gateway.

LiteLLM takes anything but 200 as a reason to stop the request, unless it was told otherwise.
https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.config import Score
from nerve.config.operators import Operator
from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import JsonBody, check_count, require_json
from nerve.endpoints.protocol import JSON_TYPE, Description
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_REF = "#/components/schemas/{name}"
_MASK, _BLOCK = "mask", "block"
_encode = msgspec.json.Encoder().encode


class GuardrailParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gateway's configuration may say: `additional_provider_specific_params`.

    on_found: `mask`, or `block` to stop the request. labels, min_score, operators: as those of /redact.
    """

    on_found: str | None = None
    labels: list[str] | None = None
    min_score: Score | dict[str, Score] | None = None
    operators: dict[str, Operator] | None = None


class GuardrailRequest(msgspec.Struct, frozen=True):
    """A request; LiteLLM sends more fields with each version, which mean nothing here."""

    texts: list[str] | None
    input_type: str | None = None
    additional_provider_specific_params: GuardrailParameters | None = None


class GuardrailAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of the texts: NONE, GUARDRAIL_INTERVENED with new ones, or BLOCKED."""

    action: str
    texts: list[str] | None = None
    blocked_reason: str | None = None


class GuardrailQuery(RedactQuery, frozen=True):
    """What a request asks for. blocks: an entity stops the request."""

    blocks: bool


_body = JsonBody(GuardrailRequest)
_DEFAULTS = GuardrailParameters()
_NOTHING = _encode(GuardrailAnswer("NONE"))


@dataclass(frozen=True, slots=True)
class GuardrailCodec:
    """Reads and writes one request."""

    defaults: EntityDefaults
    limits: LimitsConfig
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query | Reply:
        """See `Codec`."""
        request = _body.decode(body)
        texts = request.texts or []
        chosen = request.additional_provider_specific_params or _DEFAULTS
        if chosen.on_found not in (None, _MASK, _BLOCK):
            raise InvalidRequest(
                "additional_provider_specific_params.on_found: unknown value; known values: mask, block"
            )
        if not texts:  # images or calls of tools alone
            return Reply(lambda: _NOTHING)
        check_count(len(texts), "texts", self.limits)
        query = self.defaults.redact_query(
            texts, labels=chosen.labels, min_score=chosen.min_score, operators=chosen.operators
        )
        return extend(GuardrailQuery, query, chosen.on_found == _BLOCK)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, GuardrailQuery)  # noqa: S101 - `decode` has made it
        redacted = list(query.redacted(rows))
        labels = sorted({item.label for each in redacted for item in each.items})
        if not labels:
            return _NOTHING
        if query.blocks:
            return _encode(GuardrailAnswer("BLOCKED", blocked_reason=f"the text has: {', '.join(labels)}"))
        return _encode(GuardrailAnswer("GUARDRAIL_INTERVENED", texts=[each.text for each in redacted]))


class LiteLlm:
    """The endpoint."""

    name = "litellm"
    routes = ("/beta/litellm_basic_guardrail_api",)

    def __init__(self, config: Config) -> None:
        self._codec = GuardrailCodec(EntityDefaults(config), config.limits)

    def choose_codec(self, header: Header) -> GuardrailCodec:
        """See `SimpleEndpoint`."""
        require_json(header)
        return self._codec

    def describe(self) -> Description:
        """See `SimpleEndpoint`."""
        request, schemas = _body.schema()
        (answer,), answers = msgspec.json.schema_components([GuardrailAnswer], ref_template=_REF)
        properties: dict[str, Any] = answers["GuardrailAnswer"]["properties"]
        properties["action"] = {"enum": ["NONE", "GUARDRAIL_INTERVENED", "BLOCKED"]}
        return Description(
            summary="Mask or block texts of a conversation, as a guardrail of LiteLLM",
            answer_text="What becomes of the texts",
            media_types=(JSON_TYPE,),
            request=request,
            answer=answer,
            schemas={**schemas, **answers},
        )
