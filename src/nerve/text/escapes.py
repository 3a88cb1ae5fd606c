r"""Gives a text without the escapes of JSON, HTML and URLs, so that rules find what is written in them. Pure.

Texts are often those of programs, as they are written: a JSON document (`https:\/\/x.org`, `\n10.0.0.1`, `\u003c`), a
page (`bob&#64;x.org`), the parameters of a URL (`bob%40x.org`, `10.0.0.1%0D%0A`), a form (`?card=4111+1111+1111+1111`).
Places in the new text lead back.
"""

from __future__ import annotations

import html
import re
from array import array
from itertools import chain

_HEX = "[0-9A-Fa-f]"
_CONTINUED = f"%[89ABab]{_HEX}"  # a byte of UTF-8 that is not a character's first
_ESCAPE = re.compile(
    rf"\\(?:u{_HEX}{{4}}|[nrtbf/\"\\])"
    rf"|&(?:#[0-9]{{1,7}}|#[xX]{_HEX}{{1,6}}|[A-Za-z][A-Za-z0-9]{{1,31}});"
    # Not all of ASCII's controls: `10%01` is rather text. Then UTF-8 of two, three and four bytes.
    rf"|%(?:[2-7]{_HEX}|0[9ADad]|[CDcd]{_HEX}{_CONTINUED}|[Ee]{_HEX}(?:{_CONTINUED}){{2}}"
    rf"|[Ff][0-4](?:{_CONTINUED}){{3}})"
)
_BACKSLASHES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_LAST_CHARACTER = 0x10FFFF
_LONGEST_OF_JSON = 6
# What a form is sent as (https://url.spec.whatwg.org/#urlencoded-serializing): a field's value in which a blank is `+`.
_FORM_VALUE = re.compile(r"=[A-Za-z0-9*\-._%]*+\+[A-Za-z0-9*\-._%+]*+")
_FIELD_NAME = re.compile(r"[A-Za-z0-9*\-._%+\[\]]{1,64}")


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
    written = _with_blanks(text)
    parts: list[str] = []
    starts = array("Q")
    position = 0
    if "\\" in written or "&" in written or "%" in written:
        for found in _ESCAPE.finditer(written):
            character = _character(found.group())
            if character is None:
                continue
            parts += (written[position : found.start()], character)
            starts.extend(chain(range(position, found.start()), (found.start(),)))
            position = found.end()
    if not parts and written is text:
        return None
    parts.append(written[position:])
    starts.extend(range(position, len(text) + 1))
    return Plain("".join(parts), starts)


def json_escape_at(text: str, start: int) -> tuple[int, int] | None:
    r"""Return the span of JSON's escape that a place is in, behind its backslash; None where it is in none.

    In JSON within JSON the backslash is escaped itself (`\\n`, `\\\\n`); all are the escape's. Other backslashes before
    them stand for backslashes: two in `\\\n`, four in `\\\\\\n`.
    """
    backslash = text.rfind("\\", max(0, start - _LONGEST_OF_JSON + 1), start)
    if backslash < 0:
        return None
    first = backslash
    while first and text[first - 1] == "\\":
        first -= 1
    run = backslash + 1 - first
    escape = _ESCAPE.match(text, backslash)
    if escape is None or escape.end() <= start:
        return None
    return backslash + 1 - (run & -run), escape.end()


def _with_blanks(text: str) -> str:
    """Return a text of the same length with blanks for `+` in the values of forms; the text itself without such.

    A form shows by its signs: `?name=` and `&name=`, or `name=` at the beginning of a word with `&` after the value.
    """
    if "+" not in text or "=" not in text:
        return text
    parts: list[str] = []
    position = 0
    for found in _FORM_VALUE.finditer(text):
        start, end = found.span()
        name = _FIELD_NAME.match(text[max(0, start - 64) : start][::-1])
        if name is None:
            continue
        before = text[max(0, start - name.end() - 1) : start - name.end()]
        if before in ("?", "&") or (
            (not before or before.isspace() or before in "\"'") and text[end : end + 1] == "&"
        ):
            parts += (text[position:start], found.group().replace("+", " "))
            position = end
    return "".join((*parts, text[position:])) if parts else text


def _character(escape: str) -> str | None:
    """Return what an escape stands for; None where there is no such character."""
    if escape[0] == "%":
        try:
            return bytes.fromhex(escape.replace("%", "")).decode()
        except UnicodeDecodeError:
            return None
    if escape[0] == "\\":
        return chr(int(escape[2:], 16)) if escape[1] == "u" else _BACKSLASHES.get(escape[1], escape[1])
    # As a browser does: `&#150;` is a dash of Windows. Names of two characters, all of mathematics, are left alone.
    character = html.unescape(escape)
    if len(character) == 1:
        return character
    if escape[1] != "#":
        return None
    code = int(escape[3:-1], 16) if escape[2] in "xX" else int(escape[2:-1])
    return chr(code) if code <= _LAST_CHARACTER else None
