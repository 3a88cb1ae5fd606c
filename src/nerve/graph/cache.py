"""Keeps built graphs on disk, under the hash of everything they were made from.

An entry is a folder `<cache_dir>/graphs/<key>/` with `model.onnx`, for graphs of 2 GiB and more also
`model.data`, and `digest`, the SHA-256 of both. It is made beside its place and renamed
(`nerve.checkpoint.storage`), and its digest is checked at every load: a torn or damaged entry is built again, never
served. Several processes may load and store the same entry at once; the first to rename wins and the others use
what they built.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from importlib import metadata
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from nerve.checkpoint.revision import hash_file
from nerve.checkpoint.storage import draft_beside
from nerve.errors import ModelError
from nerve.graph.builder import BUILDER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nerve.config import Precision

log = logging.getLogger(__name__)

# Protobuf refuses messages of 2 GiB; larger graphs keep their weights in a file of their own.
MESSAGE_LIMIT = 2**31 - 2**20

_MODEL = "model.onnx"
_DATA = "model.data"
_DIGEST = "digest"


def make_key(files: Iterable[Path], config: bytes, precision: Precision) -> str:
    """Return the name of the cache entry for a graph made from `files` and `config`."""
    state = hashlib.sha256()
    for file in files:
        state.update(f"{file.name}\0{hash_file(file)}\0".encode())
    state.update(hashlib.sha256(config).digest())
    versions = (str(BUILDER_VERSION), precision.value, onnx.__version__, _runtime_version())
    state.update("\0".join(versions).encode())
    return state.hexdigest()[:40]


def entry_of(cache_dir: Path, key: str) -> Path:
    """Return the folder of an entry, which need not exist."""
    return cache_dir / "graphs" / key


def load_or_build(
    cache_dir: Path, key: str, build: Callable[[], onnx.ModelProto], limit: int = MESSAGE_LIMIT
) -> bytes | Path:
    """Return the graph under `key`, from the cache when it is there and whole.

    A graph of `limit` bytes or more is returned as the path of its file, smaller ones as bytes. A cache that
    cannot be written costs a warning, or for a graph that must be a file, a `ModelError`.
    """
    entry = entry_of(cache_dir, key)
    found = _load(entry)
    if found is not None:
        return found
    model = build()
    try:
        return _store(entry, model, limit)
    except OSError as error:
        if _size(model) >= limit:
            raise ModelError(
                f"a graph this large runs from a file, but {entry.parent} cannot be "
                f"written ({error.strerror}); set model.cache_dir to a folder that can"
            ) from error
        log.warning("the graph is not cached, so every start builds it: %s: %s", entry.parent, error.strerror)
    content: bytes = model.SerializeToString()
    return content


def _load(entry: Path) -> bytes | Path | None:
    """Return what an entry holds; None when it is absent, torn or damaged."""
    try:
        digest = (entry / _DIGEST).read_text(encoding="ascii")
        content = (entry / _MODEL).read_bytes()
        large = (entry / _DATA).is_file()
        if digest == _digest(hashlib.sha256(content).hexdigest(), entry / _DATA):
            return entry / _MODEL if large else content
    except FileNotFoundError:
        if not entry.exists():
            return None
    except (OSError, UnicodeDecodeError) as error:
        log.debug("cached graph %s: %s", entry, error)
    log.warning("the cached graph %s is damaged and is built again", entry)
    return None


def _store(entry: Path, model: onnx.ModelProto, limit: int) -> bytes | Path:
    """Write an entry and return what `_load` would."""
    with draft_beside(entry) as draft:
        content = _write(draft, model, limit)
        (draft / _DIGEST).write_text(
            _digest(hashlib.sha256(content).hexdigest(), draft / _DATA), encoding="ascii"
        )
        _replace(draft, entry)
    return entry / _MODEL if (entry / _DATA).is_file() else content


def _write(draft: Path, model: onnx.ModelProto, limit: int) -> bytes:
    """Write the files of a graph into `draft` and return the content of the first."""
    if _size(model) < limit:
        content: bytes = model.SerializeToString()
        (draft / _MODEL).write_bytes(content)
        return content
    onnx.save_model(model, draft / _MODEL, save_as_external_data=True, location=_DATA)
    return (draft / _MODEL).read_bytes()


def _replace(draft: Path, entry: Path) -> None:
    """Put `draft` in the place of `entry`, whose content, if any, has been found damaged."""
    try:
        os.rename(draft, entry)
    except OSError:
        if _load(entry) is not None:  # another process was first
            return
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(draft, entry)


def _size(model: onnx.ModelProto) -> int:
    """Return the bytes of the weights; protobuf itself cannot measure what it cannot write."""
    tensors = model.graph.initializer
    return sum(math.prod(t.dims) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)


def _digest(model_hash: str, data: Path) -> str:
    return f"{model_hash} {_hash(data)}" if data.is_file() else model_hash


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _runtime_version() -> str:
    """Return the version of whichever of the two wheels provides the module `onnxruntime`."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"
