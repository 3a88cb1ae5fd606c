"""Gateways of language models: LiteLLM, agentgateway and NeMo Guardrails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

TEXT = "Anna Maria lives in Paris."
MASKED = "<PER> lives in <LOC>."
LITELLM = "/beta/litellm_basic_guardrail_api"


def litellm(ask: Callable[..., Any], texts: object, **parameters: Any) -> Any:
    """Ask as LiteLLM does."""
    more = {
        "input_type": "request",
        "request_data": {},
        "litellm_version": "9",
        "tools": None,
        "images": None,
    }
    answer = ask(LITELLM, {**more, "texts": texts, "additional_provider_specific_params": parameters})
    assert answer.status == 200, answer.body
    return answer.json()


def test_litellm(ask: Callable[..., Any]) -> None:
    """Texts with entities are masked, all come back in order; others pass."""
    assert litellm(ask, ["the"]) == {"action": "NONE"}
    masked = litellm(ask, ["the", TEXT, ""])
    assert masked == {"action": "GUARDRAIL_INTERVENED", "texts": ["the", MASKED, ""]}
    for texts in ([], None):
        assert litellm(ask, texts) == {"action": "NONE"}


def test_litellm_parameters(ask: Callable[..., Any]) -> None:
    """The gateway's configuration can block, choose labels, scores and operators."""
    blocked = litellm(ask, [TEXT], on_found="block")
    assert blocked == {"action": "BLOCKED", "blocked_reason": "the text has: LOC, PER"}
    assert litellm(ask, ["the"], on_found="block") == {"action": "NONE"}
    assert litellm(ask, [TEXT], labels=["LOC"])["texts"] == ["Anna Maria lives in <LOC>."]
    assert litellm(ask, [TEXT], min_score=0.999) == {"action": "NONE"}
    numbered = litellm(ask, [TEXT, "Bob sees Anna Maria"], operators={"DEFAULT": {"type": "number"}})
    assert numbered["texts"] == ["<PER_1> lives in <LOC_1>.", "<PER_2> sees <PER_1>"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"on_found": "warn"},
        {"unknown": 1},
        {"labels": ["kanarienvogel"]},
        {"operators": {"DEFAULT": {"type": "custom", "lambda": "x"}}},
    ],
)
def test_litellm_fails_closed(ask: Callable[..., Any], parameters: dict[str, Any]) -> None:
    """What is not understood is an error, at which LiteLLM stops the request."""
    answer = ask(LITELLM, {"texts": [TEXT], "additional_provider_specific_params": parameters})
    assert answer.status == 422
    assert "kanarienvogel" not in answer.json()["error"]


MESSAGES = [
    {"role": "user", "content": "Anna and the"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a":"Paris","b":1}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "the"},
]


def test_litellm_calls_of_tools(ask: Callable[..., Any]) -> None:
    """The arguments of a prompt's calls go back in its messages, which LiteLLM takes in the place of texts."""
    body = {"texts": ["Anna and the", "the"], "input_type": "request", "structured_messages": MESSAGES}
    answer = ask(LITELLM, body).json()
    assert (answer["action"], answer["texts"]) == ("GUARDRAIL_INTERVENED", ["<PER> and the", "the"])
    masked = answer["structured_messages"]
    assert masked[0] == {"role": "user", "content": "<PER> and the"}
    assert masked[1]["tool_calls"][0]["function"]["arguments"] == '{"a":"<LOC>","b":1}'
    assert masked[2] == MESSAGES[2]
    calls = {"texts": [], "input_type": "request", "structured_messages": MESSAGES[1:2]}
    assert ask(LITELLM, calls).json()["structured_messages"] == masked[1:2]
    blocks = {**calls, "additional_provider_specific_params": {"on_found": "block"}}
    assert ask(LITELLM, blocks).json() == {"action": "BLOCKED", "blocked_reason": "the text has: LOC"}


def test_litellm_calls_in_an_answer(ask: Callable[..., Any]) -> None:
    """LiteLLM takes none back: what stops an answer stops it for its calls of tools, too; a mask leaves them."""
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"to":["Paris"],"n":1}'}}
    ]
    body = {"texts": [], "input_type": "response", "tool_calls": calls}
    assert ask(LITELLM, body).json() == {"action": "NONE"}
    blocks = {**body, "additional_provider_specific_params": {"on_found": "block"}}
    assert ask(LITELLM, blocks).json() == {"action": "BLOCKED", "blocked_reason": "the text has: LOC"}
    assert ask(LITELLM, {**blocks, "tool_calls": None, "texts": ["the"]}).json()["action"] == "NONE"
    harmless = [{"function": {"name": "Paris", "arguments": '{"n":"the"}'}}]
    assert ask(LITELLM, {**blocks, "tool_calls": harmless}).json()["action"] == "NONE"
    for wrong in (["Anna"], [{"function": ["Anna"]}], [[["Anna"]]]):
        assert ask(LITELLM, {**blocks, "tool_calls": wrong}).status in (200, 422)


def test_litellm_messages_without_calls(ask: Callable[..., Any]) -> None:
    """Where the texts say it all, no messages go back; of an answer none are read."""
    body = {"texts": ["Anna and the"], "input_type": "request", "structured_messages": MESSAGES[:1]}
    assert ask(LITELLM, body).json() == {"action": "GUARDRAIL_INTERVENED", "texts": ["<PER> and the"]}
    answer = {"texts": ["the"], "input_type": "response", "structured_messages": MESSAGES}
    assert ask(LITELLM, answer).json() == {"action": "NONE", "stream_holdback_chars": [3]}
    wrong = {"texts": ["the"], "structured_messages": [{"role": "user", "content": {"Anna": 1}}]}
    refused = ask(LITELLM, wrong)
    assert (refused.status, "Anna" in refused.json()["error"]) == (422, False)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", ""),
        ("the", "the"),
        ("the end. She", "She"),
        ("the end.", "the end."),
        ("the end. ", "the end. "),
        ("see Dr. the", "see Dr. the"),
        ('he said "the end." She', "She"),
        ("line\nnext", "next"),
        ("line\n", ""),
        ("the end\u3002she", "she"),
    ],
)
def test_litellm_streams_wait(ask: Callable[..., Any], text: str, held: str) -> None:
    """Of the text so far, the last sentence waits: what follows may make a name of it."""
    answer = ask(LITELLM, {"texts": [text], "input_type": "response"}).json()
    assert answer == {"action": "NONE", "stream_holdback_chars": [len(held)]}


def test_agentgateway_prompt(ask: Callable[..., Any]) -> None:
    """As many messages as came, in order, with what else they hold; without entities they pass as they are."""
    messages = [
        {"role": "system", "content": "the"},
        {"role": "user", "content": TEXT, "name": "a"},
        {"role": "assistant", "content": None},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Bob"}, {"type": "image_url", "image_url": {}}],
        },
    ]
    answer = ask("/request", {"body": {"messages": messages}})
    assert answer.status == 200
    expected = [dict(message) for message in messages]
    expected[1]["content"] = MASKED
    expected[3]["content"] = [{"type": "text", "text": "<PER>"}, {"type": "image_url", "image_url": {}}]
    assert answer.json() == {"action": {"body": {"messages": expected}, "reason": "entities were masked"}}
    for passed in (messages[:1], [], messages[2:3]):
        answer = ask("/request", {"body": {"messages": passed}})
        assert answer.json() == {"action": {"reason": "no entity was found"}}


def test_agentgateway_answer(ask: Callable[..., Any]) -> None:
    """The choices of a model's answer likewise; the tokens beside a text go with it."""
    tokens = {"content": [{"token": word} for word in TEXT.split()]}
    choices = [
        {"message": {"role": "assistant", "content": "the"}, "logprobs": {"content": [{"token": "the"}]}},
        {"message": {"role": "assistant", "content": TEXT}, "index": 1, "text": TEXT, "logprobs": tokens},
    ]
    answer = ask("/response", {"body": {"choices": choices}}).json()
    masked = {
        "message": {"role": "assistant", "content": MASKED},
        "index": 1,
        "text": MASKED,
        "logprobs": None,
    }
    assert answer["action"]["body"] == {"choices": [choices[0], masked]}


def test_agentgateway_takes_what_is_no_message_beside_one(ask: Callable[..., Any]) -> None:
    """The legacy tokens of completions, and fields of any type; texts among them are masked."""
    message = {"role": "assistant", "content": "the"}
    passed = [
        {"message": message, "text": 5, "content": {"score": 1}, "title": [1, None, [True]], "input": 2.5},
        {"message": message, "logprobs": {"text": ["Anna"], "tokens": ["Anna"], "text_offset": [0]}},
    ]
    answer = ask("/response", {"body": {"choices": passed}})
    assert answer.json() == {"action": {"reason": "no entity was found"}}
    found = {
        "message": message,
        "text": ["Bob", 5],
        "delta": {"content": {"text": "Bob"}, "context": {"n": 1}},
    }
    answer = ask("/response", {"body": {"choices": [*passed, found]}})
    masked = {**found, "text": ["<PER>", 5], "delta": {"content": {"text": "<PER>"}, "context": {"n": 1}}}
    assert answer.json()["action"]["body"] == {"choices": [*passed, masked]}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/request", {"messages": [{"content": 1}]}),
        ("/request", {"body": {"messages": [1]}}),
        ("/request", {"body": {"messages": [{"content": 1}]}}),
        ("/request", {"body": {"messages": [{"content": ["Anna"]}]}}),
        ("/request", {"body": {"messages": [{"content": [{"text": {"Anna": 1}}]}]}}),
        ("/request", {"body": {"messages": [{"content": TEXT}] * 9}}),
        ("/response", {"body": {"choices": [{"content": TEXT}]}}),
        ("/response", {"body": {"choices": [{"message": TEXT}]}}),
        ("/response", {"body": {"choices": [{"message": {"content": {"text": "Anna"}}}]}}),
    ],
)
def test_agentgateway_fails_closed(ask: Callable[..., Any], route: str, body: object) -> None:
    """A text in a form that is not understood does not pass unseen."""
    answer = ask(route, body)
    assert answer.status == 422, answer.body
    assert "Anna" not in answer.json()["error"]


def test_nemo(ask: Callable[..., Any]) -> None:
    """An extraction, with the names of GLiNER's servers."""
    answer = ask("/v1/extract", {"text": TEXT, "threshold": 0.5, "chunk_length": 384, "overlap": 128})
    found = answer.json()
    assert found["total_entities"] == 2
    assert found["tagged_text"] == "[Anna Maria](PER) lives in [Paris](LOC)."
    (anna, paris) = found["entities"]
    assert (anna["value"], anna["suggested_label"], anna["start_position"], anna["end_position"]) == (
        "Anna Maria",
        "PER",
        0,
        10,
    )
    assert paris["score"] > 0.9
    only = ask("/v1/extract", {"text": TEXT, "labels": ["LOC"]}).json()
    assert [entity["value"] for entity in only["entities"]] == ["Paris"]
    assert ask("/v1/extract", {"text": TEXT, "threshold": 0.999}).json()["total_entities"] == 0


def test_nemo_chat(ask: Callable[..., Any]) -> None:
    """The same as a chat, whose answer is JSON within JSON, with other names."""
    body = {"model": "nvidia/gliner-pii", "messages": [{"role": "user", "content": TEXT}], "flat_ner": False}
    answer = ask("/v1/chat/completions", body).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "nvidia/gliner-pii")
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert found["total_entities"] == 2
    assert found["tagged_text"] == "[Anna Maria](PER) lives in [Paris](LOC)."
    assert {**found["entities"][1], "score": 1} == {
        "text": "Paris",
        "label": "LOC",
        "start": 20,
        "end": 25,
        "score": 1,
    }


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/extract", {"text": TEXT, "labels": ["email"]}),
        ("/v1/extract", {"text": TEXT, "threshold": 2}),
        ("/v1/extract", {"text": TEXT, "label": ["LOC"]}),
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}] * 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [TEXT]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}], "labels": ["email"]}),
    ],
)
def test_nemo_fails_closed(ask: Callable[..., Any], route: str, body: object) -> None:
    """A label that there is not, and what is not understood, are errors, at which NeMo stops the conversation."""
    answer = ask(route, body)
    assert answer.status == 422, answer.body
    error = answer.json()["error"]
    assert "Anna" not in (error["message"] if "chat" in route else error)
