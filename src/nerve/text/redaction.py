"""Finds what must go in a text, by model and by rule, and writes the text without it. Pure.

    find_entities   rows of the engine and patterns  ─► entities that do not overlap
    redact          text, entities, operators        ─► new text, and where each piece was and is

Where a rule and the model overlap, the rule's entity stays and takes what it covers of the model's; what is left of
the model's on either side stays an entity of its own, unless it holds no letter and no digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nerve.text.offsets import positions_in, trim
from nerve.text.overlaps import without_overlaps
from nerve.types import Entity, OffsetUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nerve.text.operators import Numbers, Operators
    from nerve.text.patterns import Patterns
    from nerve.types import EntityFilter, Row


class Item(msgspec.Struct, frozen=True, gc=False):
    """One entity that was dealt with.

    start, end: in the text as it was; redacted_start, redacted_end: in the new one. operator: its name.
    """

    label: str
    score: float
    start: int
    end: int
    redacted_start: int
    redacted_end: int
    operator: str


class Redacted(msgspec.Struct, frozen=True):
    """A text after redaction. It is as before outside the items, which are in order and do not overlap."""

    text: str
    items: list[Item]


def find_entities(
    text: str, rows: Iterable[Row], patterns: Patterns | None, wanted: EntityFilter | None
) -> list[Entity]:
    """Return the entities of a text in order; none overlap, none is empty, none begins or ends with white space.

    rows: entities of the engine, offsets in code points, filtered already. wanted: filters what the patterns find.
    """
    entities = _of_model(text, rows)
    if patterns is None:
        return entities
    ruled = patterns.find(text, None if wanted is None else wanted.labels)
    return without_overlaps(text, [*ruled, *entities]) if ruled else entities


def redact(
    text: str,
    entities: Sequence[Entity],
    operators: Operators,
    numbers: Numbers,
    unit: OffsetUnit = OffsetUnit.CODE_POINT,
) -> Redacted:
    """Return the text with each entity replaced as its operator says.

    entities: in order, without overlaps, offsets in code points. unit: of the offsets in the answer.
    """
    parts: list[str] = []
    ranges: list[tuple[int, int]] = []
    position = length = 0
    for entity in entities:
        kept = text[position : entity.start]
        new = operators.apply(entity.label, text[entity.start : entity.end], numbers)
        parts += (kept, new)
        begin = length + len(kept)
        length = begin + len(new)
        ranges.append((begin, length))
        position = entity.end
    parts.append(text[position:])
    redacted = "".join(parts)
    before, after = positions_in(text, unit), positions_in(redacted, unit)
    items = [
        Item(
            entity.label,
            entity.score,
            before[entity.start] if before else entity.start,
            before[entity.end] if before else entity.end,
            after[begin] if after else begin,
            after[end] if after else end,
            operators.of(entity.label).name,
        )
        for entity, (begin, end) in zip(entities, ranges, strict=True)
    ]
    return Redacted(redacted, items)


def _of_model(text: str, rows: Iterable[Row]) -> list[Entity]:
    rows = list(rows)
    spans = trim(text, [(row.start, row.end) for row in rows])
    return [
        Entity(label, score, start, end)
        for row, (start, end) in zip(rows, spans, strict=True)
        if start < end
        for label, score in row.results.items()
    ]
