"""Reads the texts of `nerve predict` and `nerve verify`: arguments, files, stdin, as lines or JSON lines.

Lines are read as they are needed, so that a pipe may be endless. Every failure is an `InputError` that
names the place but never quotes the text.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from nerve.errors import NerveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STDIN = "-"
_BOM = b"\xef\xbb\xbf"


class InputError(NerveError):
    """An input cannot be read; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One text to predict.

    fields: the JSON object that holds the text; {"text": text} where the input is not JSON.
    field: its key in `fields`.
    origin: where the text stands, for messages.
    """

    fields: dict[str, Any]
    field: str
    origin: str

    @property
    def text(self) -> str:
        """The text itself."""
        text: str = self.fields[self.field]
        return text


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is cut into texts.

    whole: the file is one text. jsonl: each line is a JSON object whose key `field` is the text.
    """

    whole: bool = False
    jsonl: bool = False
    field: str = "text"


def read_records(texts: Sequence[str], files: Sequence[str], form: Format) -> Iterator[Record]:
    """Yield the texts given as arguments, then those of the files, in order; `-` among either is stdin.

    Raises `InputError` at the first bad line, after all before it were yielded.
    """
    for number, text in enumerate(texts, 1):
        if text == STDIN:
            yield from _read_file(STDIN, form)
        else:
            yield Record({"text": _check_argument(text, number)}, "text", f"argument {number}")
    for file in files:
        yield from _read_file(file, form)


def count_records(texts: Sequence[str], files: Sequence[str], form: Format) -> int | None:
    """Return how many texts there will be, or None when that cannot be told before reading them."""
    paths = [Path(file) for file in files]
    if STDIN in texts or not all(path.is_file() for path in paths):
        return None
    return len(texts) + sum(1 if form.whole else _count_lines(path) for path in paths)


def _read_file(name: str, form: Format) -> Iterator[Record]:
    title = "stdin" if name == STDIN else name
    try:
        if name == STDIN:
            yield from _read_stream(sys.stdin.buffer, title, form)
        else:
            with Path(name).open("rb") as stream:
                yield from _read_stream(stream, title, form)
    except OSError as error:
        raise InputError(f"cannot read {title}: {error.strerror}") from error


def _read_stream(stream: BinaryIO, title: str, form: Format) -> Iterator[Record]:
    if form.whole:
        yield Record({"text": _decode(stream.read().removeprefix(_BOM), title)}, "text", title)
        return
    for number, line in enumerate(stream, 1):
        origin = f"{title}, line {number}"
        text = _decode(line.removeprefix(_BOM) if number == 1 else line, origin)
        text = text.removesuffix("\n").removesuffix("\r")
        yield (
            _parse_object(text, form.field, origin) if form.jsonl else Record({"text": text}, "text", origin)
        )


def _parse_object(line: str, field: str, origin: str) -> Record:
    try:
        value = msgspec.json.decode(line)
    except msgspec.DecodeError:
        raise InputError(f"{origin}: not valid JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{origin}: not a JSON object")
    if not isinstance(value.get(field), str):
        what = "is not a string" if field in value else "is missing"
        raise InputError(f"{origin}: the field `{field}` {what}; --field names the one with the text")
    return Record(value, field, origin)


def _decode(data: bytes, origin: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not valid UTF-8 at byte {error.start + 1}") from None


def _check_argument(text: str, number: int) -> str:
    """Refuse an argument that held bytes which are not UTF-8: Python passes them on as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"argument {number}: not valid UTF-8") from None
    return text


def _count_lines(path: Path) -> int:
    n_lines = 0
    last = b"\n"
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            n_lines += block.count(b"\n")
            last = block
    return n_lines + (not last.endswith(b"\n"))
