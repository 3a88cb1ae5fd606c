"""NeMo Guardrails' GLiNER rail: `POST /v1/extract`, and `POST /v1/chat/completions` as of NVIDIA's gliner-PII.

NeMo stops a conversation at any status but 200. A label that the model does not have is refused: who asks for it must
not believe that there is none. https://docs.nvidia.com/nemo/guardrails/
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from nerve.config import Score
from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import EXACTLY_ONE, JsonBody, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, ErrorForm, PostRoute
from nerve.engine.codec import Query
from nerve.engine.entities import EntityDefaults, EntityQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from nerve.config import Config
    from nerve.endpoints.protocol import Header
    from nerve.types import Entity, Row

_REF = "#/components/schemas/{name}"
_encode = msgspec.json.Encoder().encode
_STRING = {"type": "string"}
# As OpenAI's clients read it.
_CHAT_ERRORS = ErrorForm(
    lambda message, kind: _encode({"error": {"message": message, "type": kind}}),
    {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"message": _STRING, "type": _STRING},
                "required": ["message", "type"],
            }
        },
        "required": ["error"],
    },
)


class ExtractRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request. labels: only these; threshold: the least score; the other fields are GLiNER's, without effect."""

    text: str
    labels: list[str] | None = None
    threshold: Score | None = None
    chunk_length: int | None = None
    overlap: int | None = None
    flat_ner: bool | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """The one message: the text."""

    role: str
    content: str


class ChatRequest(msgspec.Struct, frozen=True):
    """A request as a chat; other fields of chats are without effect."""

    messages: Annotated[list[ChatMessage], EXACTLY_ONE]
    model: str | None = None
    labels: list[str] | None = None
    threshold: Score | None = None


class ExtractedEntity(msgspec.Struct, frozen=True, gc=False):
    """One entity of an extraction."""

    value: str
    suggested_label: str
    start_position: int
    end_position: int
    score: float


class Extraction(msgspec.Struct, frozen=True):
    """All entities, and the text with each as `[entity](label)`."""

    entities: list[ExtractedEntity]
    total_entities: int
    tagged_text: str


class ChatEntity(msgspec.Struct, frozen=True, gc=False):
    """One entity within the answer to a chat."""

    text: str
    label: str
    start: int
    end: int
    score: float


class ExtractQuery(EntityQuery, frozen=True):
    """What an extraction asks for."""

    def place(self, index: int) -> str:
        """See `Query`; there is one text."""
        return "text"


class ChatQuery(EntityQuery, frozen=True):
    """What a chat asks for. model: as it calls it."""

    model: str

    def place(self, index: int) -> str:
        """See `Query`."""
        return f"messages[{index}].content"


_extract_body = JsonBody(ExtractRequest)
_chat_body = JsonBody(ChatRequest)


@dataclass(frozen=True, slots=True)
class ExtractCodec:
    """Reads and writes an extraction."""

    defaults: EntityDefaults
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        request = _extract_body.decode(body)
        query = self.defaults.query(
            [request.text], labels=request.labels or None, min_score=request.threshold
        )
        return extend(ExtractQuery, query)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, EntityQuery)  # noqa: S101 - `decode` has made it
        (entities,) = query.entities(rows)
        text = query.texts[0]
        found = [
            ExtractedEntity(text[each.start : each.end], each.label, each.start, each.end, each.score)
            for each in entities
        ]
        return _encode(Extraction(found, len(found), _tag(text, entities)))


@dataclass(frozen=True, slots=True)
class ChatCodec:
    """Reads and writes a chat, whose answer is JSON within JSON."""

    defaults: EntityDefaults
    model: str
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query:
        """See `Codec`."""
        request = _chat_body.decode(body)
        if len(request.messages) != 1:
            raise InvalidRequest("messages: send one, whose content is the text")
        query = self.defaults.query(
            [request.messages[0].content], labels=request.labels or None, min_score=request.threshold
        )
        return extend(ChatQuery, query, request.model or self.model)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, ChatQuery)  # noqa: S101 - `decode` has made it
        (entities,) = query.entities(rows)
        text = query.texts[0]
        found = [
            ChatEntity(text[each.start : each.end], each.label, each.start, each.end, each.score)
            for each in entities
        ]
        content = {"total_entities": len(found), "entities": found, "tagged_text": _tag(text, entities)}
        message = {"role": "assistant", "content": _encode(content).decode()}
        return _encode(
            {
                "id": "chatcmpl-nerve",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": query.model,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            }
        )


class Nemo:
    """The endpoint."""

    name = "nemo"

    def __init__(self, config: Config) -> None:
        defaults = EntityDefaults(config)
        self._extract = ExtractCodec(defaults)
        self._chat = ChatCodec(defaults, "nerve")
        self.routes = (
            PostRoute("/v1/extract", self._choose_extract, _describe_extract),
            PostRoute("/v1/chat/completions", self._choose_chat, _describe_chat, _CHAT_ERRORS),
        )

    def _choose_extract(self, header: Header) -> ExtractCodec:
        require_json(header)
        return self._extract

    def _choose_chat(self, header: Header) -> ChatCodec:
        require_json(header)
        return self._chat


def _tag(text: str, entities: list[Entity]) -> str:
    parts: list[str] = []
    position = 0
    for entity in entities:
        parts += (text[position : entity.start], f"[{text[entity.start : entity.end]}]({entity.label})")
        position = entity.end
    return "".join((*parts, text[position:]))


def _describe_extract() -> Description:
    request, schemas = _extract_body.schema()
    (answer,), answers = msgspec.json.schema_components([Extraction], ref_template=_REF)
    summary = "Find the entities of a text, as NeMo Guardrails asks a GLiNER server"
    return Description(
        summary=summary,
        answer_text="The entities",
        media_types=(JSON_TYPE,),
        request=request,
        answer=answer,
        schemas={**schemas, **answers},
        examples={"extract": {"text": EXAMPLE_TEXT, "threshold": 0.5}},
    )


def _describe_chat() -> Description:
    request, schemas = _chat_body.schema()
    answer: dict[str, Any] = {"type": "object", "required": ["choices"]}
    summary = "Find the entities of a text, as NeMo Guardrails asks NVIDIA's gliner-PII"
    return Description(
        summary=summary,
        answer_text="The entities, as JSON in the content of a message",
        media_types=(JSON_TYPE,),
        request=request,
        answer=answer,
        schemas=schemas,
        examples={"chat": {"messages": [{"role": "user", "content": EXAMPLE_TEXT}]}},
    )
