"""The values that go through a run: a row with its text, a row that is bad, a place in an input, an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nerve.errors import NerveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.text.redaction import Item
    from nerve.types import Row

# Input of a part. A run that is cut off does at most so much again.
PART_BYTES = 8 << 20


class InputError(NerveError):
    """An input cannot be read; the message names the file and the row, and never quotes them."""


class Position(msgspec.Struct, frozen=True):
    """A place between two rows of an input.

    offset: what has been read: in bytes; in rows of a Parquet file, or in arguments.
    number: the line, or the row, that was read last.
    """

    offset: int = 0
    number: int = 0


class Columns(Protocol):
    """The columns of a row that are not in a dict."""

    def to_dict(self) -> dict[str, Any]:
        """Return them by name."""

    def __contains__(self, name: object, /) -> bool:
        """Tell whether there is a column of that name."""


@dataclass(slots=True)
class Record:
    """One row of an input.

    fields: its columns, the text among them (`msgspec.Raw` where they are copied as they stand).
    field: the name of the column with the text.
    origin: where it stands, for messages: "a.txt, line 3"; number: its line, or its row.
    file: name of the input, or None for arguments and stdin.
    ending: what ended its line. beginning: what stood before the text and is not of it, a byte order mark.
    """

    text: str
    fields: Mapping[str, Any] | Columns
    field: str
    origin: str
    number: int
    file: str | None = None
    ending: str = "\n"
    beginning: str = ""

    def has(self, column: str) -> bool:
        """Tell whether there is a column of that name."""
        return column in self.fields

    def columns(self) -> dict[str, Any]:
        """Return the columns by name."""
        fields = self.fields
        return dict(fields) if isinstance(fields, Mapping) else fields.to_dict()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read or answered.

    number: its line, or its row; 0 for the whole input. content: the row as it stands; None where it is not at hand.
    """

    number: int
    origin: str
    reason: str
    content: bytes | None = None


class Answer(msgspec.Struct, frozen=True):
    """What was found in a text.

    text: the text without it; None where the text stays.
    found: rows of `predict`, items of `redact`; as JSON where another process has written them.
    labels: how often each label was found; None to count them in `found`.
    """

    text: str | None
    found: Sequence[Row] | Sequence[Item] | msgspec.Raw
    labels: Mapping[str, int] | None = None


class Refused(msgspec.Struct, frozen=True):
    """A text that nobody can answer, and why."""

    reason: str
