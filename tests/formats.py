"""One good body of each route that is posted to, for tests of what holds on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Body = dict[str, Any]

MODEL = "model"  # the folder's name of the models of `builders`
INFER = f"/v2/models/{MODEL}/infer"
PREDICT = f"/v1/models/{MODEL}:predict"
INFER_VERSION = f"/v2/models/{MODEL}/versions/1/infer"


def _tensor(text: str) -> Body:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}


# Route -> its body for one text.
BODIES: dict[str, Callable[[str], Body]] = {
    "/": lambda text: {"inputs": text},
    "/predict_tokens": lambda text: {"inputs": text},
    "/pipeline/token-classification": lambda text: {"inputs": text, "parameters": {}},
    INFER: _tensor,
    INFER_VERSION: _tensor,
    PREDICT: lambda text: {"instances": [text]},
    "/invocations": lambda text: {"inputs": text},
    "/redact": lambda text: {"inputs": text},
    "/analyze": lambda text: {"text": text, "language": "en", "allow_list": [], "score_threshold": 0.1},
    "/anonymize": lambda text: {
        "text": text,
        "analyzer_results": [{"entity_type": "PER", "start": 0, "end": 4, "score": 1.0}],
        "anonymizers": {"PER": {"type": "mask", "masking_char": "*", "chars_to_mask": 2, "from_end": True}},
    },
    "/beta/litellm_basic_guardrail_api": lambda text: {
        "texts": [text],
        "input_type": "request",
        "request_data": {},
        "additional_provider_specific_params": {"on_found": "mask", "min_score": 0.1},
    },
    "/request": lambda text: {"body": {"messages": [{"role": "user", "content": text}]}},
    "/response": lambda text: {"body": {"choices": [{"message": {"role": "assistant", "content": text}}]}},
    "/v1/extract": lambda text: {"text": text, "threshold": 0.5, "chunk_length": 384, "flat_ner": False},
    "/v1/chat/completions": lambda text: {
        "model": "nvidia/gliner-pii",
        "messages": [{"role": "user", "content": text}],
        "threshold": 0.5,
    },
    "/bigquery": lambda text: {"requestId": "1", "calls": [[text]], "userDefinedContext": {"mode": "redact"}},
    "/snowflake": lambda text: {"data": [[0, text]]},
}
# Further forms of bodies, with their routes.
OTHER_BODIES: list[tuple[str, Callable[[str], Body]]] = [
    ("/request", lambda text: {"model": "m", "messages": _messages(text)}),
    (
        "/beta/litellm_basic_guardrail_api",
        lambda text: {"texts": [], "input_type": "request", "structured_messages": _messages(text)},
    ),
    (
        "/beta/litellm_basic_guardrail_api",
        lambda text: {"texts": [text, text], "input_type": "response", "tool_calls": [{"text": text}]},
    ),
    (PREDICT, lambda text: {"instances": [{"text": text}], "parameters": {}}),
    (
        "/analyze",
        lambda text: {"text": [text], "language": "en", "allow_list": [text], "allow_list_match": "exact"},
    ),
    ("/v1/extract", lambda text: {"text": text, "labels": ["PER"]}),
    ("/bigquery", lambda text: {"calls": [[text], [None]], "userDefinedContext": {"mode": "entities"}}),
]


def _messages(text: str) -> list[Body]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": f'{{"to":"{text}"}}'}}
    return [
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": [{"type": "tool_use", "input": {"to": [text]}, "name": "f"}]},
    ]


# These have nothing for the model.
WITHOUT_MODEL = {"/anonymize"}
# Status of a body whose values are wrong, where it is not the contract's 422.
INVALID = {
    route: 400
    for route in BODIES
    if route.startswith(("/v1/models/", "/v2/", "/bigquery", "/snowflake", "/analyze"))
}


def message_of(route: str, answer: Any) -> str:
    """Return the message of an error; it must be where clients of the format look for it."""
    body = answer.json()
    if route == "/bigquery":
        message = body["errorMessage"]
    elif route == "/v1/chat/completions":
        message = body["error"]["message"]
    else:
        message = body["error"]
    assert isinstance(message, str)
    return message


def nested(value: Any, mark: str) -> list[Any]:
    """Return copies of a body with `mark` in each of its places in turn: as a value, as another type, as a field."""
    found: list[Any] = [mark, [mark], {mark: mark}]
    if isinstance(value, dict):
        found.append({**value, mark: mark})
        for key, inner in value.items():
            found += [{**value, key: each} for each in nested(inner, mark)]
    elif isinstance(value, list):
        found.append([*value, mark])
        for index, inner in enumerate(value):
            found += [[*value[:index], each, *value[index + 1 :]] for each in nested(inner, mark)]
    return found
