"""Gives a text as its reader sees it, so that rules find what is written in other characters than ASCII's. Pure.

What has no width and what marks the character before it is left out; digits of any script, and letters of another
form (full width, mathematical, in circles: Unicode's compatibility forms), become those of ASCII, and so do `@`, `.`,
`-`, `:`, `/` and the blank. Every character becomes one or none, so that places lead back.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from functools import lru_cache
from itertools import chain

# Characters of a step: one holds the interpreter lock for some ms.
_STEP = 32_768
_SIGNS = "@.-:/ "
_MARKS = ("Mn", "Me")
# Left out: characters of no width, or that are only drawn with others. `Cc` are controls, but for white space.
_WITHOUT_WIDTH = (*_MARKS, "Cf", "Cc", "Cs")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
# Letters and unassigned characters that Unicode calls default ignorable: fillers of Hangul, and plane 14.
_IGNORABLE = re.compile("[\u115f\u1160\u2065\u3164\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]")
_BRAILLE_BLANK = "\u2800"
# Different characters whose folding is kept in mind: those of all scripts in use together.
_KEPT = 65_536


class Folded:
    """A folded text; `span` leads back."""

    def __init__(self, text: str, folds: dict[int, str]) -> None:
        self._original = text
        self._dropped = frozenset(chr(code) for code, new in folds.items() if not new)
        self.text = "".join(text[at : at + _STEP].translate(folds) for at in range(0, len(text), _STEP))
        self._places: array[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where a piece of the folded text, not empty, is in the text; with the marks of its last character."""
        if not self._dropped:
            return start, end
        if self._places is None:
            self._places = array(
                "Q", (at for at, character in enumerate(self._original) if character not in self._dropped)
            )
        start, end = self._places[start], self._places[end - 1] + 1
        while end < len(self._original) and unicodedata.category(self._original[end]) in _MARKS:
            end += 1
        return start, end


def fold(text: str) -> Folded | None:
    """Return the folded text; None where it would be the text itself."""
    if text.isascii() and _ASCII_CONTROL.search(text) is None:
        return None
    characters = set(chain.from_iterable(set(text[at : at + _STEP]) for at in range(0, len(text), _STEP)))
    folds = {ord(character): new for character in characters if (new := _fold(character)) != character}
    return Folded(text, folds) if folds else None


@lru_cache(maxsize=_KEPT)
def _fold(character: str) -> str:
    category = unicodedata.category(character)
    if (category in _WITHOUT_WIDTH and not character.isspace()) or _IGNORABLE.match(character):
        return ""
    if character == _BRAILLE_BLANK:
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", character)
    is_plain = len(plain) == 1 and plain.isascii() and (plain.isalnum() or plain in _SIGNS)
    return plain if is_plain else character
