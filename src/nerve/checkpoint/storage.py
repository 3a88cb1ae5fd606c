"""Writes files and folders so that other processes see them whole or not at all.

Both are made under another name beside their own, and get their name by one rename, so readers need no lock and a
finished cache can be mounted read-only. Unpacked wheels, listings of the hub, graphs, figures of agreement, exported
folders and tuned configurations are written through this module.

    write_whole   a small text file.
    draft_beside  a folder that any process may make; who renames it first wins.
    staging       a folder that one process makes while the others wait: a file lock. What a process that was
                  killed has left, the next holder of the lock removes.

Each raises `OSError`; for the cache of checkpoints `storage_errors` turns that into a `CheckpointError`.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from nerve.errors import CheckpointError

log = logging.getLogger(__name__)

LOCK_TIMEOUT_SECONDS = 1800.0
_DRAFT_LETTERS = 8
_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def explain_os_error(error: OSError, cache_dir: Path) -> CheckpointError:
    """Return the error to raise for a failed operation on the cache."""
    if error.errno in _FULL:
        return CheckpointError(
            f"the disk of {cache_dir} is full; free space, or set model.cache_dir (NERVE_MODEL__CACHE_DIR) to a folder "
            "on another disk"
        )
    if error.errno in _UNWRITABLE:
        return CheckpointError(
            f"cannot write to {error.filename or cache_dir}: {error.strerror}; set model.cache_dir "
            "(NERVE_MODEL__CACHE_DIR) to a folder that this user may write to, or fill the cache first with "
            "`nerve pull`"
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
    with _locked(entry.parent / f".{entry.name}.lock"):
        for abandoned in _drafts(entry):  # of a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        with draft_beside(entry) as folder:
            yield folder


@contextmanager
def draft_beside(entry: Path) -> Iterator[Path]:
    """Give an empty folder on the same disk, in which to make the folder `entry`; remove what is left of it afterwards.

    Several processes may do so at once.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder = entry.with_name(_draft_prefix(entry) + secrets.token_hex(_DRAFT_LETTERS // 2))
    folder.mkdir(mode=0o700)
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
    write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Write a small file in UTF-8 in one step, in the place of the one that is there."""
    draft = path.with_name(f".{path.name[:32]}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _drafts(entry: Path) -> list[Path]:
    """Return the drafts of this entry, and of no other whose name begins with its name."""
    pattern = glob.escape(_draft_prefix(entry)) + "?" * _DRAFT_LETTERS
    return list(entry.parent.glob(pattern))


def _draft_prefix(entry: Path) -> str:
    return f".{entry.name}.partial-"


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
