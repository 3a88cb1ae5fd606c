r"""Gives a text without the escapes of JSON, HTML and URLs, so that rules find what is written in them. Pure.

Texts are often those of programs, as they are written: a JSON document (`https:\/\/x.org`, `\n10.0.0.1`, `\u003c`), a
page (`bob&#64;x.org`), the parameters of a URL (`bob%40x.org`). Places in the new text lead back.
"""

from __future__ import annotations

import re
from array import array
from itertools import chain

_ESCAPE = re.compile(
    r"\\(?:u[0-9A-Fa-f]{4}|[nrtbf/\"\\])"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos|nbsp|commat|period|colon|sol|hyphen);"
    r"|%[2-7][0-9A-Fa-f]"
)
# Those with a letter or a digit at their end that stand before words.
_BEFORE_WORDS = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|[nrt])")
_BACKSLASHES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_NAMES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": "\u00a0"}
_NAMES |= {"commat": "@", "period": ".", "colon": ":", "sol": "/", "hyphen": "-"}
_LAST_CHARACTER = 0x10FFFF


class Plain:
    """A text without escapes; `span` leads back.

    starts: where each of its characters, and its end, is in the text with escapes.
    """

    def __init__(self, text: str, starts: array[int]) -> None:
        self.text = text
        self._starts = starts

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where a piece of the new text is in the text with escapes."""
        return self._starts[start], self._starts[end]


def unescape(text: str) -> Plain | None:
    """Return the text without escapes; None where there are none."""
    if "\\" not in text and "&" not in text and "%" not in text:
        return None
    parts: list[str] = []
    starts = array("Q")
    position = 0
    for found in _ESCAPE.finditer(text):
        character = _character(found.group())
        if character is None:
            continue
        parts += (text[position : found.start()], character)
        starts.extend(chain(range(position, found.start()), (found.start(),)))
        position = found.end()
    if not parts:
        return None
    parts.append(text[position:])
    starts.extend(range(position, len(text) + 1))
    return Plain("".join(parts), starts)


def after_escape(text: str, start: int) -> int:
    r"""Return where a word begins that was read backwards to `start`: after an escape like `\n` whose end it took."""
    if text[max(0, start - 2) : start].endswith("\\") and text[max(0, start - 2) : start] != "\\\\":
        escape = _BEFORE_WORDS.match(text, start - 1)
        if escape is not None:
            return escape.end()
    return start


def _character(escape: str) -> str | None:
    """Return what an escape stands for; None where there is no such character."""
    if escape[0] == "%":
        return chr(int(escape[1:], 16))
    if escape[0] == "\\":
        return chr(int(escape[2:], 16)) if escape[1] == "u" else _BACKSLASHES.get(escape[1], escape[1])
    name = escape[1:-1]
    if name[0] != "#":
        return _NAMES[name]
    code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    return chr(code) if code <= _LAST_CHARACTER else None
