"""Reads the rows of an input: lines, a whole file, JSON lines, CSV; `columnar` reads Parquet.

A reader yields rows in order, good ones and bad ones, and its `position` is the place after the row that it yielded
last; another reader can begin there. It holds one row at a time, and no row above `MOST_ROW_BYTES` but a whole file.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nerve.corpus.records import BadRow, InputError, Position, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nerve.corpus.streams import Stream

# A row above this is bad: memory must not depend on the input.
MOST_ROW_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"  # what programs of Windows begin a file with: not of the text, and kept before it
_BLOCK = 1 << 20
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_TOO_LONG = f"longer than {MOST_ROW_BYTES >> 20} MiB"


@dataclass(frozen=True, slots=True)
class CsvHead:
    """What stands above the records: their names, how lines are cut and ended, and a byte order mark or nothing."""

    names: list[str]
    delimiter: str
    ending: str
    beginning: str = ""


class Reader(Protocol):
    """See the module.

    head: what an output of the same format begins with. unit_bytes: bytes of the unit of `position.offset`, on average.
    """

    head: Any
    unit_bytes: float

    @property
    def position(self) -> Position:
        """The place after the last row."""

    def digest(self) -> str | None:
        """Return the SHA-256 of all that was read, where nothing else tells an input from another."""

    def __iter__(self) -> Iterator[Record | BadRow]:
        """Yield the rows. Raises `InputError` where the input as a whole cannot be read."""


class Lines:
    """The lines of a stream, with their place; a line that is too long is read over.

    digests: keep a digest of all bytes, for streams that cannot seek.
    """

    def __init__(self, stream: Stream, title: str, *, digests: bool = False) -> None:
        self.title = title
        self.position = Position()
        self._stream = stream
        self._again: deque[bytes] = deque()
        self._digest = hashlib.sha256() if digests else None

    def move_to(self, start: Position) -> None:
        """Go on at a later place; a stream that cannot seek is read over."""
        if self._digest is None:
            self._stream.seek(start.offset)
        else:
            n_bytes = start.offset - self.position.offset
            while n_bytes > 0 and (block := self._stream.read(min(n_bytes, _BLOCK))):
                self._count(block)
                n_bytes -= len(block)
        self.position = start

    def digest(self) -> str | None:
        """Return the SHA-256 of what stands before `position`; None where nobody keeps it, or lines come again."""
        return None if self._digest is None or self._again else self._digest.hexdigest()

    def next(self) -> bytes | None:
        """Return the next line with its end; b"" at the end, None for a line that is too long."""
        line: bytes | None
        if self._again:
            line = self._again.popleft()
        else:
            line = self._stream.readline(MOST_ROW_BYTES + 1)
            self._count(line)
        if not line:
            return b""
        n_bytes = len(line)
        if n_bytes > MOST_ROW_BYTES:
            while not line.endswith(b"\n") and (line := self._stream.readline(_BLOCK)):
                n_bytes += len(line)
                self._count(line)
            line = None
        self.position = Position(self.position.offset + n_bytes, self.position.number + 1)
        return line

    def give_back(self, lines: list[bytes]) -> None:
        """Let lines that were just read come again."""
        self._again.extendleft(reversed(lines))
        n_bytes = sum(map(len, lines))
        self.position = Position(self.position.offset - n_bytes, self.position.number - len(lines))

    def origin(self, number: int | None = None) -> str:
        """Say where the last line stands."""
        return f"{self.title}, line {self.position.number if number is None else number}"

    def bad(self, reason: str, content: bytes | None, number: int | None = None) -> BadRow:
        """Return the last line, or the row that began at `number`, as a bad row."""
        number = self.position.number if number is None else number
        return BadRow(number, self.origin(number), reason, content)

    def _count(self, block: bytes) -> None:
        if self._digest is not None:
            self._digest.update(block)


class _LineReader:
    """Base of what reads line by line."""

    head = None
    unit_bytes = 1.0

    def __init__(self, lines: Lines, field: str, file: str | None) -> None:
        self._lines = lines
        self._field = field
        self._file = file
        self._begins = lines.position.offset == 0
        self._mark = ""

    @property
    def position(self) -> Position:
        """See `Reader`."""
        return self._lines.position

    def digest(self) -> str | None:
        """See `Reader`."""
        return self._lines.digest()

    def __iter__(self) -> Iterator[Record | BadRow]:
        """See `Reader`."""
        while (line := self._lines.next()) != b"":
            if line is None:
                yield self._lines.bad(_TOO_LONG, None)
                continue
            self._mark = ""
            if self._begins:
                line, self._mark = _without_mark(line)
                self._begins = False
            yield self._row(line)

    def _row(self, line: bytes) -> Record | BadRow:
        raise NotImplementedError


class TextReader(_LineReader):
    """A line is a text."""

    def _row(self, line: bytes) -> Record | BadRow:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            return self._lines.bad(f"not valid UTF-8 at byte {error.start + 1}", line)
        content = text.removesuffix("\n").removesuffix("\r")
        number = self._lines.position.number
        origin, ending = self._lines.origin(), text[len(content) :]
        return Record(content, {"text": content}, "text", origin, number, self._file, ending, self._mark)


class JsonReader(_LineReader):
    """A line is a JSON object, one of whose fields is the text; the others are copied as they stand."""

    def _row(self, line: bytes) -> Record | BadRow:
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            line.decode()
            fields: dict[str, Any] = dict(_decode_object(line))
        except UnicodeDecodeError as error:
            return self._lines.bad(f"not valid UTF-8 at byte {error.start + 1}", line)
        except msgspec.ValidationError:
            return self._lines.bad("not a JSON object", line)
        except (msgspec.DecodeError, RecursionError):
            return self._lines.bad("not valid JSON", line)
        field = self._field
        if field not in fields:
            return self._lines.bad(
                f"the field `{field}` is missing; --field names the one with the text", line
            )
        try:
            text = _decode_text(fields[field])
        except msgspec.ValidationError:
            return self._lines.bad(
                f"the field `{field}` is not a string; --field names the one with the text", line
            )
        except msgspec.DecodeError:
            return self._lines.bad("not valid JSON", line)
        fields[field] = text
        return Record(text, fields, field, self._lines.origin(), self._lines.position.number, self._file)


class WholeReader:
    """The input is one text."""

    head = None
    unit_bytes = 1.0

    def __init__(self, stream: Stream, title: str, file: str | None) -> None:
        self.position = Position()
        self._stream = stream
        self._title = title
        self._file = file

    def digest(self) -> str | None:
        """See `Reader`."""
        return None

    def __iter__(self) -> Iterator[Record | BadRow]:
        """See `Reader`."""
        content = self._stream.read()  # of any length: it is what was asked for
        self.position = Position(len(content), 1)
        rest, mark = _without_mark(content)
        try:
            text = rest.decode()
        except UnicodeDecodeError as error:
            yield BadRow(1, self._title, f"not valid UTF-8 at byte {error.start + 1}", content)
            return
        yield Record(text, {"text": text}, "text", self._title, 1, self._file, "", mark)


class CsvReader:
    """A row is a record of RFC 4180, below a line of names. Raises `InputError` where that line has no `field`.

    A record that cannot be parsed is bad in its first line, and reading goes on with the next line: a quote that is
    not closed costs one row, not the rest of the file.
    """

    unit_bytes = 1.0

    def __init__(self, lines: Lines, field: str, file: str | None, start: Position) -> None:
        csv.field_size_limit(sys.maxsize)
        self._lines = lines
        self._field = field
        self._file = file
        self._delimiter = ","
        self.head = self._read_head(lines)
        if start.offset > 0:
            lines.move_to(start)

    @property
    def position(self) -> Position:
        """See `Reader`."""
        return self._lines.position

    def digest(self) -> str | None:
        """See `Reader`."""
        return self._lines.digest()

    def __iter__(self) -> Iterator[Record | BadRow]:
        """See `Reader`."""
        while True:
            first = self._lines.position.number + 1
            record, cells, wrong = self._next()
            if not record and not wrong:
                return
            if wrong:
                yield self._lines.bad(wrong, b"".join(record) or None, first)
            elif cells:
                yield self._row(first, record, cells)

    def _read_head(self, head: Lines) -> CsvHead:
        record, _, _ = self._next()
        if not record:
            raise InputError(f"{head.title}: no line of names; write one as its first")
        record[0], mark = _without_mark(record[0])
        for self._delimiter in (",", ";", "\t", "|"):
            names = self._parse(record)
            if names is not None and self._field in names:
                break
        else:
            raise InputError(
                f"{head.title}: no column `{self._field}`; name the one with the text with --field"
            )
        if len(set(names)) < len(names):
            raise InputError(f"{head.title}: two columns have the same name; rename one")
        ending = "\r\n" if record[-1].endswith(b"\r\n") else "\n"
        return CsvHead(names, self._delimiter, ending, mark)

    def _parse(self, record: list[bytes]) -> list[str] | None:
        try:
            return next(
                csv.reader([line.decode() for line in record], delimiter=self._delimiter, strict=True), []
            )
        except (csv.Error, UnicodeDecodeError):
            return None

    def _next(self) -> tuple[list[bytes], list[str], str]:
        """Return the lines of the next record, its cells, and what is wrong with it."""
        read: list[bytes] = []
        wrong = ""

        def feed() -> Iterator[str]:
            nonlocal wrong
            n_bytes = 0
            while line := self._lines.next():
                read.append(line)
                n_bytes += len(line)
                if n_bytes > MOST_ROW_BYTES:
                    return
                yield line.decode("utf-8", "surrogateescape")
            if line is None:
                wrong = _TOO_LONG

        try:
            cells = next(csv.reader(feed(), delimiter=self._delimiter, strict=True), [])
        except csv.Error:
            if wrong:  # what was read over cannot come again
                return read, [], wrong
            self._lines.give_back(read[1:])
            return read[:1], [], "not valid CSV: a quote is not closed, or stands within a cell"
        return read, cells, wrong

    def _row(self, first: int, record: list[bytes], cells: list[str]) -> Record | BadRow:
        content = b"".join(record)
        if len(cells) != len(self.head.names):
            reason = f"{len(cells)} cells; the first line names {len(self.head.names)}"
            return self._lines.bad(reason, content, first)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            return self._lines.bad(f"not valid UTF-8 at byte {error.start + 1}", content, first)
        fields = dict(zip(self.head.names, cells, strict=True))
        return Record(fields[self._field], fields, self._field, self._lines.origin(first), first, self._file)


def _without_mark(content: bytes) -> tuple[bytes, str]:
    """Return the beginning of an input without its byte order mark, and the mark, "" where there is none."""
    rest = content.removeprefix(_BOM)
    return rest, content[: len(content) - len(rest)].decode()
