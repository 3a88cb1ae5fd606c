"""Puts something else in the place of a piece of text: the operators of `redaction.operators`, applied.

`replace`, `redact`, `mask`, `keep`, and `hash` with a salt, give what Presidio's anonymizer gives. No result but that
of `keep`, and of `mask` beyond its `chars_to_mask`, holds anything of the text. Pure but for `Numbers`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from nerve.config.operators import DEFAULT, Hash, HashType, Keep, Mask, Number, Operator, Redact, Replace

if TYPE_CHECKING:
    from collections.abc import Mapping

_HASHES = {HashType.SHA256: hashlib.sha256, HashType.SHA512: hashlib.sha512}


class Numbers:
    """The numbers that `number` has given: one for each text and label, from 1 on, as long as this lives."""

    def __init__(self) -> None:
        self._given: dict[str, dict[str, int]] = {}

    def of(self, label: str, text: str) -> int:
        """Return the number of a text, a new one at its first time."""
        known = self._given.setdefault(label, {})
        return known.setdefault(text, len(known) + 1)


class Operators:
    """Which operator each label has, and the key of their pseudonyms.

    chosen: by label, or DEFAULT for all others; where there is no DEFAULT, it is `replace`.
    """

    def __init__(self, chosen: Mapping[str, Operator], key: bytes) -> None:
        self._chosen = chosen
        self._default = chosen.get(DEFAULT, Replace())
        self._key = key

    @property
    def labels(self) -> list[str]:
        """The labels that have an operator of their own."""
        return [label for label in self._chosen if label != DEFAULT]

    def of(self, label: str) -> Operator:
        """Return the operator of a label."""
        return self._chosen.get(label, self._default)

    def apply(self, label: str, text: str, numbers: Numbers) -> str:
        """Return what is put in the place of a text."""
        return apply_operator(self.of(label), label, text, self._key, numbers)


def apply_operator(operator: Operator, label: str, text: str, key: bytes, numbers: Numbers) -> str:
    """Return what is put in the place of a text with a label.

    key: of `hash` without a salt. numbers: of `number`.
    """
    match operator:
        case Replace():
            return operator.new_value or f"<{label}>"
        case Redact():
            return ""
        case Mask():
            return _mask(operator, text)
        case Hash():
            return _hash(operator, text, key)
        case Keep():
            return text
        case Number():
            return f"<{label}_{numbers.of(label, text)}>"


def _mask(operator: Mask, text: str) -> str:
    sign = operator.masking_char or "*"
    count = len(text) if operator.chars_to_mask is None else min(operator.chars_to_mask, len(text))
    kept = len(text) - count
    return text[:kept] + sign * count if operator.from_end else sign * count + text[count:]


def _hash(operator: Hash, text: str, key: bytes) -> str:
    make = _HASHES[operator.hash_type or HashType.SHA256]
    content = text.encode("utf-8", "surrogatepass")
    if operator.salt is not None:  # presidio_anonymizer/operators/hash.py
        return make(content + operator.salt.encode("utf-8", "surrogatepass")).hexdigest()
    return hmac.new(key, content, make).hexdigest()
