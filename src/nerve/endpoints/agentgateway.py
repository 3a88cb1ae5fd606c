"""`POST /request` and `POST /response`: the guardrail webhook of agentgateway, kgateway and Gloo.

The messages of a prompt, and the choices of an answer, go back as many as they came. In agentgateway's raw message
format a prompt comes as the provider's own messages, without the envelope `body`, and goes back likewise.
https://github.com/agentgateway/agentgateway/blob/main/crates/agentgateway/src/llm/policy/webhook.rs
https://github.com/solo-io/gloo-gateway-use-cases/tree/main/ai-guardrail-webhook-server/docs

agentgateway reads an answer whatever its status. One without `action` is a failure; but in the raw format one without
`messages` lets the prompt pass, so that an error must have `messages` that cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.endpoints.conversations import rewrite, rewrite_beside
from nerve.endpoints.entity_options import extend
from nerve.endpoints.json_bodies import JsonBody, check_count, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, ErrorForm, PostRoute
from nerve.engine.codec import Query, Reply
from nerve.engine.entities import EntityDefaults, RedactQuery
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.config import Config, LimitsConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import Row

_encode = msgspec.json.Encoder().encode
_PASS = _encode({"action": {"reason": "no entity was found"}})
_MASKED = "entities were masked"
_TOKENS = "logprobs"
_ERROR_FIELDS = {"error": {"type": "string"}, "error_type": {"type": "string"}, "messages": {"const": False}}
_ERRORS = ErrorForm(
    lambda message, kind: _encode({"error": message, "error_type": kind, "messages": False}),
    {"type": "object", "properties": _ERROR_FIELDS, "required": list(_ERROR_FIELDS)},
)


class PromptBody(msgspec.Struct, frozen=True):
    """A prompt; what is beside `content` in a message is passed on."""

    messages: list[dict[str, Any]]


class PromptRequest(msgspec.Struct, frozen=True):
    """What a client asks the model: in `body`, or in the raw format as `messages` of the provider's own."""

    body: PromptBody | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        """Refuse what has neither, as a body that has the wrong fields: what is not JSON at all is refused as that."""
        if self.body is None and self.messages is None:
            raise ValueError("it needs `body`, or `messages` in the raw format")


class AnswerBody(msgspec.Struct, frozen=True):
    """An answer; each choice has a message."""

    choices: list[dict[str, Any]]


class AnswerRequest(msgspec.Struct, frozen=True):
    """What the model answers."""

    body: AnswerBody


class ConversationQuery(RedactQuery, frozen=True):
    """What a request asks for. turns: messages or choices, in which the texts stand in order; is_raw: its format.

    places: of the turn of each text.
    """

    turns: list[dict[str, Any]]
    is_raw: bool
    places: list[str]

    def place(self, index: int) -> str:
        """See `Query`."""
        return self.places[index]


@dataclass(frozen=True, slots=True)
class ConversationCodec:
    """Reads and writes one request. field: `messages` of a prompt, or `choices` of an answer."""

    defaults: EntityDefaults
    limits: LimitsConfig
    field: str
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query | Reply:
        """See `Codec`."""
        turns, is_raw = self._read(body)
        field = self.field if is_raw else f"body.{self.field}"
        texts: list[str] = []
        places: list[str] = []

        def collect(text: str) -> str:
            texts.append(text)
            return text

        for index, turn in enumerate(turns):
            _rewrite(turn, field, index, collect)
            places += [f"{field}[{index}]"] * (len(texts) - len(places))
        if not texts:
            return Reply(lambda: _encode({"messages": turns}) if is_raw else _PASS)
        check_count(len(texts), field, self.limits)
        return extend(ConversationQuery, self.defaults.redact_query(texts), turns, is_raw, places)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, ConversationQuery)  # noqa: S101 - `decode` has made it
        redacted = list(query.redacted(rows))
        if not query.is_raw and not any(each.items for each in redacted):
            return _PASS
        following = iter(redacted)
        turns = [
            _rewrite(turn, self.field, index, lambda _: next(following).text)
            for index, turn in enumerate(query.turns)
        ]
        if query.is_raw:
            return _encode({"messages": turns})
        return _encode({"action": {"body": {self.field: turns}, "reason": _MASKED}})

    def _read(self, body: bytes | bytearray) -> tuple[list[dict[str, Any]], bool]:
        """Return the turns, and whether they are in the raw format."""
        if self.field == "choices":
            return _answer.decode(body).body.choices, False
        request = _prompt.decode(body)
        if request.body is not None:
            return request.body.messages, False
        return request.messages or [], True


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


def _rewrite(turn: dict[str, Any], field: str, index: int, replace: Callable[[str], str]) -> dict[str, Any]:
    """Return a turn with what `replace` gives for each of its texts. Raises `InvalidRequest`, see `rewrite`."""
    if not field.endswith("choices"):
        return rewrite(turn, f"{field}[{index}]", replace)
    message = turn.get("message")
    if not isinstance(message, dict):
        raise InvalidRequest(f"{field}[{index}].message: required, as an object")
    place = f"{field}[{index}]"
    rewritten = {key: _rewrite_part(key, value, place, replace) for key, value in turn.items()}
    if _TOKENS in turn and rewritten != turn:  # they are those of the text as it was
        rewritten[_TOKENS] = None
    return rewritten


def _rewrite_part(key: str, value: Any, place: str, replace: Callable[[str], str]) -> Any:  # noqa: ANN401 - JSON
    if key == _TOKENS:
        return value
    if key == "message":
        return rewrite(value, f"{place}.message", replace)
    return rewrite_beside(key, value, place, replace)


def _route(path: str, codec: ConversationCodec, body: JsonBody[Any], summary: str) -> PostRoute:
    def choose_codec(header: Header) -> ConversationCodec:
        require_json(header)
        return codec

    def describe() -> Description:
        request, schemas = body.schema()
        action = {"type": "object", "properties": {"reason": {"type": "string"}, "body": {"type": "object"}}}
        messages = {"type": "array", "items": {"type": "object"}}
        answer = {"type": "object", "properties": {"action": action, "messages": messages}}
        text = (
            "An action without a body lets it pass; one with a body puts that in its place; messages answer the raw "
            "format"
        )
        message = {"role": "user", "content": EXAMPLE_TEXT}
        examples: dict[str, Any] = {"choices": {"body": {"choices": [{"message": message}]}}}
        if codec.field == "messages":
            examples = {"messages": {"body": {"messages": [message]}}, "raw": {"messages": [message]}}
        return Description(summary, text, (JSON_TYPE,), request, answer, schemas, examples=examples)

    return PostRoute(path, choose_codec, describe, _ERRORS)
