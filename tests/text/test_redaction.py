"""Texts without their entities: what is around stays, what is hidden is hidden, offsets on both sides are right."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve.config.operators import DEFAULT, Hash, Keep, Mask, Number, Operator, Redact, Replace
from nerve.text.filters import make_filter
from nerve.text.operators import Numbers, Operators
from nerve.text.patterns import Patterns
from nerve.text.redaction import Redacted, find_entities, redact
from nerve.types import Entity, OffsetUnit, PatternName, Row

KEY = b"0123456789abcdef"
ALL = Patterns([name for name in PatternName if name is not PatternName.PHONE_NUMBER], {})
# Emoji, a family of joined ones, right-to-left, combining marks, line ends, a character of four bytes.
HOSTILE = "aé\u0301👨\u200d👩\u200d👧😀محمد\u202e\r\n\t𝒳 .@1-"


def rows(*spans: tuple[int, int], label: str = "PER") -> list[Row]:
    """Give entities of the model."""
    return [Row("", 0, start, end, {label: 0.5}) for start, end in spans]


def cut(text: str, start: int, end: int, unit: OffsetUnit) -> str:
    """Slice a text as a program does that counts in a unit."""
    match unit:
        case OffsetUnit.CODE_POINT:
            return text[start:end]
        case OffsetUnit.BYTE:
            return text.encode()[start:end].decode()
        case OffsetUnit.UTF16:
            return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")


def parts_around(text: str, spans: list[tuple[int, int]], unit: OffsetUnit) -> list[str]:
    """Give what is before, between and after spans."""
    size = {OffsetUnit.CODE_POINT: len(text), OffsetUnit.BYTE: len(text.encode())}
    edges = [
        0,
        *(edge for span in spans for edge in span),
        size.get(unit, len(text.encode("utf-16-le")) // 2),
    ]
    return [cut(text, edges[k], edges[k + 1], unit) for k in range(0, len(edges), 2)]


OPERATORS = st.sampled_from(
    [Replace(), Replace(new_value="[😀]"), Redact(), Mask(), Mask(masking_char="█"), Hash(), Keep(), Number()]
)


@given(
    text=st.text(alphabet=HOSTILE, max_size=60),
    places=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=8),
    operator=OPERATORS,
    unit=st.sampled_from(OffsetUnit),
    uses_patterns=st.booleans(),
)
def test_outside_the_items_nothing_changes(
    text: str, places: list[tuple[int, int]], operator: Operator, unit: OffsetUnit, uses_patterns: bool
) -> None:
    """Byte for byte, and the offsets of both texts slice right in every unit."""
    spans, last = [], 0
    for start, length in sorted(places):
        start, end = max(start, last), min(start + length, len(text))  # noqa: PLW2901
        if start < end:
            spans.append((start, end))
            last = end
    entities = find_entities(text, rows(*spans), ALL if uses_patterns else None, None)
    found = redact(text, entities, Operators({DEFAULT: operator}, KEY), Numbers(), unit)
    before = [(item.start, item.end) for item in found.items]
    after = [(item.redacted_start, item.redacted_end) for item in found.items]
    assert before == sorted(before)
    assert all(start < end for start, end in before)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(before))
    assert parts_around(text, before, unit) == parts_around(found.text, after, unit)
    covered = set().union(*(range(e.start, e.end) for e in entities)) if entities else set()
    left_out = {place for span in spans for place in range(*span)} - covered
    assert not any(text[place].isalnum() for place in left_out)  # white space and signs beside a rule's
    for item, entity in zip(found.items, entities, strict=True):
        source = cut(text, item.start, item.end, unit)
        new = cut(found.text, item.redacted_start, item.redacted_end, unit)
        assert source == text[entity.start : entity.end] == source.strip()
        assert (new == source) is isinstance(operator, Keep) or not source.strip("█*")
        assert item.operator == operator.name


def test_a_rule_wins_and_takes_what_it_covers() -> None:
    """What is left of the model's entity stays hidden, unless there is nothing in it."""
    text = "12 Main St, bob@x.org <ann@y.org>"
    for spans, expected in (
        ([(0, 21)], [("PER", "12 Main St,"), ("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
        ([(12, 15)], [("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
        ([(22, 33)], [("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
        ([(8, 14), (19, 28)], [("PER", "St,"), ("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
        ([(3, 33)], [("PER", "Main St,"), ("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
        ([(3, 7)], [("PER", "Main"), ("EMAIL", "bob@x.org"), ("EMAIL", "ann@y.org")]),
    ):
        entities = find_entities(text, rows(*spans), ALL, None)
        assert [(e.label, text[e.start : e.end]) for e in entities] == expected


def test_filters_hold_for_rules() -> None:
    """A rule that was not asked for hides nothing and wins over nothing."""
    text = "bob@x.org 123-45-6789"
    wanted = make_filter(["PER", "US_SSN"], 0.9)
    entities = find_entities(text, rows((0, 3)), ALL, wanted)
    assert [(e.label, e.start, e.end) for e in entities] == [("PER", 0, 3), ("US_SSN", 10, 21)]


@pytest.mark.parametrize("text", ["", " ", "x"])
def test_without_entities_the_text_is_the_same(text: str) -> None:
    """Nothing is found in nothing."""
    assert redact(text, find_entities(text, [], ALL, None), Operators({}, KEY), Numbers()) == Redacted(
        text, []
    )


def test_equal_values_have_equal_numbers() -> None:
    """Through all texts of a request."""
    operators, numbers = Operators({DEFAULT: Number()}, KEY), Numbers()
    texts = ["a@x.org b@x.org", "b@x.org c@x.org a@x.org"]
    found = [redact(text, find_entities(text, [], ALL, None), operators, numbers).text for text in texts]
    assert found == ["<EMAIL_1> <EMAIL_2>", "<EMAIL_2> <EMAIL_3> <EMAIL_1>"]


def test_a_long_text_with_many_entities() -> None:
    """1 MB of addresses; each item is where it says."""
    text = "bob@x.org, " * 95_000
    found = redact(text, find_entities(text, [], ALL, None), Operators({}, KEY), Numbers(), OffsetUnit.BYTE)
    assert found.text == "<EMAIL>, " * 95_000
    assert found.items[-1].redacted_end == len(found.text) - 2


def test_entities_that_touch() -> None:
    """Neighbours without anything between them."""
    entities = [Entity("A", 1.0, 0, 1), Entity("B", 1.0, 1, 2)]
    assert redact("xy", entities, Operators({}, KEY), Numbers()).text == "<A><B>"
