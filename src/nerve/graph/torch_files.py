"""Reads the files that `torch.save` writes of a state dict, without PyTorch and without running code.

Two formats. Since PyTorch 1.6: a zip archive NAME/ with the pickle `data.pkl`, the storages `data/KEY`, and
`byteorder`. Before: a stream of five pickles (a magic number, the version, facts of the machine, the state dict, the
keys of the storages in their order), then each storage as its number of elements (int64) and its elements,
little-endian whatever the machine (torch/csrc/StorageMethods.cpp). `pickles` reads the pickles; what they say of places
and sizes is believed only as far as the file bears it out.

The file is mapped, so numbers stay in it until they are asked for, and float32 tensors that lie there as they are
wanted are not copied at all.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.errors import ModelError
from nerve.graph.pickles import read_pickle
from nerve.graph.stored import NotBuildable, StoredTensor
from nerve.graph.torch_names import WIDTHS, DamagedPickle, ForeignPickle, PickledTensor, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from nerve.checkpoint.preview import SeekableBytes

    Array = npt.NDArray[Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct(
    "<4s22xHH"
)  # of an entry: signature, lengths of its name and of its extra field
_BYTE_ORDERS = {b"little": "<", b"big": ">"}
_COUNT = struct.Struct("<q")
_ENCRYPTED = 1
# Most bytes of what is read at once: the pickle, the directory of the archive, a line of a pickle.
_LARGEST_PIECE = 2**26
# torch.save never compresses. An archive that somebody packed again may, but numbers do not shrink like this.
_MOST_EXPANSION = 16
# Tensors may share numbers (tied weights, repeated ones), but not so that they become this many times the storages.
_MOST_SHARING = 16
_ROOM = 2**20  # bytes in which no bomb is hidden
_AS_INTEGERS = {"bfloat16": "uint16"}  # what numpy has no name for


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where a storage lies: `size` bytes; `fetch` returns them."""

    size: int
    fetch: Callable[[], bytes | memoryview]


def read_torch_file(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name; their numbers are read later.

    Raises `ModelError` for a file that is damaged, `NotBuildable` for one that holds something else than a state
    dict, and `OSError` for one that cannot be read.
    """
    try:
        data = _Mapped(file)
        if data.starts_with(_ZIP_START):
            state, storages, order = _read_archive(data)
        else:
            state, storages = _read_stream(data)
            order = "<"
        return _list_tensors(file, state, storages, order)
    except (DamagedPickle, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error
    except ForeignPickle as error:
        raise NotBuildable(
            f"{file.name} is not opened: {error}; save its tensors alone, with transformers "
            "(`model.save_pretrained(FOLDER)`)"
        ) from error


def read_torch_shapes(stream: SeekableBytes) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name, from the pickle alone: numbers need not be there.

    Raises `DamagedPickle` and `ForeignPickle`.
    """
    start = stream.read(len(_ZIP_START))
    stream.seek(0)
    if start == _ZIP_START:
        archive, entries, root = _open_archive(stream)
        pickle = entries[root + "data.pkl"]
        if pickle.file_size > _LARGEST_PIECE:
            raise DamagedPickle(f"its pickle is larger than {_LARGEST_PIECE >> 20} MiB")
        try:
            with archive.open(pickle) as opened:
                state = read_pickle(opened.read(pickle.file_size))[0]
        except (zlib.error, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise DamagedPickle("its pickle is damaged") from error
    else:
        _read_facts(stream)
        state = _next_value(stream)
    return {name: tensor.shape for name, tensor in _named_values(state) if type(tensor) is PickledTensor}


def _named_values(state: object) -> list[tuple[Any, object]]:
    """Return what a state dict holds, tensors and others. Raises `ForeignPickle` for what is none.

    A checkpoint of a training has the state dict in it, under a name of its own: transformers finds nothing there.
    """
    if type(state) is not dict:
        raise ForeignPickle("it holds no state dict, that is, no tensors by name")
    values = list(state.items())
    if not any(type(value) is PickledTensor for _, value in values):
        for name, inner in values:
            if type(inner) is dict and any(type(value) is PickledTensor for value in inner.values()):
                raise ForeignPickle(f"its tensors are one deeper, in {readable(name)}")
    return values


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{file} cannot be read as weights of PyTorch ({readable(error)}); fetch the checkpoint again"
    )


class _Mapped:
    """A mapped file as `zipfile` and `pickletools` want one; no call reads more than a piece."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            try:
                self.map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise DamagedPickle("it is empty") from error
        self.size = len(self.map)
        self._at = 0

    def starts_with(self, start: bytes) -> bool:
        return self.map[: len(start)] == start

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def read(self, n_bytes: int = -1) -> bytes:
        end = self.size if n_bytes < 0 else min(self.size, self._at + n_bytes)
        return self._take(end)

    def readline(self) -> bytes:
        found = self.map.find(b"\n", self._at, min(self.size, self._at + _LARGEST_PIECE))
        return self._take(self.size if found < 0 else found + 1)

    def _take(self, end: int) -> bytes:
        if end - self._at > _LARGEST_PIECE:
            raise DamagedPickle(f"it has more than {_LARGEST_PIECE >> 20} MiB in one piece that is no tensor")
        found = self.map[self._at : end]
        self._at = max(self._at, end)
        return found


def _open_archive(
    data: _Mapped | SeekableBytes,
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], str]:
    """Return the archive, its entries by name, and what their names begin with."""
    try:
        archive = zipfile.ZipFile(data)  # read, seek, tell and seekable are all that it uses
    except DamagedPickle:
        raise
    except zipfile.BadZipFile as error:
        raise DamagedPickle(str(error)) from error
    except (ValueError, NotImplementedError, LookupError, OverflowError, struct.error) as error:
        raise DamagedPickle("the directory of the archive is damaged") from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise DamagedPickle("the archive has two entries of one name")
    roots = [
        name.removesuffix("data.pkl")
        for name in entries
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(roots) != 1:
        raise DamagedPickle("the archive has no data.pkl")
    (root,) = roots
    if root + "constants.pkl" in entries:
        raise ForeignPickle("it is a program (TorchScript), not weights")
    return archive, entries, root


def _read_archive(data: _Mapped) -> tuple[object, dict[str, _Storage], str]:
    """Return the value of the pickle, the storages by key, and the order of bytes."""
    archive, entries, root = _open_archive(data)
    if sum(entry.file_size for entry in entries.values()) > _MOST_EXPANSION * data.size + _ROOM:
        raise DamagedPickle("the archive says that it holds far more than it can")
    stated = entries.get(root + "byteorder")
    order = "<" if stated is None else _BYTE_ORDERS.get(bytes(_read_entry(data, archive, stated)[:8]))
    if order is None:
        raise DamagedPickle("the archive states no order of bytes that is known")
    start = root + "data/"
    storages = {
        name.removeprefix(start): _Storage(entry.file_size, _entry_reader(data, archive, entry))
        for name, entry in entries.items()
        if name.startswith(start)
    }
    entry = entries[root + "data.pkl"]
    if entry.file_size > _LARGEST_PIECE:
        raise DamagedPickle(f"its pickle is larger than {_LARGEST_PIECE >> 20} MiB")
    return read_pickle(bytes(_read_entry(data, archive, entry)))[0], storages, order


def _entry_reader(
    data: _Mapped, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> Callable[[], bytes | memoryview]:
    return lambda: _read_entry(data, archive, entry)


def _read_entry(data: _Mapped, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | memoryview:
    """Return the bytes of an entry: a view of the file where they are not compressed."""
    if entry.flag_bits & _ENCRYPTED:
        raise DamagedPickle("the archive is encrypted")
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        try:
            with archive.open(entry) as stream:
                found = stream.read(entry.file_size)
        except (zlib.error, EOFError) as error:
            raise DamagedPickle("a compressed entry is damaged") from error
        if len(found) != entry.file_size:
            raise DamagedPickle("a compressed entry is cut short")
        return found
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise DamagedPickle("the archive is compressed in a way that is not known")
    header = data.map[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_ZIP_START):
        raise DamagedPickle("an entry of the archive is not where its directory says")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + entry.file_size > data.size:
        raise DamagedPickle("an entry of the archive ends behind the file")
    return memoryview(data.map)[start : start + entry.file_size]


def _read_stream(data: _Mapped) -> tuple[object, dict[str, _Storage]]:
    """Return the state dict and the storages by key."""
    _read_facts(data)
    state, described = read_pickle(data)  # type: ignore[arg-type]
    keys = _next_value(data)
    if type(keys) is not list:
        raise DamagedPickle("it does not list its storages")
    storages: dict[str, _Storage] = {}
    at = data.tell()
    for key in keys:
        storage = described.get(key) if type(key) is str else None
        header = data.map[at : at + _COUNT.size]
        if storage is None or len(header) < _COUNT.size:
            raise DamagedPickle("it ends before its last storage, or has one that is of no tensor")
        n_bytes = storage.size * WIDTHS[storage.kind]
        at += _COUNT.size
        if _COUNT.unpack(header) != (storage.size,) or at + n_bytes > data.size:
            raise DamagedPickle("a storage is not as long as its pickle says")
        storages[storage.key] = _Storage(n_bytes, _range_reader(data, at, n_bytes))
        at += n_bytes
    return state, storages


def _read_facts(data: _Mapped | SeekableBytes) -> None:
    """Read the three pickles before the state dict: a magic number, the version, facts of the machine."""
    begin = data.read(1)
    data.seek(0)
    if begin != b"\x80" or _next_value(data) != _MAGIC:
        raise DamagedPickle("it is neither a zip archive nor a stream that torch.save wrote")
    if _next_value(data) != _STREAM_VERSION:
        raise DamagedPickle("its version is not known")
    _next_value(data)


def _next_value(data: _Mapped | SeekableBytes) -> object:
    return read_pickle(data)[0]  # type: ignore[arg-type]  # read, readline and tell are all that is used


def _range_reader(data: _Mapped, start: int, n_bytes: int) -> Callable[[], bytes | memoryview]:
    return lambda: memoryview(data.map)[start : start + n_bytes]


def _list_tensors(
    file: Path, state: object, storages: Mapping[str, _Storage], order: str
) -> dict[str, StoredTensor]:
    """Return what can be read of each tensor, after proving that it lies inside its storage.

    A value that is no tensor (a counter) is nobody's weight and is left out.
    """
    found = {}
    total = 0
    for name, tensor in _named_values(state):
        if type(tensor) is not PickledTensor:
            continue
        storage = storages.get(tensor.storage.key)
        if storage is None:
            raise DamagedPickle(f"there is no storage for {readable(name)}")
        n_elements, width = math.prod(tensor.shape), WIDTHS[tensor.kind]
        if n_elements and _last_element(tensor) * width + width > storage.size:
            raise DamagedPickle(f"{readable(name)} does not fit into its storage")
        total += n_elements * width
        if n_elements * width > max(storage.size, _ROOM):
            raise DamagedPickle(f"{readable(name)} repeats the numbers of its storage too often")
        found[name] = StoredTensor(
            file.name, tensor.shape, tensor.kind, _tensor_reader(file, tensor, storage, order)
        )
    if total > _MOST_SHARING * sum(storage.size for storage in storages.values()) + _MOST_SHARING * _ROOM:
        raise DamagedPickle("its tensors share their numbers too often")
    return found


def _last_element(tensor: PickledTensor) -> int:
    steps = zip(tensor.shape, tensor.strides, strict=True)
    return tensor.offset + sum((size - 1) * step for size, step in steps)


def _tensor_reader(file: Path, tensor: PickledTensor, storage: _Storage, order: str) -> Callable[[], Array]:
    def read() -> Array:
        try:
            return _view(tensor, storage.fetch(), order)
        except (DamagedPickle, zipfile.BadZipFile) as error:
            raise _damaged(file, error) from error

    return read


def _view(tensor: PickledTensor, data: bytes | memoryview, order: str) -> Array:
    """Return the tensor as a view of the bytes of its storage; bfloat16 as float32, which is its upper half."""
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, np.float32)
    width = WIDTHS[tensor.kind]
    stored = np.dtype(_AS_INTEGERS.get(tensor.kind, tensor.kind)).newbyteorder(order)  # type: ignore[arg-type]
    count = _last_element(tensor) + 1 - tensor.offset
    flat = np.frombuffer(data, stored, count, tensor.offset * width)
    strides = tuple(step * width for step in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    if tensor.kind == "bfloat16":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view
