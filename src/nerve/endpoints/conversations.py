"""Where texts stand in messages of chats, as OpenAI (Chat Completions, Responses) and Anthropic write them.

Gateways hand such messages to a guardrail. Their texts are what people and models say: contents, parts of them, results
of tools, and the arguments of calls of tools. Roles, names, identifiers, links and pictures are none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    Replace = Callable[[str], str]

# What holds a text, or a list of parts that do.
_TEXTS = frozenset({"content", "text", "output", "refusal", "reasoning_content", "title", "context"})
# What holds a text where it is a string, and is a field like any other where it is none: thoughts (vLLM, OpenRouter,
# Anthropic), what was said aloud, what is quoted.
_PERHAPS_TEXTS = frozenset({"reasoning", "thinking", "transcript", "cited_text", "quote"})
# What holds JSON whose strings are texts: an object, or JSON within a string. The last two are Gemini's and Bedrock's.
_JSON = frozenset({"arguments", "input", "args", "json"})
_MOST_DEPTH = 16


def rewrite(message: dict[str, Any], place: str, replace: Replace) -> dict[str, Any]:
    """Return a message with what `replace` gives for each of its texts, in order; everything else is as it was.

    place: of the message in the body. Raises `InvalidRequest` where a text stands in a form that is not known: what is
    not understood must not pass unseen.
    """
    return _object(message, place, _How(replace, is_strict=True), 0)


def rewrite_beside(key: str, value: Any, place: str, replace: Replace) -> Any:  # noqa: ANN401 - decoded JSON
    """Return the value of a field that stands beside a message, as `rewrite`; what is in no known form is as it was."""
    return _field(key, value, place, _How(replace, is_strict=False), 0)


class _How(NamedTuple):
    """What is done to a text, and whether a text in an unknown form is refused."""

    replace: Replace
    is_strict: bool


def _object(found: dict[str, Any], place: str, how: _How, depth: int) -> dict[str, Any]:
    _check_depth(place, depth)
    # A document that Anthropic's clients send as plain text.
    is_plain = found.get("type") == "text" and isinstance(found.get("data"), str)
    return {
        key: how.replace(value) if is_plain and key == "data" else _field(key, value, place, how, depth)
        for key, value in found.items()
    }


def _field(key: str, value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401 - decoded JSON
    if key in _TEXTS:
        return _text(value, f"{place}.{key}", how, depth)
    if key in _PERHAPS_TEXTS and isinstance(value, str):
        return how.replace(value)
    if key in _JSON:
        return _json(value, f"{place}.{key}", how, depth)
    return _other(value, place, how, depth)  # the key is the client's: it is not quoted


def _text(value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if isinstance(value, str):
        return how.replace(value)
    if not how.is_strict:
        return _loose(value, place, how, depth)
    if not isinstance(value, list):
        raise InvalidRequest(f"{place}: must be a string or a list of parts")
    parts = []
    for number, part in enumerate(value):
        if not isinstance(part, dict):
            raise InvalidRequest(f"{place}[{number}]: must be an object")
        parts.append(_object(part, f"{place}[{number}]", how, depth + 1))
    return parts


def _loose(value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401
    """Look for texts where a text need not be one: a list of strings, say."""
    _check_depth(place, depth)
    if isinstance(value, list):
        return [_text(each, place, how, depth + 1) for each in value]
    return _other(value, place, how, depth)


def _json(value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401
    """Replace all strings in JSON, names of fields excepted; a string that is no JSON object or list is a text.

    So is one with two fields of a name, one of which nobody would see.
    """
    if not isinstance(value, str):
        return _strings(value, place, how, depth)
    try:
        inner = msgspec.json.decode(value)
        json.loads(value, object_pairs_hook=_check_names)
    except (msgspec.DecodeError, ValueError, RecursionError):
        inner = None
    if not isinstance(inner, dict | list):
        return how.replace(value)
    changed = _strings(inner, place, how, depth)
    return value if changed == inner else msgspec.json.encode(changed).decode()


def _check_names(fields: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in fields}) < len(fields):
        raise ValueError


def _strings(value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401
    _check_depth(place, depth)
    if isinstance(value, str):
        return how.replace(value)
    if isinstance(value, dict):
        return {key: _strings(each, place, how, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_strings(each, place, how, depth + 1) for each in value]
    return value


def _other(value: Any, place: str, how: _How, depth: int) -> Any:  # noqa: ANN401
    """Look for texts below a field of another name."""
    _check_depth(place, depth)
    if isinstance(value, dict):
        return _object(value, place, how, depth + 1)
    if isinstance(value, list):
        return [_other(each, place, how, depth + 1) for each in value]
    return value


def _check_depth(place: str, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise InvalidRequest(f"{place}: is nested too deeply")
