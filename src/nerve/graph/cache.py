"""Keeps built graphs on disk, under the hash of everything they were made from.

An entry is a folder `<cache_dir>/graphs/<key>/` with `model.onnx`, for all but small graphs also `model.data` with the
weights, which sessions map into memory, and `digest`, the SHA-256 of both. It is made beside its place and renamed
(`nerve.checkpoint.storage`), and its digest is checked at every load: a torn or damaged entry is built again, never
served. Several processes may load and store the same entry at once; the first to rename wins and the others use
what they built. `prepared` keeps in the entry what ONNX Runtime makes of the graph.
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
from onnx import StringStringEntryProto, TensorProto, helper

from nerve.checkpoint.revision import hash_file
from nerve.checkpoint.storage import draft_beside
from nerve.errors import ModelError
from nerve.graph.builder import BUILDER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import BinaryIO

    from google.protobuf.message import Message  # type: ignore[import-untyped]  # no stubs

    from nerve.config import Precision

log = logging.getLogger(__name__)

# Protobuf refuses messages of 2 GiB; larger graphs must have their weights in a file of their own.
MESSAGE_LIMIT = 2**31 - 2**20
# Weights of so many bytes and more are in a file of their own, where there can be one: it costs no copy.
LARGE_BYTES = 2**24
# Tensors of fewer bytes stay in the graph; and where the others begin: at a page, as they are mapped.
_SMALL_TENSOR_BYTES = 1024
_PAGE_BYTES = 4096

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

    A large graph is returned as the path of its file, a small one as bytes. A cache that cannot be written costs a
    warning, or a `ModelError` for a graph of `limit` bytes or more, which must be a file.
    """
    entry = entry_of(cache_dir, key)
    found = load(entry)
    if found is not None:
        return found
    model = build()
    try:
        return _store(entry, model, min(limit, LARGE_BYTES))
    except OSError as error:
        if _size(model) >= limit:
            raise ModelError(
                f"a graph this large runs from a file, but {entry.parent} cannot be "
                f"written ({error.strerror}); set model.cache_dir to a folder that can"
            ) from error
        log.warning("the graph is not cached, so every start builds it: %s: %s", entry.parent, error.strerror)
    content: bytes = model.SerializeToString()
    return content


def load(entry: Path) -> bytes | Path | None:
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
    """Write an entry and return what `load` would."""
    with draft_beside(entry) as draft:
        write(draft, model, limit)
        return keep(draft, entry)


def write(draft: Path, model: onnx.ModelProto, limit: int) -> None:
    """Write the files of a graph into `draft`; from `limit` bytes on with the weights in a file of their own."""
    if _size(model) >= limit:
        with (draft / _DATA).open("wb") as data:
            model = _part(model, data)
    (draft / _MODEL).write_bytes(model.SerializeToString())


def _part(model: onnx.ModelProto, data: BinaryIO) -> onnx.ModelProto:
    """Write the large tensors of a model to `data`; return it without them, as ONNX names a place in another file.

    One tensor after the other: the weights are not in memory a second time. The model that is given stays as it is.
    """
    outline = onnx.ModelProto()
    _copy(model, outline, "graph")
    _copy(model.graph, outline.graph, "initializer")
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _SMALL_TENSOR_BYTES:
            outline.graph.initializer.append(tensor)
            continue
        data.write(bytes(-data.tell() % _PAGE_BYTES))
        place = {"location": _DATA, "offset": data.tell(), "length": data.write(tensor.raw_data)}
        outline.graph.initializer.add(
            name=tensor.name,
            dims=tensor.dims,
            data_type=tensor.data_type,
            data_location=TensorProto.EXTERNAL,
            external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
        )
    return outline


def _copy(message: Message, target: Message, without: str) -> None:
    """Copy all fields of a message but one."""
    for field, value in message.ListFields():
        if field.name == without:
            continue
        if hasattr(value, "extend"):  # repeated, in every release of protobuf
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def keep(draft: Path, entry: Path) -> bytes | Path:
    """Make the entry of the files in `draft` and return what `load` would."""
    content = (draft / _MODEL).read_bytes()
    (draft / _DIGEST).write_text(
        _digest(hashlib.sha256(content).hexdigest(), draft / _DATA), encoding="ascii"
    )
    _replace(draft, entry)
    return entry / _MODEL if (entry / _DATA).is_file() else content


def _replace(draft: Path, entry: Path) -> None:
    """Put `draft` in the place of `entry`, whose content, if any, has been found damaged."""
    try:
        os.rename(draft, entry)
    except OSError:
        if load(entry) is not None:  # another process was first
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
