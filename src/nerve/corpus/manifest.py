"""The manifest of a run: which part holds which rows of which input, one line for each part that is whole.

A part is there under its name before its line is written, and its line says where its input goes on. So a run that was
cut off anywhere begins again behind the last line, writes the part after it once more under the same name, and no row
is lost or there twice.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from nerve.corpus.records import Position
from nerve.errors import NerveError

MANIFEST = "_manifest.jsonl"


class OutputError(NerveError):
    """The output cannot be written; the message says what to do."""


class Header(msgspec.Struct, frozen=True):
    """The first line: what was asked for. A run goes on only with the same `settings`."""

    nerve: str
    command: str
    settings: dict[str, Any]


class Entry(msgspec.Struct, frozen=True):
    """A part that is whole.

    part: its path below the folder; None where all its rows are bad. input: name of its source. number: of this part of
    it, from 0 on. rows, bad: how many are in it, and in its error part. end: where the next part of the input begins;
    last: there is none. labels: entities by label. size, mtime_ns, digest: of the input, or of what was read of it.
    """

    part: str | None
    input: str
    number: int
    rows: int
    bad: int
    end: Position
    last: bool
    labels: dict[str, int] = {}
    size: int | None = None
    mtime_ns: int | None = None
    digest: str | None = None


_encode = msgspec.json.encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_entry = msgspec.json.Decoder(Entry).decode


class Manifest:
    """The file, open and locked while a run writes. Raises `OutputError` as the constructor, and when it is full."""

    def __init__(self, folder: Path, header: Header, *, resume: bool) -> None:
        self._path = folder / MANIFEST
        self.last: dict[str, Entry] = {}
        self.entries: list[Entry] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; name another folder with --output"
            ) from None
        try:
            self._begin(folder, header, resume)
        except BaseException:
            self._file.close()
            raise

    def add(self, entry: Entry) -> None:
        """Say that a part is whole; it is on the disk when this returns."""
        self._append(_encode(entry))
        self._know(entry)

    def close(self) -> None:
        """Let another run have the folder."""
        self._file.close()

    def _begin(self, folder: Path, header: Header, resume: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another run is writing to {folder}; wait for it, or name another folder with --output"
            ) from None
        self._file.seek(0)
        whole, newline, torn = self._file.read().rpartition(b"\n")
        if torn:
            self._file.truncate(len(whole) + len(newline))
        if not newline:
            if any(path.name != MANIFEST for path in folder.iterdir()):
                self._path.unlink(missing_ok=True)
                raise OutputError(f"{folder} holds other files; choose a folder that is new or empty")
            self._append(_encode(header))
            return
        if not resume:
            raise OutputError(
                f"{folder} holds a run already; go on with it with --resume, or choose another folder"
            )
        try:
            first, *lines = whole.split(b"\n")
            self._compare(folder, _decode_header(first), header)
            for line in lines:
                self._know(_decode_entry(line))
        except msgspec.DecodeError:
            raise OutputError(f"{self._path} is damaged; choose another folder") from None

    def _compare(self, folder: Path, old: Header, new: Header) -> None:
        if old.command != new.command:
            raise OutputError(f"{folder} holds a run of nerve {old.command}; choose another folder")
        settings = msgspec.json.decode(_encode(new.settings))
        differ = [
            name for name in {**old.settings, **settings} if old.settings.get(name) != settings.get(name)
        ]
        if differ:
            raise OutputError(
                f"the run in {folder} was begun with other settings ({', '.join(sorted(differ))}); "
                "go on with the same ones, or choose another folder"
            )

    def _know(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.last[entry.input] = entry

    def _append(self, line: bytes) -> None:
        try:
            rest = memoryview(line + b"\n")
            while rest:  # on a disk that is nearly full the beginning is written, and only then it fails
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; mend that, then go on with --resume"
            ) from None
