"""Writes sizes as people read them."""

from __future__ import annotations


def bytes_for_people(n: int) -> str:
    """Return `1.5 GB`; units are powers of 1,000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"
