"""Entities that overlap."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nerve.text.overlaps import without_overlaps
from nerve.types import Entity


@given(
    st.text("a .", min_size=52, max_size=52),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=12),
)
def test_what_stays_does_not_overlap(text: str, spans: list[tuple[int, int]]) -> None:
    """And it has each letter that was found; the first one is whole."""
    entities = [Entity("X", 1.0, start, start + length) for start, length in spans]
    kept = without_overlaps(text, entities)
    assert all(left.end <= right.start for left, right in itertools.pairwise(kept))
    hidden = {index for entity in kept for index in range(entity.start, entity.end)}
    for entity in entities:
        assert all(index in hidden or text[index] != "a" for index in range(entity.start, entity.end))
    assert entities[0] in kept
    assert all(any(k.start >= e.start and k.end <= e.end for e in entities) for k in kept)
