"""Places in a text: units in which they are counted, and white space at the ends of spans. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nerve.types import OffsetUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def positions_in(text: str, unit: OffsetUnit) -> Sequence[int] | None:
    """Give the position of every code point boundary in `unit`, or None where it is the boundary itself.

    8 bytes for each, where a list would take 40.
    """
    if unit is OffsetUnit.CODE_POINT or text.isascii():
        return None
    # A lone surrogate has no UTF-8 form; it is counted as the three bytes of its code point.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = np.ones(len(points), dtype=np.int64)  # units of each code point
    widths += points >= 0x10000
    if unit is OffsetUnit.BYTE:
        widths += points >= 0x80
        widths += points >= 0x800
    positions = np.zeros(len(points) + 1, dtype=np.int64)
    np.cumsum(widths, out=positions[1:])
    return positions.data


def trim(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Take white space off both ends of spans in order, and what the span before covers; some may become empty."""
    trimmed = []
    last = 0
    for start, end in spans:
        part = text[max(start, last) : end]
        begin = end - len(part.lstrip()) if part else end
        stop = begin + len(part.strip())
        trimmed.append((begin, stop))
        last = max(last, stop)
    return trimmed
