"""A run: reads rows, has them answered, writes them, in order.

`answers` reads texts a bounded distance ahead. So a row is in memory between its reading and its writing only, and a
part is open as long as one of its rows is on its way.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nerve.corpus.manifest import OutputError
from nerve.corpus.output import FolderOutput
from nerve.corpus.records import BadRow, InputError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from nerve.corpus.output import Output, Part
    from nerve.corpus.readers import Reader
    from nerve.corpus.records import Answer, Position, Record
    from nerve.corpus.sources import Source

    Answers = Callable[[Iterable[str]], Generator[Answer | Refused, None, None]]
    Finish = Callable[[Source, Record, Answer], Answer]


@dataclass
class Totals:
    """What a run has written, parts of earlier tries among it."""

    rows: int = 0
    bad: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, rows: int, bad: int, labels: Mapping[str, int]) -> None:
        """Count a part that is written."""
        self.rows += rows
        self.bad += bad
        self.labels.update(labels)


@dataclass(slots=True)
class _OnItsWay:
    """A row that waits for its answer; n_bytes: what it takes in its input, about."""

    record: Record
    part: Part
    n_bytes: float


class Run:
    """One run over all sources.

    column: name of the one with the text. taken: a column that the output adds, which no row may have already.
    skip_bad: False to end at the first bad row. finish: what is done to an answer before it is written.
    advance: is called with the bytes of the input, and the rows, that are done with, as they are; with the bytes alone
    of what an earlier try has done, and of what holds no row. In the end the bytes are those of all files.
    """

    def __init__(
        self,
        output: Output,
        column: str,
        *,
        taken: str | None = None,
        skip_bad: bool = False,
        finish: Finish | None = None,
        advance: Callable[[float, int], None] | None = None,
    ) -> None:
        self.totals = Totals()
        self._output = output
        self._column = column
        self._taken = taken
        self._skip_bad = skip_bad
        self._finish = finish
        self._advance = advance
        self._waiting: deque[_OnItsWay] = deque()
        self._parts: deque[Part] = deque()

    def over(self, sources: Iterable[Source], answers: Answers) -> Totals:
        """Do it all. Raises `InputError` at the first bad row unless they are skipped, and `OutputError`."""
        with closing(answers(self._texts(sources))) as answered:
            for answer in answered:
                row = self._waiting.popleft()
                self._write(row, answer)
                row.part.n_done += 1
                if row.part.is_read:
                    self._commit_whole()
                self._say(row.n_bytes)
        self._commit_whole()
        self._output.finish()
        return self.totals

    def _write(self, row: _OnItsWay, answer: Answer | Refused) -> None:
        record = row.record
        if isinstance(answer, Refused):
            content = record.text.encode("utf-8", "surrogatepass")
            self._reject(row.part, BadRow(record.number, record.origin, answer.reason, content))
            return
        if self._finish is not None:
            answer = self._finish(row.part.source, record, answer)
        row.part.write(record, answer)

    def _texts(self, sources: Iterable[Source]) -> Iterator[str]:
        for source in sources:
            place = self._output.resume_at(source)
            if place is not None:
                yield from self._texts_of(source, *place)
            else:
                self._check_done(source)
                self._skip(source, 0.0)

    def _texts_of(self, source: Source, start: Position, number: int) -> Iterator[str]:
        part: Part | None = None
        n_done = 0.0  # bytes that are said, or will be when their rows are written
        try:
            with source.open(self._column, start) as reader:
                self._check_stream(source, reader, start)
                part = self._begin(source, number, start, reader)
                most = self._output.most_of_part(source)
                is_full = False
                n_done = start.offset * reader.unit_bytes
                self._say(n_done, 0)
                for row in reader:
                    if is_full:
                        self._end(part)
                        part = self._begin(source, part.number + 1, part.end, reader)
                    n_bytes = (reader.position.offset - part.end.offset) * reader.unit_bytes
                    n_done += n_bytes
                    part.end = reader.position
                    if is_full := most is not None and part.end.offset - part.start.offset >= most:
                        part.digest = reader.digest()
                    checked = self._checked(row)
                    if isinstance(checked, BadRow):
                        self._reject(part, checked)
                        self._say(n_bytes)
                    else:
                        part.n_read += 1
                        self._waiting.append(_OnItsWay(checked, part, n_bytes))
                        yield checked.text
                part.is_last = True
                part.digest = reader.digest() or part.digest
                self._end(part)
        except InputError as error:
            if not self._skip_bad:
                raise
            self._end_unread(source, part, number, start, error)
        self._skip(source, n_done)

    def _begin(self, source: Source, number: int, start: Position, reader: Reader) -> Part:
        part = self._output.begin(source, number, start)
        part.begin(reader)  # may refuse the input: then there is no part of it to wait for
        self._parts.append(part)
        return part

    def _end(self, part: Part) -> None:
        part.is_read = True
        self._commit_whole()

    def _end_unread(
        self, source: Source, part: Part | None, number: int, start: Position, error: InputError
    ) -> None:
        """End an input that cannot be read any further: what was read of it stands, the rest is one bad row."""
        if part is None or part.is_read:
            part = self._output.begin(source, number if part is None else part.number + 1, start)
            self._parts.append(part)
        self._reject(part, BadRow(0, source.title, str(error)))
        part.is_last = part.is_read = True
        part.digest = source.digest  # of what is not read to its end nobody can say that it is the same
        self._commit_whole()

    def _checked(self, row: Record | BadRow) -> Record | BadRow:
        if isinstance(row, BadRow) or self._taken is None or not row.has(self._taken):
            return row
        reason = f"there is a field `{self._taken}` already, which would be lost"
        return BadRow(row.number, row.origin, reason, row.text.encode())

    def _reject(self, part: Part, bad: BadRow) -> None:
        if not self._skip_bad:
            hint = "; mend it, or leave such rows out with --skip-bad"
            raise InputError(f"{bad.origin}: {bad.reason}{hint}" if bad.number else bad.reason)
        self._output.reject(part, bad)

    def _say(self, n_bytes: float, n_rows: int = 1) -> None:
        if self._advance is not None:
            self._advance(n_bytes, n_rows)

    def _skip(self, source: Source, n_done: float) -> None:
        """Say that the rest of a file holds no row, or was written by an earlier try."""
        if source.n_bytes is not None:
            self._say(source.n_bytes - n_done, 0)

    def _commit_whole(self) -> None:
        """Hand over the parts that are whole, in order."""
        while self._parts and self._parts[0].is_read and self._parts[0].n_done == self._parts[0].n_read:
            part = self._parts.popleft()
            self._output.commit(part)
            self.totals.add(part.n_rows, part.n_bad, part.labels)

    def _check_stream(self, source: Source, reader: Reader, start: Position) -> None:
        """Refuse a stream that begins otherwise than the one whose rows are there already."""
        output = self._output
        if start.offset == 0 or source.can_seek or not isinstance(output, FolderOutput):
            return
        before = output.digest_of(source)
        if before is not None and reader.digest() != before:
            raise _is_another(source)

    def _check_done(self, source: Source) -> None:
        """Refuse a stream that is not the one of which all rows are there; a file is known by its size and time."""
        output = self._output
        if source.texts or source.can_seek or not isinstance(output, FolderOutput):
            return
        before = output.digest_of(source)
        if before is None:
            return
        try:
            with source.open(self._column) as reader:
                for _ in reader:
                    pass
                is_same = reader.digest() == before
        except InputError:  # the one that was read could be read
            if not self._skip_bad:
                raise
            is_same = False
        if not is_same:
            raise _is_another(source)


def _is_another(source: Source) -> OutputError:
    return OutputError(f"{source.title} is not what the run began with; choose another folder")
