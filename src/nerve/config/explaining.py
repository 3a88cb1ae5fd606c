"""Adds to a message about the configuration what stands there, and what could stand there instead."""

from __future__ import annotations

import enum
import re
from typing import Any

import msgspec

from nerve.config.schema import Config

# Keys whose values are shown to nobody.
_SECRET = re.compile("salt|key|token|password")
_LONGEST = 60


def what_stands_there(document: object, message: str) -> str:
    """Return `; it is 'abc'`, and the known values, for what msgspec says of one place; "" where that does not help."""
    text, _, where = message.partition(" - at `$")
    if "..." in where or text.startswith("Object "):
        return ""
    path = re.findall(r"[^.\[\]`]+", where)
    value, declared = document, Config
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
            section = section_in(declared)
            fields = msgspec.structs.fields(section) if section is not None else ()
            declared = next((field.type for field in fields if field.name == name), Any)  # type: ignore[assignment]
        elif isinstance(value, list) and name.isdecimal():
            value = value[int(name)]
    said = ""
    is_plain = isinstance(value, str | int | float)
    if is_plain and repr(value) not in text and not any(map(_SECRET.search, path)):
        said = f"; it is {repr(value)[:_LONGEST]}"
    known = _members(declared)
    return f"{said}; known: {', '.join(known)}" if text.startswith("Invalid enum") and known else said


def section_in(declared: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401 - types of fields are of many classes
    """Return the section class of a declared type such as `TlsConfig | None`, or None for a plain value."""
    options = (declared, *getattr(declared, "__args__", ()))
    return next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)


def _members(declared: Any) -> list[str]:  # noqa: ANN401 - types of fields are of many classes
    """Return the values of the enum that a type is, or that it is made of."""
    if isinstance(declared, type) and issubclass(declared, enum.Enum):
        return [str(member.value) for member in declared]
    return next(filter(None, map(_members, getattr(declared, "__args__", ()))), [])
