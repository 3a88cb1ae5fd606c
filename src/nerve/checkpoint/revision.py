"""What a folder on this machine holds, as one word: the revision of a checkpoint that comes from nowhere else.

SHA-256 over names and contents of the files that the server reads, so that two machines with the same files have the
same revision, and one changed weight gives another. Whole files are read: a sample would miss a classifier that was
trained on a frozen encoder. Whoever builds a graph hashes its weights anyway, for the name of its cache entry
(`nerve.graph.cache`), and a process hashes a file once.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PREFIX = "files-"  # nobody shall take it for a commit
_DIGITS = 16


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. Raises `OSError`."""
    stat = file.stat()
    return _hash(file, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def revision_of(folder: Path, names: Iterable[str]) -> str:
    """Return the revision of the files `names` of a folder, such as `files-0123456789abcdef`. Raises `OSError`."""
    state = hashlib.sha256()
    for name in sorted(set(names)):
        state.update(f"{name}\0{hash_file(folder / name)}\0".encode())
    return _PREFIX + state.hexdigest()[:_DIGITS]


@lru_cache(maxsize=256)
def _hash(file: Path, *_state: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
