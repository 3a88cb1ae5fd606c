"""The bytes of an input, as they are or unpacked; whatever goes wrong while they are read is an `InputError`."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from nerve.corpus.records import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Endings of compressed files. They are read from their beginning up to where a run goes on.
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_WRONG = (OSError, EOFError, zlib.error, lzma.LZMAError)


class Stream:
    """A binary file that raises `InputError`s, which name it by its title."""

    def __init__(self, stream: BinaryIO, title: str) -> None:
        self._stream = stream
        self._title = title

    def readline(self, most: int) -> bytes:
        """Return the rest of a line, or so many bytes of it."""
        try:
            line: bytes = self._stream.readline(most)
        except _WRONG as error:
            _refuse(self._title, error)
        return line

    def read(self, most: int = -1) -> bytes:
        """Return what is left, or so many bytes of it."""
        try:
            content: bytes = self._stream.read(most)
        except _WRONG as error:
            _refuse(self._title, error)
        return content

    def seek(self, offset: int) -> None:
        """Go to a byte, of what is unpacked."""
        try:
            self._stream.seek(offset)
        except _WRONG as error:
            _refuse(self._title, error)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def open_stream(path: Path, title: str) -> Stream:
    """Open a file; one that is compressed by its ending is unpacked as it is read. Raises `InputError`."""
    try:
        unpack = PACKED.get(path.suffix.lower())
        return Stream(path.open("rb") if unpack is None else unpack(path, "rb"), title)
    except OSError as error:
        _refuse(title, error)


def _refuse(title: str, error: Exception) -> NoReturn:
    if isinstance(error, EOFError):
        reason = "cut short"
    else:
        reason = getattr(error, "strerror", None) or "damaged, or not what its ending says"
    raise InputError(f"cannot read {title}: {reason}; check the file, or name another") from None
