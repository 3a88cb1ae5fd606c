"""Operators over many spans: what `/redact` writes is what presidio-anonymizer writes for the same spans.

Where the two differ on purpose stands in docs/guide/redaction.md, "Operators"; it is tested here, too.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import OperatorConfig, RecognizerResult

from nerve.config.operators import Operator
from nerve.text.operators import Numbers, Operators
from nerve.text.redaction import Redacted, redact
from nerve.types import Entity, OffsetUnit

LABELS = ("PERSON", "EMAIL", "ID_NUMBER")
# Values, some of which come again; no blanks at their ends, as entities have none.
VALUES = [
    "Anna",
    "anna",
    "Anna Maria",
    "é",
    "e\u0301",
    "👩\u200d👩\u200d👧",
    "😀😀",
    "שלום עולם",
    "a\r\nb",
    "1",
    "x" * 70,
]
BETWEEN = ["", ", ", "·", "\n-\n", " 😀 ", "e\u0301 is ", "\u202b", " and "]
SALTS = ["0123456789abcdef", "salt of sixteen é", "🧂" * 8]

Parts = list[tuple[str, str, str]]  # what stands before a value, the value, its label


def parts() -> st.SearchStrategy[Parts]:
    """Make texts with many spans: adjacent ones, equal values, any characters."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).map(
        lambda each: f"a{each}b"
    )
    value = st.one_of(st.sampled_from(VALUES), text)
    return st.lists(st.tuples(st.sampled_from(BETWEEN), value, st.sampled_from(LABELS)), max_size=12)


def operators() -> st.SearchStrategy[dict[str, dict[str, Any]]]:
    """Choose an operator for some labels, and for all others, with all that Presidio's needs."""
    operator = st.one_of(
        st.fixed_dictionaries({"type": st.just("replace")}, optional={"new_value": st.sampled_from(VALUES)}),
        st.just({"type": "redact"}),
        st.just({"type": "keep"}),
        st.fixed_dictionaries(
            {
                "type": st.just("mask"),
                "masking_char": st.sampled_from(["*", "#", "é", "😀"]),
                "chars_to_mask": st.integers(0, 100),
                "from_end": st.booleans(),
            }
        ),
        st.fixed_dictionaries(
            {
                "type": st.just("hash"),
                "hash_type": st.sampled_from(["sha256", "sha512"]),
                "salt": st.sampled_from(SALTS),
            }
        ),
    )
    return st.dictionaries(st.sampled_from([*LABELS, "DEFAULT"]), operator, max_size=4)


def spans_of(found: Parts) -> tuple[str, list[Entity]]:
    """Write the text of some parts, and where their values stand."""
    text, entities = "", []
    for before, value, label in found:
        start = len(text) + len(before)
        entities.append(Entity(label, 0.5, start, start + len(value)))
        text += before + value
    return f"{text}.", entities


def ours(text: str, entities: list[Entity], chosen: dict[str, dict[str, Any]]) -> Redacted:
    """Redact as `/redact` does."""
    read = msgspec.convert(chosen, dict[str, Operator])
    return redact(text, entities, Operators(read, b"k" * 16), Numbers(), OffsetUnit.CODE_POINT)


def presidios(text: str, entities: list[Entity], chosen: dict[str, dict[str, Any]]) -> Any:
    """Anonymize as Presidio does."""
    results = [RecognizerResult(each.label, each.start, each.end, each.score) for each in entities]
    configured = {
        label: OperatorConfig(
            operator["type"], {name: value for name, value in operator.items() if name != "type"}
        )
        for label, operator in chosen.items()
    }
    return AnonymizerEngine().anonymize(text, results, operators=configured)


@given(parts(), operators())
@example([("", "Anna", "PERSON"), ("", "Anna", "PERSON"), ("", "Anna", "EMAIL")], {})
@settings(max_examples=600, deadline=None, derandomize=True)
def test_as_presidio(found: Parts, chosen: dict[str, dict[str, Any]]) -> None:
    """Text, and place, label and operator of every item."""
    text, entities = spans_of(found)
    expected = presidios(text, entities, chosen)
    answer = ours(text, entities, chosen)
    assert answer.text == expected.text
    items = [(item.redacted_start, item.redacted_end, item.label, item.operator) for item in answer.items]
    # Presidio sorts by place; items of nothing at one place may change their order.
    assert sorted(items) == sorted(
        (item.start, item.end, item.entity_type, item.operator) for item in expected.items
    )


def test_where_only_blanks_are_between() -> None:
    """Presidio makes one of two spans with one label and blanks between; here each stays what was found."""
    text, entities = spans_of([("", "Anna", "PERSON"), (" ", "Maria", "PERSON")])
    assert presidios(text, entities, {}).text == "<PERSON>."
    assert ours(text, entities, {}).text == "<PERSON> <PERSON>."


def test_a_hash_without_salt() -> None:
    """Presidio's is another one each time; here it has the key of the server, so that equal values have equal ones."""
    text, entities = spans_of([("", "Anna", "PERSON"), (", ", "Anna", "PERSON")])
    chosen = {"DEFAULT": {"type": "hash"}}
    assert presidios(text, entities, chosen).text != presidios(text, entities, chosen).text
    first, second = ours(text, entities, chosen).text.rstrip(".").split(", ")
    assert first == second


@pytest.mark.parametrize("missing", ["masking_char", "chars_to_mask", "from_end"])
def test_a_mask_without_a_parameter(missing: str) -> None:
    """Presidio refuses it; here it has a default, which hides everything."""
    mask = {"type": "mask", "masking_char": "*", "chars_to_mask": 4, "from_end": False}
    del mask[missing]
    text, entities = spans_of([("", "Anna", "PERSON")])
    with pytest.raises(Exception, match=missing):
        presidios(text, entities, {"PERSON": mask})
    assert ours(text, entities, {"PERSON": mask}).text == "****."
