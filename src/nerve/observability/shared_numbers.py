"""Numbers that several processes keep together: each counts for itself, and all can read the sum.

Each process has a file of its own in a common folder, and a lock on it that the system takes away when the process
ends, however it does. Whoever starts adds the files of those that have ended to one file and removes them, so that
the cost of a sum does not grow with every process that has ever died. What they counted stays, their gauges do not.

The file of sums begins with the name of the file that was added last. So a process that is killed between the two
steps does no harm (a file with that name counts no more), and a reader sees that something was added while it read.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DEAD = "dead"
_LOCK = "lock"
_NAME_BYTES = 64
# Sums are read again while files are being added up; more often than this nobody starts.
_MOST_TRIES = 10


class SharedNumbers:
    """The numbers of this process, and the sum over all; any thread may call its methods.

    gauges: which of the numbers count for living processes only.
    own: float64, of this process.
    """

    def __init__(self, folder: Path, n_numbers: int, gauges: slice) -> None:
        self._folder = folder
        self._n_numbers = n_numbers
        self._gauges = gauges
        self._name = name = f"{os.getpid()}-{secrets.token_hex(4)}"
        draft = folder / f".{name}"
        # Open for as long as the process lives: it holds the lock.
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.truncate(descriptor, 8 * n_numbers)
        self.own = memoryview(mmap.mmap(descriptor, 8 * n_numbers)).cast("d")
        draft.rename(folder / name)
        self._add_up_the_dead()

    def total(self) -> list[float]:
        """Return the sum over all processes, living and dead."""
        for _ in range(_MOST_TRIES):
            found = self._sum()
            if found is not None:
                break
        return found or list(self.own)

    def _sum(self) -> list[float] | None:
        """Return the sum; None when a file was added to those of the dead meanwhile."""
        added, total = self._read_dead()
        total = [left + right for left, right in zip(total, self.own, strict=True)]
        for path in self._files():
            if path.name in (added, self._name):
                continue
            numbers = _read(path)
            if numbers is None:
                return None
            if _has_ended(path):
                numbers[self._gauges] = [0.0] * len(numbers[self._gauges])
            total = [left + right for left, right in zip(total, numbers, strict=True)]
        return total if self._read_dead()[0] == added else None

    def _add_up_the_dead(self) -> None:
        """Add the files of processes that have ended to one; leaves that to whoever is at it."""
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            added, _ = self._read_dead()
            if added:  # whoever added it may have died before it was removed
                (self._folder / added).unlink(missing_ok=True)
            for path in self._files():
                if _has_ended(path):
                    self._add(path)

    def _add(self, path: Path) -> None:
        _, total = self._read_dead()
        numbers = _read(path)
        if numbers is not None:
            numbers[self._gauges] = [0.0] * len(numbers[self._gauges])
            total = [left + right for left, right in zip(total, numbers, strict=True)]
            draft = self._folder / f".{_DEAD}"
            head = path.name.encode().ljust(_NAME_BYTES, b"\0")
            draft.write_bytes(head + array("d", total).tobytes())
            draft.rename(self._folder / _DEAD)
        path.unlink(missing_ok=True)

    def _read_dead(self) -> tuple[str, list[float]]:
        """Return the name of the file that was added last, and the sum over all that were."""
        try:
            content = (self._folder / _DEAD).read_bytes()
        except FileNotFoundError:
            return "", [0.0] * self._n_numbers
        numbers = list(memoryview(content[_NAME_BYTES:]).cast("d"))
        return content[:_NAME_BYTES].rstrip(b"\0").decode(), numbers

    def _files(self) -> Iterator[Path]:
        """Yield the files of processes, living and dead."""
        with contextlib.suppress(FileNotFoundError):  # somebody has cleaned up: the own numbers are left
            for path in self._folder.iterdir():
                if path.name not in (_DEAD, _LOCK) and not path.name.startswith("."):
                    yield path


def _read(path: Path) -> list[float] | None:
    """Return the numbers of a file; None when it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return list(memoryview(path.read_bytes()).cast("d"))
    return None


def _has_ended(path: Path) -> bool:
    """Tell whether the process of a file has ended: nobody holds its lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
