"""`POST /request` and `POST /response`: the guardrail webhook of agentgateway, kgateway and Gloo.

The messages of a prompt, and the choices of an answer, go back as many as they came. A gateway takes anything but 200
as a reason to stop the request. https://agentgateway.dev/docs/standalone/latest/llm/guardrails/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import JsonBody, check_count, require_json
from nerve.endpoints.protocol import JSON_TYPE, Description, PostRoute
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_encode = msgspec.json.Encoder().encode
_PASS = _encode({"action": {"reason": "no entity was found"}})
_MASKED = "entities were masked"


class PromptBody(msgspec.Struct, frozen=True):
    """A prompt; what is beside `content` in a message is passed on."""

    messages: list[dict[str, Any]]


class PromptRequest(msgspec.Struct, frozen=True):
    """What a client asks the model."""

    body: PromptBody


class AnswerBody(msgspec.Struct, frozen=True):
    """An answer; each choice has a message."""

    choices: list[dict[str, Any]]


class AnswerRequest(msgspec.Struct, frozen=True):
    """What the model answers."""

    body: AnswerBody


class ConversationQuery(RedactQuery, frozen=True):
    """What a request asks for. turns: messages or choices, in which the texts stand in order."""

    turns: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ConversationCodec:
    """Reads and writes one request. field: `messages` of a prompt, or `choices` of an answer."""

    defaults: EntityDefaults
    limits: LimitsConfig
    field: str
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query | Reply:
        """See `Codec`."""
        turns = _read(body, self.field)
        texts: list[str] = []
        for index, turn in enumerate(turns):
            _replace_texts(turn, self.field, index, texts.append)
        if not texts:
            return Reply(lambda: _PASS)
        check_count(len(texts), f"body.{self.field}", self.limits)
        return extend(ConversationQuery, self.defaults.redact_query(texts), turns)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, ConversationQuery)  # noqa: S101 - `decode` has made it
        redacted = list(query.redacted(rows))
        if not any(each.items for each in redacted):
            return _PASS
        following = iter(redacted)
        turns = [
            _replace_texts(turn, self.field, index, lambda _: next(following).text)
            for index, turn in enumerate(query.turns)
        ]
        return _encode({"action": {"body": {self.field: turns}, "reason": _MASKED}})


class AgentGateway:
    """The endpoint."""

    name = "agentgateway"

    def __init__(self, config: Config) -> None:
        defaults = EntityDefaults(config)
        self.routes = tuple(
            _route(path, ConversationCodec(defaults, config.limits, field), body, summary)
            for path, field, body, summary in (
                (
                    "/request",
                    "messages",
                    _prompt,
                    "Mask the messages of a prompt, as a webhook of agentgateway",
                ),
                (
                    "/response",
                    "choices",
                    _answer,
                    "Mask the choices of an answer, as a webhook of agentgateway",
                ),
            )
        )


_prompt = JsonBody(PromptRequest)
_answer = JsonBody(AnswerRequest)


def _read(body: bytes | bytearray, field: str) -> list[dict[str, Any]]:
    return _prompt.decode(body).body.messages if field == "messages" else _answer.decode(body).body.choices


def _replace_texts(turn: dict[str, Any], field: str, index: int, replace: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a turn with what `replace` gives for each of its texts. Raises `InvalidRequest` for one of another form.

    A text that is not understood must not pass unseen.
    """
    place = f"body.{field}[{index}]"
    if field == "choices":
        message = turn.get("message")
        if not isinstance(message, dict):
            raise InvalidRequest(f"{place}.message: required, as an object")
        return {**turn, "message": _replace_content(message, f"{place}.message", replace)}
    return _replace_content(turn, place, replace)


def _replace_content(message: dict[str, Any], place: str, replace: Any) -> dict[str, Any]:  # noqa: ANN401
    content = message.get("content")
    if content is None:
        return message
    if isinstance(content, str):
        return {**message, "content": replace(content)}
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}.content: must be a string or a list of parts")
    parts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise InvalidRequest(f"{place}.content[{number}]: must be an object")
        text = part.get("text")
        if text is not None and not isinstance(text, str):
            raise InvalidRequest(f"{place}.content[{number}].text: must be a string")
        parts.append(part if text is None else {**part, "text": replace(text)})
    return {**message, "content": parts}


def _route(path: str, codec: ConversationCodec, body: JsonBody[Any], summary: str) -> PostRoute:
    def choose_codec(header: Header) -> ConversationCodec:
        require_json(header)
        return codec

    def describe() -> Description:
        request, schemas = body.schema()
        action = {"type": "object", "properties": {"reason": {"type": "string"}, "body": {"type": "object"}}}
        answer = {"type": "object", "properties": {"action": action}, "required": ["action"]}
        text = "An action without a body lets it pass; one with a body puts that in its place"
        return Description(summary, text, (JSON_TYPE,), request, answer, schemas)

    return PostRoute(path, choose_codec, describe)
