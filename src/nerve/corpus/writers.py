"""Writes rows with their answers as lines, JSON lines and CSV; `columnar` writes Parquet."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

from nerve.corpus.readers import CsvHead
from nerve.corpus.records import InputError

if TYPE_CHECKING:
    from nerve.corpus.records import Answer, Record

FILE = "file"
_encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(frozen=True, slots=True)
class Layout:
    """What becomes of the columns of a row.

    field: name of the column with the text. replaces: the text is that of the answer.
    column: gets what was found; None: nobody wants it.
    drops_text: the text is left out. names_file: a column `file` names the input; a column of that name stays.
    """

    field: str
    replaces: bool
    column: str | None
    drops_text: bool = False
    names_file: bool = False

    def columns(self, record: Record, answer: Answer) -> dict[str, Any]:
        """Return the columns of a row as they are written."""
        columns = record.columns()
        if self.replaces:
            columns[record.field] = answer.text
        elif self.drops_text:
            del columns[record.field]
        if self.names_file and record.file is not None and FILE not in columns:
            columns = {FILE: record.file, **columns}
        if self.column is not None:
            columns[self.column] = answer.found
        return columns


class Writer(Protocol):
    """Writes the rows of one output."""

    def start(self, head: object) -> None:
        """Write what an output begins with, also one without rows; head: that of the input's reader."""

    def write(self, record: Record, answer: Answer) -> None:
        """Add a row."""

    def close(self) -> None:
        """Write what is still to be written; the stream stays open."""


class LineWriter:
    """A text for a line, or for a whole input."""

    def __init__(self, stream: BinaryIO) -> None:
        self._write = stream.write

    def start(self, head: object) -> None:
        """See `Writer`."""

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        text = record.text if answer.text is None else answer.text
        self._write(f"{record.beginning}{text}{record.ending}".encode())

    def close(self) -> None:
        """See `Writer`."""


class JsonWriter:
    """A JSON object on a line."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self._write = stream.write
        self._layout = layout

    def start(self, head: object) -> None:
        """See `Writer`."""

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        self._write(_encode(self._layout.columns(record, answer)) + b"\n")

    def close(self) -> None:
        """See `Writer`."""


class CsvWriter:
    """A record below a line of names; what was found is JSON in its cell.

    A stream that goes on with another input must have the same names.
    """

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self._stream = stream
        self._layout = layout
        self._names: list[str] | None = None
        self._line = io.StringIO(newline="")

    def start(self, head: object) -> None:
        """See `Writer`."""
        assert isinstance(head, CsvHead)  # noqa: S101 - of a CSV file
        layout = self._layout
        wanted = [name for name in head.names if not (layout.drops_text and name == layout.field)]
        if layout.names_file and FILE not in wanted:
            wanted.insert(0, FILE)
        if layout.column is not None:
            wanted.append(layout.column)
        if self._names is not None and self._names != wanted:
            raise InputError(
                "CSV files with different columns cannot go to one file; name a folder with --output"
            )
        # With this ending Python before 3.13, too, puts both of its signs into quotes.
        self._csv = csv.writer(self._line, delimiter=head.delimiter, lineterminator="\r\n")
        self._ending = head.ending
        if self._names is None:
            self._names = wanted
            self._stream.write(head.beginning.encode())
            self._put(wanted)

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        columns = self._layout.columns(record, answer)
        if self._layout.names_file:
            columns.setdefault(FILE, "")  # stdin has no name
        column = self._layout.column
        if column is not None:
            columns[column] = _encode(columns[column]).decode()
        self._put([columns[name] for name in self._names or ()])

    def close(self) -> None:
        """See `Writer`."""

    def _put(self, cells: list[str]) -> None:
        self._csv.writerow(cells)
        self._stream.write((self._line.getvalue().removesuffix("\r\n") + self._ending).encode())
        self._line.seek(0)
        self._line.truncate()
