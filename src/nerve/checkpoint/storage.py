"""Writes to the cache so that other processes see a whole entry or none.

An entry is a folder. It is made in a temporary folder beside it, under a file lock, and gets its name
by one rename: a process that is killed leaves at most a temporary folder, which the next holder of the
lock removes. Readers need no lock, so a finished cache can be mounted read-only.

Every `OSError` of the cache becomes a `CheckpointError` here (`storage_errors`).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from nerve.errors import CheckpointError

log = logging.getLogger(__name__)

LOCK_TIMEOUT_SECONDS = 1800.0
_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def explain_os_error(error: OSError, cache_dir: Path) -> CheckpointError:
    """Return the error to raise for a failed operation on the cache."""
    if error.errno in _FULL:
        return CheckpointError(
            f"the disk of {cache_dir} is full; free space, or set model.cache_dir to a folder on another disk"
        )
    if error.errno in _UNWRITABLE:
        return CheckpointError(
            f"cannot write to {error.filename or cache_dir}: {error.strerror}; set model.cache_dir to a "
            "folder that this user may write to, or fill the cache first with `nerve pull`"
        )
    return CheckpointError(
        f"the cache {cache_dir} cannot be used: {error}; check the disk or set model.cache_dir"
    )


@contextmanager
def storage_errors(cache_dir: Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, cache_dir) from error


@contextmanager
def staging(entry: Path) -> Iterator[Path]:
    """Give an empty folder in which to make `entry`, alone among all processes; remove it afterwards.

    The caller must look again whether `entry` exists: another process may have made it meanwhile.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{entry.name}.partial-"
    with _locked(entry.parent / f".{entry.name}.lock"):
        for abandoned in entry.parent.glob(f"{prefix}*"):  # of a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=entry.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def place(made: Path, entry: Path) -> None:
    """Give the finished folder `made` its name; its files reach the disk before the name does."""
    for file in made.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    made.chmod(0o755)
    made.rename(entry)


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file in one step; a file that already says the same is left alone."""
    text = json.dumps(value, indent=1, sort_keys=True)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            log.info("waiting for another process that is fetching the same checkpoint (lock %s)", path)
            lock.acquire(timeout=LOCK_TIMEOUT_SECONDS)
    except filelock.Timeout as error:
        raise CheckpointError(
            f"another process has held {path} for {LOCK_TIMEOUT_SECONDS:.0f} s; end that process and start "
            "again"
        ) from error
    try:
        yield
    finally:
        lock.release()
