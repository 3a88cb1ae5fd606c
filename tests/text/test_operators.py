"""What is put in the place of a text: as Presidio does, and never anything of the text."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.config.operators import (
    DEFAULT,
    OPERATOR_NAMES,
    Hash,
    Keep,
    Mask,
    Number,
    Operator,
    Redact,
    Replace,
)
from nerve.text.operators import Numbers, Operators, apply_operator

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "operators.json"
KEY = b"0123456789abcdef"
CASES = json.loads(GOLDEN.read_text())["cases"]


def apply(operator: Operator, text: str, label: str = "PERSON") -> str:
    """Apply to one text."""
    return apply_operator(operator, label, text, KEY, Numbers())


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_as_presidio(case: dict[str, Any]) -> None:
    """The operators with Presidio's names give what presidio-anonymizer gave (record_operators.py)."""
    operator = msgspec.convert(case["operator"], Operator)
    assert f"before {apply(operator, case['value'])} after" == case["text"]


def test_every_kind_was_recorded() -> None:
    """All but `number`, which is nerve's own."""
    assert {case["operator"]["type"] for case in CASES} == {*OPERATOR_NAMES} - {"number"}


def test_defaults_hide_everything() -> None:
    """A mask without parameters covers the whole text; null counts as absent."""
    assert apply(Mask(), "Anna") == "****"
    assert (
        apply(msgspec.json.decode('{"type": "mask", "chars_to_mask": null}', type=Operator), "Anna") == "****"
    )
    assert apply(Replace(), "Anna", "X") == "<X>"
    assert apply(Hash(), "Anna") == hmac.new(KEY, b"Anna", hashlib.sha256).hexdigest()


def test_pseudonyms() -> None:
    """Equal for equal texts, whatever the label; others with another key."""
    assert apply(Hash(), "Anna", "A") == apply(Hash(), "Anna", "B") != apply(Hash(), "anna", "A")
    assert apply_operator(Hash(), "A", "Anna", b"another key 0123", Numbers()) != apply(Hash(), "Anna")


def test_numbers_are_by_label_and_text() -> None:
    """The same text with the same label has its number; each label counts for itself."""
    operators = Operators({DEFAULT: Number(), "KEPT": Keep()}, KEY)
    numbers = Numbers()
    given = [("A", "x"), ("A", "y"), ("B", "y"), ("A", "x"), ("A", "X"), ("KEPT", "x")]
    assert [operators.apply(label, text, numbers) for label, text in given] == [
        *("<A_1>", "<A_2>", "<B_1>", "<A_1>", "<A_3>", "x")
    ]
    assert operators.labels == ["KEPT"]
    assert Operators({}, KEY).of("A") == Replace()


@given(
    text=st.text(alphabet="äßж中😀\u0301", min_size=1, max_size=30),
    operator=st.sampled_from([Replace(), Redact(), Mask(), Hash(), Hash(salt="0123456789abcdef"), Number()]),
)
def test_nothing_of_the_text_is_left(text: str, operator: Operator) -> None:
    """No character of the text, which has none that an operator writes."""
    assert not set(apply(operator, text)) & set(text)
