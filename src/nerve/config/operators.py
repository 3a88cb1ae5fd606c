"""What can be done with a piece of text that must go: one checked class for each operator.

Names and parameters are those of Presidio's anonymizer; `number` is nerve's own. The same classes check the
configuration and requests; `nerve.text.operators` applies them.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

# The operator of labels that have none of their own.
DEFAULT = "DEFAULT"
# Characters of a text that is put in the place of an entity. A request may have 80,000 of them: without a bound one of
# 1 MB asked for an answer of 900 MB (docs/decisions/0063-length-of-replacements.md).
_LONGEST_VALUE = 256
# Bytes that a salt must have, as in Presidio.
_LEAST_SALT_BYTES = 16


class HashType(enum.StrEnum):
    """Hash functions."""

    SHA256 = "sha256"
    SHA512 = "sha512"


class _Operator(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="type",
):
    """Base: parameters that are null count as absent, unknown ones are refused."""

    @property
    def name(self) -> str:
        """The value of `type`."""
        return str(self.__struct_config__.tag)


class Replace(_Operator, frozen=True, tag="replace"):
    """Another text instead; empty or absent: `<LABEL>`."""

    new_value: Annotated[str, Meta(max_length=_LONGEST_VALUE)] | None = None


class Redact(_Operator, frozen=True, tag="redact"):
    """Nothing instead."""


class Mask(_Operator, frozen=True, tag="mask"):
    """One character instead of each code point; absent: `*`, all of them, from the beginning."""

    masking_char: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    chars_to_mask: Annotated[int, Meta(ge=0)] | None = None
    from_end: bool | None = None


class Hash(_Operator, frozen=True, tag="hash"):
    """A pseudonym: an HMAC with the server's key, or, with a salt, the hash of text and salt, as in Presidio."""

    hash_type: HashType | None = None
    salt: Annotated[str, Meta(extra_json_schema={"minLength": _LEAST_SALT_BYTES})] | None = None

    def __post_init__(self) -> None:
        """Refuse a salt with which texts could be guessed."""
        if self.salt is not None and len(self.salt.encode("utf-8", "surrogatepass")) < _LEAST_SALT_BYTES:
            raise ValueError(f"salt must have at least {_LEAST_SALT_BYTES} bytes")


class Keep(_Operator, frozen=True, tag="keep"):
    """The text itself."""


class Number(_Operator, frozen=True, tag="number"):
    """`<LABEL_1>`, `<LABEL_2>`: the same number for the same text with the same label."""


Operator = Replace | Redact | Mask | Hash | Keep | Number
OPERATOR_NAMES = ("replace", "redact", "mask", "hash", "keep", "number")
