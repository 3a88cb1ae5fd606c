"""Puts entities together that may overlap, so that nothing of any of them is shown. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.text.offsets import trim
from nerve.types import Entity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def without_overlaps(text: str, ranked: Sequence[Entity]) -> list[Entity]:
    """Return entities in order, without overlaps: of each, what those before it in `ranked` leave of it.

    What is left of one begins and ends with no white space, and has a letter or a digit.
    """
    taken = bytearray(max((entity.end for entity in ranked), default=0))
    kept = []
    for entity in ranked:
        for run in _free_runs(taken, entity):
            if run == (entity.start, entity.end):
                kept.append(entity)
                continue
            ((start, end),) = trim(text, [run])
            if any(map(str.isalnum, text[start:end])):
                kept.append(Entity(entity.label, entity.score, start, end))
        taken[entity.start : entity.end] = b"\x01" * (entity.end - entity.start)
    return sorted(kept, key=lambda entity: entity.start)


def _free_runs(taken: bytearray, entity: Entity) -> Iterator[tuple[int, int]]:
    """Yield the parts of an entity that are not taken."""
    start = taken.find(0, entity.start, entity.end)
    while start >= 0:
        end = taken.find(1, start, entity.end)
        end = entity.end if end < 0 else end
        yield start, end
        start = taken.find(0, end, entity.end)
