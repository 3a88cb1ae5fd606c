"""Reads what a call or a request chooses by name. Pure; called by `nerve.api` and the endpoints, from any thread."""

from __future__ import annotations

import enum
from typing import TypeVar

from nerve.errors import InvalidRequest

EnumT = TypeVar("EnumT", bound=enum.StrEnum)


def member_of(enumeration: type[EnumT], value: str, field: str) -> EnumT:
    """Return the member of that value. Raises `InvalidRequest` with the name of the field and what is known there.

    The message does not quote the value, which could be input text.
    """
    try:
        return enumeration(value)
    except ValueError:
        known = ", ".join(member.value for member in enumeration)
        raise InvalidRequest(f"{field}: unknown value; known values: {known}") from None
