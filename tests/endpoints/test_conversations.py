"""Where texts stand in messages of chats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nerve.endpoints.conversations import rewrite, rewrite_beside
from nerve.errors import InvalidRequest


def seen(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message, each of which is replaced by itself in capitals."""
    found: list[str] = []

    def replace(text: str) -> str:
        found.append(text)
        return text.upper()

    changed = rewrite(message, "messages[0]", replace)
    assert json.dumps(changed).upper() == json.dumps(message).upper()  # nothing else has changed
    return found


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ({"role": "user", "content": "a"}, ["a"]),
        ({"role": "user", "content": None, "name": "n"}, []),
        (
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
            ["a", "b"],
        ),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}, []),
        ({"type": "function_call_output", "call_id": "c", "output": "a"}, ["a"]),
        ({"type": "function_call", "name": "f", "arguments": '{"A":["b",{"C":"d"}],"E":1}'}, ["b", "d"]),
        ({"function_call": {"name": "f", "arguments": "no json"}}, ["no json"]),
        ({"tool_calls": [{"function": {"name": "f", "arguments": '"text"'}}]}, ['"text"']),
        ({"type": "custom_tool_call", "input": "a"}, ["a"]),
        ({"content": [{"type": "tool_use", "input": {"k": {"l": "a"}}, "id": "i"}]}, ["a"]),
        ({"content": [{"type": "document", "source": {"type": "base64", "data": "x"}, "title": "t"}]}, ["t"]),
        ({"reasoning_content": "a", "summary": [{"type": "summary_text", "text": "b"}]}, ["a", "b"]),
        (
            {"reasoning": "a", "content": [{"type": "thinking", "thinking": "b", "signature": "s"}]},
            ["a", "b"],
        ),
        ({"reasoning": {"effort": "high"}, "audio": {"id": "i", "transcript": "a"}}, ["a"]),
        ({"content": [{"citations": [{"cited_text": "a"}], "text": "b"}]}, ["a", "b"]),
        ({"content": [{"toolResult": {"content": [{"json": {"k": "a"}}]}}]}, ["a"]),
        ({"parts": [{"functionCall": {"name": "f", "args": {"k": "a"}}}]}, ["a"]),
        ({"arguments": '{"A":"B","A":"C"}'}, ['{"A":"B","A":"C"}']),
        ({"own": {"field": [{"text": "a"}, "b", 1]}}, ["a"]),
    ],
)
def test_texts(message: dict[str, Any], texts: list[str]) -> None:
    """Contents, parts, results of tools and arguments of calls; no names, identifiers, links or pictures."""
    assert seen(message) == texts


def test_arguments_without_a_change_stay_as_they_are() -> None:
    """White space within JSON is kept where nothing was found."""
    message = {"arguments": '{ "a":  "b" }'}
    assert rewrite(message, "", lambda text: text) == message


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"content": 1}, "messages[0].content"),
        ({"content": {"text": "a"}}, "messages[0].content"),
        ({"content": ["a"]}, "messages[0].content[0]"),
        ({"content": [{"text": {"Anna": "a"}}]}, "messages[0].content[0].text"),
        ({"Anna": {"Anna": {"content": True}}}, "messages[0].content"),
    ],
)
def test_what_is_not_understood_is_refused(message: dict[str, Any], place: str) -> None:
    """It must not pass unseen; the message quotes nothing of the client's."""
    with pytest.raises(InvalidRequest) as refused:
        seen(message)
    assert str(refused.value).startswith(f"{place}: must be ")


@pytest.mark.parametrize("key", ["content", "input", "other"])
def test_depth_is_bounded(key: str) -> None:
    """However a message is nested."""
    message: Any = {"text": "a"}
    for _ in range(300):
        message = {key: [message]}
    with pytest.raises(InvalidRequest, match="is nested too deeply"):
        seen(message)
    with pytest.raises(InvalidRequest, match="is nested too deeply"):
        rewrite_beside(key, message, "choices[0]", str.upper)
    lists: Any = "a"
    for _ in range(300):
        lists = [lists]
    with pytest.raises(InvalidRequest, match="is nested too deeply"):
        rewrite_beside("text", lists, "choices[0]", str.upper)
    deep = {"arguments": "[" * 300 + "]" * 300}
    with pytest.raises(InvalidRequest, match="is nested too deeply"):
        seen(deep)
