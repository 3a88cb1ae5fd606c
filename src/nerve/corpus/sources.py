"""Finds the inputs of a run (arguments, stdin, files, folders, globs), and opens each with the reader of its format."""

from __future__ import annotations

import enum
import glob
import hashlib
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.corpus.columnar import ParquetReader
from nerve.corpus.readers import CsvReader, JsonReader, Lines, TextReader, WholeReader
from nerve.corpus.records import BadRow, InputError, Position, Record
from nerve.corpus.streams import PACKED, Stream, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nerve.corpus.readers import Reader

STDIN = "-"
_PATTERN_SIGNS = frozenset("*?[")


class Kind(enum.StrEnum):
    """How an input is cut into rows; the value is the ending of an output of that kind."""

    TEXT = "txt"
    WHOLE = "whole"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_SUFFIXES = {
    ".jsonl": Kind.JSONL,
    ".ndjson": Kind.JSONL,
    ".csv": Kind.CSV,
    ".tsv": Kind.CSV,
    ".parquet": Kind.PARQUET,
}


@dataclass(frozen=True)
class Source:
    """One input.

    title: for messages, and for the column `file`. name: its path below the folder of the output, by which a manifest
    knows it. path: None for arguments and stdin. texts: those of the arguments, from number `first` on.
    size: in bytes; of arguments, how many there are; None where nobody knows.
    """

    kind: Kind
    title: str
    name: str
    path: Path | None = None
    texts: Sequence[str] = ()
    first: int = 1
    size: int | None = None
    mtime_ns: int | None = field(default=None, compare=False)

    @property
    def file(self) -> str | None:
        """What stands in the column `file`."""
        return None if self.path is None else self.title

    @property
    def is_packed(self) -> bool:
        """Tell whether the file is compressed; its rows are what is in it."""
        return self.path is not None and self.path.suffix.lower() in PACKED

    @property
    def digest(self) -> str | None:
        """Of the texts of the command line, which have no time of a change; None for all else."""
        if not self.texts:
            return None
        return hashlib.sha256("\0".join(self.texts).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def n_bytes(self) -> int | None:
        """Bytes of all rows; None where nobody knows before they are read."""
        return None if self.texts or self.is_packed else self.size

    @property
    def can_seek(self) -> bool:
        """Tell whether it can be read from any place on."""
        return self.size is not None

    @contextmanager
    def open(self, column: str, start: Position = Position()) -> Iterator[Reader]:  # noqa: B008 - immutable
        """Give a reader that begins at `start`; column: name of the one with the text. Raises `InputError`."""
        if self.texts:
            yield _Arguments(self, start)
            return
        if self.kind is Kind.PARQUET:
            if self.path is None:
                raise InputError("Parquet cannot be read from stdin; name a file")
            reader = ParquetReader(self.path, self.title, column, self.file, start)
            try:
                yield reader
            finally:
                reader.close()
            return
        with self._stream() as stream:
            yield self._read(stream, column, start)

    @contextmanager
    def _stream(self) -> Iterator[Stream]:
        if self.path is None:
            yield Stream(sys.stdin.buffer, self.title)
            return
        stream = open_stream(self.path, self.title)
        try:
            yield stream
        finally:
            stream.close()

    def _read(self, stream: Stream, column: str, start: Position) -> Reader:
        if self.kind is Kind.WHOLE:
            return WholeReader(stream, self.title, self.file)
        lines = Lines(stream, self.title, digests=not self.can_seek)
        if self.kind is Kind.CSV:
            return CsvReader(lines, column, self.file, start)
        if start.offset > 0:
            lines.move_to(start)
        return (JsonReader if self.kind is Kind.JSONL else TextReader)(lines, column, self.file)


class _Arguments:
    """Reads the texts of the command line."""

    head = None
    unit_bytes = 1.0

    def __init__(self, source: Source, start: Position) -> None:
        self.position = start
        self._source = source

    def digest(self) -> str | None:
        """See `Reader`."""
        return None

    def __iter__(self) -> Iterator[Record | BadRow]:
        """See `Reader`."""
        for index, text in enumerate(self._source.texts[self.position.offset :], self.position.offset):
            self.position = Position(index + 1, index + 1)
            origin = f"argument {self._source.first + index}"
            try:  # bytes that are not UTF-8 reach Python as lone surrogates
                text.encode()
            except UnicodeEncodeError:
                yield BadRow(self._source.first + index, origin, "not valid UTF-8")
            else:
                yield Record(text, {"text": text}, "text", origin, self._source.first + index)


def find_sources(
    texts: Sequence[str], files: Sequence[str], kind: Kind | None = None, without: Path | None = None
) -> list[Source]:
    """Return the inputs in order: arguments, then files; `-` among either is stdin.

    files: paths, folders and globs. kind: None to go by the names of files. without: a folder that is not read.
    Raises `InputError` for a file that is not there, and for a folder or a glob without files.
    """
    return [*_of_arguments(texts, kind), *(s for name in files for s in _of_file(name, kind, without))]


def read_lines(file: str) -> list[str]:
    """Return the lines of a small file; `-` is stdin. Raises `InputError` at the first bad one."""
    texts: list[str] = []
    for source in find_sources([], [file], Kind.TEXT):
        with source.open("text") as reader:
            for row in reader:
                if isinstance(row, BadRow):
                    raise InputError(f"{row.origin}: {row.reason}")
                texts.append(row.text)
    return texts


def _of_arguments(texts: Sequence[str], kind: Kind | None) -> Iterator[Source]:
    together: list[str] = []
    for number, text in enumerate(texts, 1):
        if text != STDIN:
            together.append(text)
            continue
        if together:
            yield _arguments(together, number - len(together))
            together = []
        yield _stdin(kind)
    if together:
        yield _arguments(together, len(texts) + 1 - len(together))


def _arguments(texts: list[str], first: int) -> Source:
    return Source(Kind.TEXT, "arguments", "arguments.txt", texts=tuple(texts), first=first, size=len(texts))


def _stdin(kind: Kind | None) -> Source:
    kind = kind or Kind.TEXT
    suffix = Kind.TEXT if kind is Kind.WHOLE else kind
    return Source(kind, "stdin", f"stdin.{suffix.value}")


def _of_file(name: str, kind: Kind | None, without: Path | None) -> Iterator[Source]:
    path = Path(name)
    if name == STDIN:
        yield _stdin(kind)
    elif path.is_dir():
        yield from _of_folder(path, path, kind, without)
    elif path.exists() or not _PATTERN_SIGNS & set(name):
        yield _file(path, name, path.name, kind)
    else:
        base = _fixed_part(path)
        found = sorted(map(Path, glob.glob(name, recursive=True)))
        if not found:
            raise InputError(f"no file matches {name}; check the name, or quote a pattern")
        for match in found:
            if match.is_file():
                yield _file(match, str(match), match.relative_to(base).as_posix(), kind)
            elif match.is_dir() and "**" not in name:
                yield from _of_folder(match, base, kind, without)


def _fixed_part(path: Path) -> Path:
    """Return the folders of a glob before its first sign."""
    parts = list(path.parts)
    fixed = next(index for index, part in enumerate(parts) if _PATTERN_SIGNS & set(part))
    return Path(*parts[:fixed])


def _of_folder(folder: Path, base: Path, kind: Kind | None, without: Path | None) -> Iterator[Source]:
    """Yield the files below a folder; of a named format those with its endings; never hidden ones, or another run's."""
    wanted = {suffix for suffix, named in _SUFFIXES.items() if named is kind}
    n_found = 0
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] not in "._"
            and not (without is not None and (here / name).resolve() == without.resolve())
        )
        for name in sorted(names):
            path = here / name
            if name[0] in "._" or not path.is_file() or (wanted and _suffix_of(path) not in wanted):
                continue
            n_found += 1
            yield _file(path, str(path), path.relative_to(base).as_posix(), kind)
    if not n_found:
        what = f"no file that ends in {' or '.join(sorted(wanted))}" if wanted else "no file"
        raise InputError(f"{folder} has {what}; name another folder or a file")


def _suffix_of(path: Path) -> str:
    """Return the ending that names a format; the one of a compressed file stands before its own."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED else suffix


def _file(path: Path, title: str, name: str, kind: Kind | None) -> Source:
    chosen = kind or _SUFFIXES.get(_suffix_of(path), Kind.TEXT)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {title}: {error.strerror}; check its name and permissions") from None
    size = status.st_size if path.is_file() else None
    return Source(chosen, title, name, path, size=size, mtime_ns=status.st_mtime_ns)
