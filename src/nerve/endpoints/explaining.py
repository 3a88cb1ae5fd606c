"""Says what is wrong with a body: which field, and what could stand there instead. Not what the client sent.

`msgspec` checks types while it parses. Its messages are rewritten here, because they can quote what the client sent,
and a client may send personal data in any place, even as the name of a field. The name of an unknown field is told only
where it is nearly that of a known one.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec

from nerve.config.operators import OPERATOR_NAMES, HashType

# By the name of a field whose values have names.
_KNOWN_VALUES = {"type": OPERATOR_NAMES, "hash_type": tuple(HashType)}
# Steps of a path: `.name` or `[0]`; `[...]` is a value of an object whose names are the client's.
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(?:\d+|\.\.\.)\]")
# Letters of a client's name of a field that are compared with those that are known.
_LONGEST = 64
# How like a known name, or a word of it, one must be to be taken for it; difflib.SequenceMatcher.ratio().
_LIKENESS = 0.7
# From here on it is that name with a typing error, and may be told.
_MISSPELT = 0.8
# What other libraries call a field of ours.
_OTHER_NAMES = {"threshold": "min_score", "text": "inputs", "texts": "inputs", "entities": "labels"}


def explain(message: str, body_type: type[msgspec.Struct]) -> str:
    """Rewrite what msgspec says of a body of this type without what the client sent, but for a misspelt name."""
    text, _, where = message.replace(" | null`", "`").partition(" - at `")
    path = where.removeprefix("$").rstrip("`").lstrip(".")
    if where.startswith("key`"):  # of MessagePack, where names may be anything
        return "the body: the names of fields must be strings"
    if "unknown field" in text:
        near = _meant(text.split("`")[1], _structs_at(body_type, path))
        whose = f"{path}: it" if path else "the body"
        return f"{whose} has an unknown field{near}; {_known_at(body_type, path)}"
    if "missing required field" in text:
        name = text.split("`")[1]  # of the type, not of the client
        return f"{f'{path}.' if path else ''}{name}: required, but missing; {_known_at(body_type, path)}"
    if text.startswith("Invalid "):  # it quotes the value
        known = _KNOWN_VALUES.get(path.rpartition(".")[2])
        return f"{path}: unknown value" + (f"; known values: {', '.join(known)}" if known else "")
    return f"{path or 'the body'}: {text[0].lower()}{text[1:]}"


def _meant(given: str, structs: list[msgspec.inspect.StructType]) -> str:
    """Return the name that the client gave, where it is like one that is known, and which field it may have meant."""
    known = [each.encode_name for struct in structs for each in struct.fields]
    if given == "parameters" and "inputs" in known:  # of Hugging Face's clients
        return " `parameters`, perhaps meant for POST /pipeline/token-classification"
    words = {other: name for other, name in _OTHER_NAMES.items() if name in known}
    words |= {word: name for name in reversed(known) for word in (*name.split("_"), name)}
    given = given[:_LONGEST]
    near = difflib.get_close_matches(given, words, n=1, cutoff=_LIKENESS)
    if not near:
        return ""
    is_misspelt = difflib.SequenceMatcher(None, given, near[0]).ratio() >= _MISSPELT
    return (f" `{given}`" if is_misspelt else "") + f", perhaps meant as {words[near[0]]}"


def _known_at(body_type: type[msgspec.Struct], path: str) -> str:
    """Return which fields there are at a place."""
    structs = _structs_at(body_type, path)
    if not any(struct.tag_field for struct in structs):
        names = dict.fromkeys(each.encode_name for struct in structs for each in struct.fields)
        return f"known fields: {', '.join(names)}"
    with_tags = (
        f"{', '.join(each.encode_name for each in struct.fields)} with {struct.tag}"
        for struct in structs
        if struct.fields
    )
    return f"known fields: {structs[0].tag_field}, and {'; '.join(with_tags)}"


def _structs_at(body_type: type[msgspec.Struct], path: str) -> list[msgspec.inspect.StructType]:
    """Return the kinds of object that may stand at a place of a body."""
    found = [msgspec.inspect.type_info(body_type)]
    for step in _STEP.finditer(path):
        found = [inner for each in _flat(found) for inner in _below(each, step[1])]
    return [each for each in _flat(found) if isinstance(each, msgspec.inspect.StructType)]


def _below(kind: msgspec.inspect.Type, name: str | None) -> list[msgspec.inspect.Type]:
    """Return what stands at a step below a type. name: of a field; None for an item of a list or of an object."""
    if name is not None:
        fields = kind.fields if isinstance(kind, msgspec.inspect.StructType) else ()
        return [each.type for each in fields if each.encode_name == name]
    inner: Any = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    return [*getattr(kind, "item_types", ()), *([inner] if inner else [])]


def _flat(kinds: list[msgspec.inspect.Type]) -> list[msgspec.inspect.Type]:
    """Return types without unions and notes on them."""
    found: list[msgspec.inspect.Type] = []
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.UnionType):
            found += _flat(list(kind.types))
        elif isinstance(kind, msgspec.inspect.Metadata):
            found += _flat([kind.type])
        else:
            found.append(kind)
    return found
