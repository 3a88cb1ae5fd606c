"""Goes through a long text with a regular expression in short steps, since one holds the interpreter lock. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

# Characters of a step: some ms at worst.
_STEP = 32_768


def find_all(pattern: re.Pattern[str], text: str, longest: int) -> Iterator[re.Match[str]]:
    """Give what `pattern.finditer(text)` gives. longest: characters of a match, and of what is looked at after it."""
    position = 0
    while position < len(text):
        stop = position + _STEP
        for found in pattern.finditer(text, position, stop + longest):
            if found.start() >= stop:
                break
            yield found
            position = found.end()
        position = max(position, stop)
