"""Replaces entities that a client names, which may overlap, as Presidio's anonymizer does. Pure.

Its rules, in order (presidio_anonymizer/anonymizer_engine.py): entities of one type that overlap become one; one within
another goes, and of two at the same place the one with the lower score; those of one type with nothing but spaces
between become one. Where two of different types still overlap, the later one is replaced whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from nerve.text.operators import Numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.text.operators import Operators

_SPACES = re.compile(r" +\n?")


class Span(msgspec.Struct):
    """An entity, half-open in code points; order: its place among all where they are sorted."""

    label: str
    score: float
    start: int
    end: int
    order: int = 0


def anonymize(
    text: str, spans: Sequence[Span], operators: Operators
) -> tuple[str, list[tuple[str, int, str]]]:
    """Return the new text and, in its order, label, start and text of each piece that was put into it.

    spans: within the text; they are changed.
    """
    chosen = _join_over_spaces(text, _drop_contained(_join_overlaps(spans)))
    chosen.sort(key=lambda span: (span.start, span.end))
    numbers = Numbers()
    parts: list[str] = []
    pieces: list[tuple[str, int, str]] = []
    position = length = 0
    for index, span in enumerate(chosen):
        following = chosen[index + 1].start if index + 1 < len(chosen) else span.end
        new = operators.apply(span.label, text[span.start : span.end], numbers)
        kept = text[position : span.start]
        parts += (kept, new)
        pieces.append((span.label, length + len(kept), new))
        length += len(kept) + len(new)
        position = min(span.end, following)
    parts.append(text[position:])
    return "".join(parts), pieces


def _join_overlaps(spans: Sequence[Span]) -> list[Span]:
    """Join those of one label that share a code point; each takes the place of the last one in it."""
    by_label: dict[str, list[Span]] = {}
    for order, span in enumerate(sorted(spans, key=lambda span: (span.start, span.end))):
        span.order = order
        joined = by_label.setdefault(span.label, [])
        last = joined[-1] if joined else None
        if last is not None and min(last.end, span.end) > max(last.start, span.start):
            last.end = max(last.end, span.end)
            last.score = max(last.score, span.score)
            last.order = order
        else:
            joined.append(span)
    return sorted((span for joined in by_label.values() for span in joined), key=lambda span: span.order)


def _drop_contained(spans: list[Span]) -> list[Span]:
    """Drop what lies within another one; at the same place the highest score stays, the last one of equals."""
    kept: list[Span] = []
    largest_end = -1
    for span in sorted(spans, key=lambda span: (span.start, -span.end, -span.score, -span.order)):
        if span.end > largest_end:
            kept.append(span)
            largest_end = span.end
    return sorted(kept, key=lambda span: span.order)


def _join_over_spaces(text: str, spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in spans:
        last = kept[-1] if kept else None
        if last is not None and last.label == span.label and _SPACES.fullmatch(text, last.end, span.start):
            kept.pop()
            span.start = last.start
        kept.append(span)
    return kept
