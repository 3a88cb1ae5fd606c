"""`POST /beta/litellm_basic_guardrail_api`: the generic guardrail of the LiteLLM gateway.

LiteLLM takes anything but 200 as a reason to stop the request, unless it was told otherwise. `texts` hold what messages
say; the arguments of calls of tools stand in `structured_messages` alone, which LiteLLM takes back for a prompt. Of a
model's answer it takes back texts only, so that the calls in it are not looked at.
https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from nerve.config import Score
from nerve.config.operators import Operator
from nerve.endpoints.conversations import rewrite
from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import JsonBody, check_count, one_of, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_REF = "#/components/schemas/{name}"
_MASK, _BLOCK = "mask", "block"
_PARAMETERS = "additional_provider_specific_params"
# A sentence has ended where the next one, or a line, has begun; a point after a letter or two is of a name.
_SENTENCE_ENDS = re.compile(r"(?<=\w\w\w)[.!?][\"')\]]?\s+(?=\S)|[\u3002\uff01\uff1f]|\n+")
_encode = msgspec.json.Encoder().encode


class GuardrailParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gateway's configuration may say: `additional_provider_specific_params`.

    on_found: `mask`, or `block` to stop the request. labels, min_score, operators: as those of /redact.
    """

    on_found: Annotated[str, one_of(_MASK, _BLOCK)] | None = None
    labels: list[str] | None = None
    min_score: Score | dict[str, Score] | None = None
    operators: dict[str, Operator] | None = None


class GuardrailRequest(msgspec.Struct, frozen=True):
    """A request; LiteLLM sends more fields with each version, which mean nothing here."""

    texts: list[str] | None
    input_type: str | None = None
    structured_messages: list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    additional_provider_specific_params: GuardrailParameters | None = None


class GuardrailAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of the texts: NONE, GUARDRAIL_INTERVENED with new ones, or BLOCKED.

    stream_holdback_chars: of each text, how many at its end a stream waits with, since what follows may change them.
    """

    action: str
    texts: list[str] | None = None
    structured_messages: list[dict[str, Any]] | None = None
    blocked_reason: str | None = None
    stream_holdback_chars: list[int] | None = None


class GuardrailQuery(RedactQuery, frozen=True):
    """What a request asks for.

    blocks: an entity stops the request. n_texts: how many of the texts are the request's own `texts`; those after them
    stand in `messages` alone. is_answer: of a model, perhaps of a part of a stream.
    """

    blocks: bool
    n_texts: int
    messages: list[dict[str, Any]]
    is_answer: bool

    def place(self, index: int) -> str:
        """See `Query`."""
        return f"texts[{index}]" if index < self.n_texts else "structured_messages"


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
            raise InvalidRequest(f"{_PARAMETERS}.on_found: unknown value; known values: {_MASK}, {_BLOCK}")
        is_answer = request.input_type == "response"
        blocks = chosen.on_found == _BLOCK
        messages = request.structured_messages or []
        if is_answer:  # LiteLLM takes no calls of tools back, so that they can be stopped, but not masked
            messages = [{"tool_calls": request.tool_calls}] if blocks and request.tool_calls else []
        asked = [*texts, *_only_in(messages, texts)]
        if not asked:  # images alone
            return Reply(lambda: _NOTHING)
        check_count(len(asked), "texts", self.limits)
        query = self.defaults.redact_query(
            asked,
            labels=chosen.labels,
            min_score=chosen.min_score,
            operators=chosen.operators,
            prefix=f"{_PARAMETERS}.",
        )
        return extend(GuardrailQuery, query, blocks, len(texts), messages, is_answer)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, GuardrailQuery)  # noqa: S101 - `decode` has made it
        redacted = list(query.redacted(rows))
        labels = sorted({item.label for each in redacted for item in each.items})
        if labels and query.blocks:
            return _encode(GuardrailAnswer("BLOCKED", blocked_reason=f"the text has: {', '.join(labels)}"))
        own, others = redacted[: query.n_texts], redacted[query.n_texts :]
        held = [_held_back(each.text) for each in own] if query.is_answer else None
        if not labels:
            return _NOTHING if held is None else _encode(GuardrailAnswer("NONE", stream_holdback_chars=held))
        messages = None
        if any(each.items for each in others):
            new = {text: each.text for text, each in zip(query.texts, redacted, strict=True)}
            messages = [
                rewrite(message, f"structured_messages[{index}]", new.__getitem__)
                for index, message in enumerate(query.messages)
            ]
        return _encode(
            GuardrailAnswer(
                "GUARDRAIL_INTERVENED",
                texts=[each.text for each in own],
                structured_messages=messages,
                stream_holdback_chars=held,
            )
        )


def _only_in(messages: list[dict[str, Any]], texts: list[str]) -> list[str]:
    """Return the texts of messages that are not among `texts`, each once, in order. Raises `InvalidRequest`."""
    known = dict.fromkeys(texts)
    found: dict[str, None] = {}

    def collect(text: str) -> str:
        if text not in known:
            found[text] = None
        return text

    for index, message in enumerate(messages):
        rewrite(message, f"structured_messages[{index}]", collect)
    return list(found)


def _held_back(text: str) -> int:
    """Return how many characters at the end of a text a stream waits with: the last sentence, which may go on."""
    ends = [end.end() for end in _SENTENCE_ENDS.finditer(text)]
    return len(text) - (ends[-1] if ends else 0)


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
            examples={"mask": {"texts": [EXAMPLE_TEXT], "input_type": "request"}},
        )
