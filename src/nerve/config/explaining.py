"""Says of a wrong configuration which key it is, what stands there, and what could stand there instead."""

from __future__ import annotations

import difflib
import enum
import re
from typing import Any

import msgspec

from nerve.config.schema import Config

# Keys whose values are shown to nobody.
_SECRET = re.compile("salt|key|token(?!s)|password")
_LONGEST = 60


def explain(document: object, message: str) -> str:
    """Turn what msgspec says of a document into `path: what is wrong; it is 'abc'; known: ...`."""
    text, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    declared = type_at(path.split("."))
    if "unknown field" in text:
        key = text.split("`")[1]
        section = section_in(declared if path else Config)
        known = [field.name for field in msgspec.structs.fields(section)] if section else []
        near = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(key, known, n=1))
        here = f"{near or ';'} known here: {', '.join(known)}" if known else ""
        return f"{f'{path}.' if path else ''}{key}: unknown key{here}"
    if "missing required field" in text:
        key = text.split("`")[1]
        return f"{f'{path}.' if path else ''}{key}: required, but missing"
    is_number = text.startswith("Expected `str") and text.endswith(("got `int`", "got `float`"))
    hint = "; put it in quotes" if is_number else ""  # YAML reads a version such as 1.0 as a number
    if "matching regex" in text and (form := _form(declared)):
        text = f"Expected {form}"
    return f"{path or 'config'}: {text[0].lower()}{text[1:]}{hint}{_what_stands_there(document, message)}"


def _what_stands_there(document: object, message: str) -> str:
    """Return `; it is 'abc'`, and the known values, for what msgspec says of one place; "" where that does not help."""
    text, _, where = message.partition(" - at `$")
    if "..." in where or text.startswith("Object "):
        return ""
    path = re.findall(r"[^.\[\]`]+", where)
    value = document
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal():
            value = value[int(name)]
    said = ""
    is_plain = isinstance(value, str | int | float)
    if is_plain and repr(value) not in text and not any(map(_SECRET.search, path)):
        said = f"; it is {repr(value)[:_LONGEST]}"
    known = _members(type_at([name for name in path if not name.isdecimal()]))
    return f"{said}; known: {', '.join(known)}" if text.startswith("Invalid enum") and known else said


def type_at(path: list[str]) -> Any:  # noqa: ANN401 - types of fields are of many classes
    """Return the declared type of the key at a path of the config; `Any` where there is none."""
    found: Any = Config
    for name in path:
        section = section_in(found)
        fields = msgspec.structs.fields(section) if section else ()
        found = next((field.type for field in fields if field.name == name), Any)
    return found


def section_in(declared: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401 - types of fields are of many classes
    """Return the section class of a declared type such as `TlsConfig | None`, or None for a plain value."""
    options = (declared, *getattr(declared, "__args__", ()))
    return next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)


def _form(declared: Any) -> str:  # noqa: ANN401 - types of fields are of many classes
    """Return in words what a text must look like, where the schema says so."""
    for each in (declared, *getattr(declared, "__args__", ())):
        for meta in getattr(each, "__metadata__", ()):
            if meta.extra:
                return str(meta.extra["form"])
    return ""


def _members(declared: Any) -> list[str]:  # noqa: ANN401 - types of fields are of many classes
    """Return the values of the enum that a type is, or that it is made of."""
    if isinstance(declared, type) and issubclass(declared, enum.Enum):
        return [str(member.value) for member in declared]
    return next(filter(None, map(_members, getattr(declared, "__args__", ()))), [])
