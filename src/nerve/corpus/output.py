"""Where the rows of a run go: one stream, or a folder of parts with a manifest."""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

from nerve.corpus.answers import labels_of
from nerve.corpus.columnar import ParquetWriter
from nerve.corpus.manifest import Entry, Header, Manifest, OutputError
from nerve.corpus.records import PART_BYTES, InputError, Position
from nerve.corpus.sources import Kind
from nerve.corpus.writers import CsvWriter, JsonWriter, LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nerve.corpus.readers import Reader
    from nerve.corpus.records import Answer, BadRow, Record
    from nerve.corpus.sources import Source
    from nerve.corpus.writers import Layout, Writer

# What a Parquet file counts is rows; this many bytes are taken for one.
_BYTES_OF_A_ROW = 160
ERRORS = "_errors"
_NUMBER = re.compile(r"-[0-9]{5,}(?=\.[^./]*$|$)")


class Part:
    """Rows of one input that are written together.

    n_read, n_done: good rows read, and answered; it is whole when it `is_read` and they are equal. end: see `Entry`.
    """

    def __init__(self, source: Source, number: int, start: Position, writer: Writer) -> None:
        self.source = source
        self.number = number
        self.start = start
        self.end = start
        self.is_last = False
        self.is_read = False
        self.digest: str | None = None
        self.n_read = self.n_done = self.n_rows = self.n_bad = 0
        self.labels: Counter[str] = Counter()
        self._writer = writer

    def begin(self, reader: Reader) -> None:
        """Take over from the input what an output begins with."""
        self._writer.start(reader.head)

    def write(self, record: Record, answer: Answer) -> None:
        """Add a row."""
        self._writer.write(record, answer)
        self.n_rows += 1
        self.labels.update(labels_of(answer))


class Output(Protocol):
    """Takes the parts of a run, in order."""

    def resume_at(self, source: Source) -> tuple[Position, int] | None:
        """Return where an input goes on, and the number of its next part; None where all of it is done."""

    def most_of_part(self, source: Source) -> int | None:
        """Return how much of an input makes a part, in the unit of `Position.offset`; None for all of it."""

    def begin(self, source: Source, number: int, start: Position) -> Part:
        """Open a part."""

    def reject(self, part: Part, bad: BadRow) -> None:
        """Put a bad row where it is not lost."""

    def commit(self, part: Part) -> None:
        """Take a part that is whole."""

    def finish(self) -> None:
        """Write what stands at the end of everything."""


class StreamOutput:
    """All rows, one after the other, into one stream."""

    def __init__(
        self,
        stream: BinaryIO,
        writer_of: Callable[[Source, BinaryIO], Writer],
        say: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._writer_of = writer_of
        self._say = say
        self._kind: Kind | None = None
        self._writer: Writer | None = None

    def resume_at(self, source: Source) -> tuple[Position, int] | None:
        """See `Output`."""
        return Position(), 0

    def most_of_part(self, source: Source) -> int | None:
        """See `Output`."""
        return None

    def begin(self, source: Source, number: int, start: Position) -> Part:
        """See `Output`."""
        if self._writer is None or self._kind is not source.kind:
            self._writer = self._writer_of(source, self._stream)
            self._kind = source.kind
        return Part(source, number, start, self._writer)

    def reject(self, part: Part, bad: BadRow) -> None:
        """See `Output`."""
        part.n_bad += 1
        self._say(f"{bad.origin}: {bad.reason}; left out")

    def commit(self, part: Part) -> None:
        """See `Output`."""

    def finish(self) -> None:
        """See `Output`."""
        if self._writer is not None:
            self._writer.close()


class _FilePart(Part):
    """A part with a file of its own, and one for its bad rows."""

    def __init__(
        self,
        source: Source,
        number: int,
        start: Position,
        path: Path,
        errors: Path,
        writer: Writer,
        stream: BinaryIO,
    ) -> None:
        super().__init__(source, number, start, writer)
        self.path = path
        self._errors_path = errors
        self._stream: BinaryIO | None = stream
        self._errors: BinaryIO | None = None

    def begin(self, reader: Reader) -> None:
        """See `Part`. Raises `OutputError`, as all methods do."""
        with _writing(self.path):
            super().begin(reader)

    def write(self, record: Record, answer: Answer) -> None:
        """See `Part`."""
        try:
            super().write(record, answer)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def reject(self, bad: BadRow) -> None:
        """Write a bad row, as it stands and with its reason, to the error part."""
        self.n_bad += 1
        with _writing(self._errors_path):
            self._reject(bad)

    def _reject(self, bad: BadRow) -> None:
        if self._errors is None:
            self._errors_path.parent.mkdir(parents=True, exist_ok=True)
            # The rows are as they came, also where the run takes personal data out.
            self._errors = open(_hidden(self._errors_path), "wb", opener=_open_private)  # noqa: SIM115
        line: dict[str, Any] = {"input": self.source.title, "row": bad.number, "reason": bad.reason}
        self._errors.write(msgspec.json.encode(line | _content_of(bad)) + b"\n")

    def finish(self) -> None:
        """Give the files their names; they are on the disk when this returns."""
        with _writing(self.path):
            self._writer.close()
            _place(self._stream, self.path, is_wanted=self.n_rows > 0 or self.n_bad == 0)
            _place(self._errors, self._errors_path, is_wanted=self.n_bad > 0)
        self._stream = self._errors = None

    def abandon(self) -> None:
        """Remove what is not whole."""
        for stream, path in ((self._stream, self.path), (self._errors, self._errors_path)):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
            _hidden(path).unlink(missing_ok=True)


class FolderOutput:
    """A folder that mirrors the inputs, in parts, with a manifest and error parts.

    header: what the run is. splits: False where an input must stay in one part. suffix_of: ending that the name of an
    input gets, "" for its own.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        layout: Layout,
        kind_of: Callable[[Source], Kind],
        *,
        resume: bool,
        splits: bool = True,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._folder = folder
        self._layout = layout
        self._kind_of = kind_of
        self._splits = splits
        self._part_bytes = part_bytes
        self._open: list[_FilePart] = []
        self.manifest = Manifest(folder, header, resume=resume)

    def resume_at(self, source: Source) -> tuple[Position, int] | None:
        """See `Output`. Raises `OutputError` for an input that is another one now."""
        last = self.manifest.last.get(source.name)
        if last is None:
            return Position(), 0
        # An earlier version kept no digest of arguments.
        is_other = None not in (source.digest, last.digest) and source.digest != last.digest
        if is_other or (last.size, last.mtime_ns) != (source.size, source.mtime_ns):
            raise OutputError(
                f"{source.title} has changed since the run in {self._folder} began; choose another folder"
            )
        return None if last.last else (last.end, last.number + 1)

    def digest_of(self, source: Source) -> str | None:
        """Return the digest of what was read of a stream before."""
        last = self.manifest.last.get(source.name)
        return None if last is None else last.digest

    def most_of_part(self, source: Source) -> int | None:
        """See `Output`."""
        if not self._splits or source.kind is Kind.WHOLE or source.texts:
            return None
        if source.n_bytes is not None and source.n_bytes <= self._part_bytes:
            return None
        is_counted = source.kind is Kind.PARQUET
        return max(1, self._part_bytes // _BYTES_OF_A_ROW) if is_counted else self._part_bytes

    def begin(self, source: Source, number: int, start: Position) -> _FilePart:
        """See `Output`."""
        kind = self._kind_of(source)
        name = self.name_of(source, number)
        path = self._folder / name
        errors = self._folder / ERRORS / f"{name}.jsonl"
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = _hidden(path).open("wb")
        writer = make_writer(kind, stream, self._layout)
        part = _FilePart(source, number, start, path, errors, writer, stream)
        part.digest = source.digest
        self._open.append(part)
        return part

    def name_of(self, source: Source, number: int) -> str:
        """Return the path of a part below the folder."""
        kind = self._kind_of(source)
        name = PurePosixPath(source.name)
        if source.is_packed:
            name = name.with_suffix("")
        if kind not in (source.kind, Kind.WHOLE) and source.path is not None:
            name = name.with_name(f"{name.name}.{kind.value}")
        elif source.path is None:
            name = name.with_suffix(f".{kind.value}")
        if self.most_of_part(source) is not None:
            name = name.with_name(f"{name.stem}-{number:05d}{name.suffix}")
        return name.as_posix()

    def reject(self, part: Part, bad: BadRow) -> None:
        """See `Output`."""
        assert isinstance(part, _FilePart)  # noqa: S101 - of `begin`
        part.reject(bad)

    def commit(self, part: Part) -> None:
        """See `Output`."""
        assert isinstance(part, _FilePart)  # noqa: S101 - of `begin`
        part.finish()
        self._open.remove(part)
        source = part.source
        self.manifest.add(
            Entry(
                self.name_of(source, part.number) if part.n_rows > 0 or part.n_bad == 0 else None,
                source.name,
                part.number,
                part.n_rows,
                part.n_bad,
                part.end,
                part.is_last,
                dict(part.labels),
                source.size,
                source.mtime_ns,
                part.digest,
            )
        )

    def finish(self) -> None:
        """See `Output`."""

    def close(self) -> None:
        """Remove what is not whole, and let another run have the folder."""
        for part in self._open:
            part.abandon()
        self.manifest.close()


def make_writer(kind: Kind, stream: BinaryIO, layout: Layout) -> Writer:
    """Return what writes rows in a format."""
    if kind is Kind.JSONL:
        return JsonWriter(stream, layout)
    if kind is Kind.CSV:
        return CsvWriter(stream, layout)
    if kind is Kind.PARQUET:
        return ParquetWriter(stream, layout)
    return LineWriter(stream)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}; mend that, then go on with --resume")


def _hidden(path: Path) -> Path:
    """Return the name of a file that is not whole."""
    return path.with_name(f".{path.name}.part")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _content_of(bad: BadRow) -> dict[str, Any]:
    if bad.content is None:
        return {}
    try:
        return {"content": bad.content.decode()}
    except UnicodeDecodeError:
        return {"content_base64": base64.b64encode(bad.content).decode()}


def _place(stream: BinaryIO | None, path: Path, *, is_wanted: bool) -> None:
    """Give a file its name, or remove one of that name that an earlier try left."""
    if stream is not None:
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
    if stream is not None and is_wanted:
        _hidden(path).replace(path)
    else:
        _hidden(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def check_names(output: FolderOutput, sources: Iterable[Source]) -> None:
    """Raise `InputError` where two inputs would be written under one name."""
    taken: dict[str, bool] = {}
    for source in sources:
        is_split = output.most_of_part(source) is not None
        name = _NUMBER.sub("-", output.name_of(source, 0)) if is_split else output.name_of(source, 0)
        if name in taken or (not is_split and taken.get(_NUMBER.sub("-", name), False)):
            raise InputError(
                f"{source.name} would be written more than once; name files, or folders, of different names"
            )
        taken[name] = is_split
