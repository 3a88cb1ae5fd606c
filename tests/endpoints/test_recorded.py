"""Bodies of services that cannot be run here, as their public documentation and sources print them.

Each example stands beside the page that it is of; only texts that must be found are ours. What is asserted of an answer
is what the same page asks of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import start_server, write_config
from exchanges import Answer

TEXT = "Anna Maria lives in Paris."
MASKED = "<PER> lives in <LOC>."

# https://github.com/solo-io/gloo-gateway-use-cases, ai-guardrail-webhook-server/docs/
# gloo-ai-gateway-guardrail-webhook-openapi.yaml (commit 2f44f61): examples of PromptMessages and of ResponseChoices.
# It is the API reference that agentgateway's and kgateway's documentation show.
PROMPT = [
    {"content": "You are a helpful AI assistant that provides concise answers.", "role": "system"},
    {"content": "What is 2+2?", "role": "user"},
    {"content": "2+2 is 4.", "role": "assistant"},
    {"content": "What about 3+3?", "role": "user"},
]
CHOICES = [
    {"message": {"content": "The sum of 2 and 2 is 4.", "role": "assistant"}},
    {"message": {"content": "When you add 2 to 2, you get 4.", "role": "assistant"}},
]

# https://github.com/agentgateway/agentgateway, crates/agentgateway/src/llm/policy/webhook.rs (commit 013dab1):
# RawMessagesRequest. The messages are a provider's own; the shapes are of https://platform.openai.com/docs/api-reference/chat
# and https://docs.anthropic.com/en/docs/build-with-claude/tool-use.
RAW_OPENAI = [
    {
        "role": "user",
        "content": [{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": "u"}}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_abc123",
                "type": "function",
                "function": {"name": "get_current_weather", "arguments": '{\n"location": "Paris"\n}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_abc123", "content": "the"},
]
RAW_ANTHROPIC = [
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "the"},
            {
                "type": "tool_use",
                "id": "toolu_01A",
                "name": "get_weather",
                "input": {"location": "Paris", "n": 1},
            },
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_01A",
                "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "Bob"}],
            },
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Anna"}},
        ],
    },
]

# https://docs.cloud.google.com/bigquery/docs/remote-functions, "Input format"; the page's function has four arguments,
# ours has one.
BIGQUERY = {
    "requestId": "124ab1c",
    "caller": "//bigquery.googleapis.com/projects/myproject/jobs/myproject:US.bquxjob_5b4c112c_17961fafeaf",
    "sessionUser": "test-user@test-company.com",
    "userDefinedContext": {"key1": "value1", "key2": "v2"},
    "calls": [[TEXT], [None], [""]],
}
BIGQUERY_AS_PRINTED = {**BIGQUERY, "calls": [[None, 1, "", "abc"], ["abc", "9007199254740993", None, None]]}
# "Output format" there: errorMessage, "Size should be less than 1KB"; repeated are 408, 429, 500, 503 and 504.
MOST_BYTES_OF_A_MESSAGE = 1024
REPEATED = {408, 429, 500, 503, 504}

# https://docs.snowflake.com/en/sql-reference/external-functions-data-format, "Body example" and "Header format"; the
# page's function has three arguments, ours has one.
SNOWFLAKE = {"data": [[0, "Alex"], [1, TEXT], [2, None], [3, "Adrian"]]}
SNOWFLAKE_AS_PRINTED = {
    "data": [[0, 10, "Alex", "2014-01-01 16:00:00"], [1, 20, "Steve", "2015-01-01 16:00:00"]]
}
SNOWFLAKE_HEADERS = {
    "sf-external-function-format": "json",
    "sf-external-function-format-version": "1.0",
    "sf-external-function-current-query-id": "01b02bdf-0001-7b58-0003-27d60056b5a6",
    "sf-external-function-query-batch-id": "01b02bdf-0001-7b58-0003-27d60056b5a6:1:1:0:0",
    "sf-external-function-name": "ext_func",
    "sf-external-function-signature": "(N VARCHAR)",
    "sf-external-function-return-type": "VARCHAR(134217728)",
}


@pytest.fixture(scope="module", params=["in process", "over HTTP"])
def ask(
    request: pytest.FixtureRequest,
    ask: Callable[..., Answer],
    lookup_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Answer]]:
    """Ask the application of this process, then a server with the same limits."""
    if request.param == "in process":
        yield ask
        return
    folder = tmp_path_factory.mktemp("recorded")
    limits = {"max_inputs": 8, "max_body_bytes": 200_000}
    server = start_server(write_config(folder / "config.yaml", lookup_model, limits=limits))

    def ask_server(path: str, body: object, content_type: str = "application/json", **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = server.client.post(path, content=raw, headers={"content-type": content_type, **headers})
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    yield ask_server
    server.close_connections()
    assert server.stop() == 0


def test_agentgateway(ask: Callable[..., Any]) -> None:
    """A pass has no body; a mask has as many messages or choices, of which only contents differ."""
    passed = {"action": {"reason": "no entity was found"}}
    assert ask("/request", {"body": {"messages": PROMPT}}).json() == passed
    assert ask("/response", {"body": {"choices": CHOICES}}).json() == passed
    asked = [*PROMPT, {"content": TEXT, "role": "user"}]
    action = ask("/request", {"body": {"messages": asked}}).json()["action"]
    assert action["body"] == {"messages": [*PROMPT, {"content": MASKED, "role": "user"}]}
    assert isinstance(action["reason"], str)
    choices = [CHOICES[0], {"message": {"content": TEXT, "role": "assistant"}}]
    action = ask("/response", {"body": {"choices": choices}}).json()["action"]
    assert action["body"] == {"choices": [CHOICES[0], {"message": {"content": MASKED, "role": "assistant"}}]}


def test_agentgateway_raw(ask: Callable[..., Any]) -> None:
    """`{messages, model}` is answered with `{messages}`, with entities or without."""
    openai = ask("/request", {"messages": RAW_OPENAI, "model": "gpt"}).json()
    assert list(openai) == ["messages"]
    prompt, call, result = openai["messages"]
    assert prompt["content"] == [{"type": "text", "text": MASKED}, RAW_OPENAI[0]["content"][1]]
    assert call["tool_calls"][0]["function"] == {
        "name": "get_current_weather",
        "arguments": '{"location":"<LOC>"}',
    }
    assert result == RAW_OPENAI[2]
    answer, asked = ask("/request", {"messages": RAW_ANTHROPIC}).json()["messages"]
    assert answer["content"][1]["input"] == {"location": "<LOC>", "n": 1}
    assert answer["content"][1]["name"] == "get_weather"
    assert asked["content"][0]["content"][1]["text"] == "<PER>"
    assert asked["content"][1]["source"] == {"type": "text", "media_type": "text/plain", "data": "<PER>"}
    for messages in (PROMPT, []):
        assert ask("/request", {"messages": messages}).json() == {"messages": messages}


@pytest.mark.parametrize("body", [{}, {"messages": [{"content": 1}]}, {"messages": 1}, b"{"])
def test_agentgateway_fails_closed_in_both_formats(ask: Callable[..., Any], body: object) -> None:
    """It reads a body whatever its status: none of ours is one of its answers.

    With `action` absent an answer of the first format is a failure. One of the raw format passes where `messages` is
    absent or null; where it is no list it is a failure.
    """
    answer = ask("/request", body)
    assert answer.status in (400, 422)
    error = answer.json()
    assert "action" not in error
    assert error["messages"] is False


def test_bigquery(ask: Callable[..., Any]) -> None:
    """As many replies as calls, in order."""
    answer = ask("/bigquery", BIGQUERY, content_type="application/json")
    assert (answer.status, answer.json()) == (200, {"replies": [MASKED, None, ""]})
    refused = ask("/bigquery", BIGQUERY_AS_PRINTED)
    assert refused.status not in REPEATED
    (message,) = refused.json().values()
    assert refused.json() == {"errorMessage": message}
    assert len(message.encode()) < MOST_BYTES_OF_A_MESSAGE


def test_snowflake(ask: Callable[..., Any]) -> None:
    """A row for each, with the number that it came with, in the same order."""
    answer = ask("/snowflake", SNOWFLAKE, **SNOWFLAKE_HEADERS)
    assert answer.status == 200
    assert answer.json() == {"data": [[0, "Alex"], [1, MASKED], [2, None], [3, "Adrian"]]}
    # "Other values are treated as errors": any status but 200 and 202.
    assert ask("/snowflake", SNOWFLAKE_AS_PRINTED, **SNOWFLAKE_HEADERS).status == 400
