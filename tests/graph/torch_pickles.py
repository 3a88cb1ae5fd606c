"""Writes the files of torch.save opcode by opcode, without PyTorch, so that tests can also write what it never would.

`Opcodes` are bytes of a pickle of protocol 2. `record_torch_files.py` beside the parity tests wrote the real ones.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

Opcodes = bytes

CLASSES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


def value(content: Any) -> Opcodes:
    """Return what pushes a plain value."""
    return pickle.dumps(content, protocol=2)[2:-1]


def name(dotted: str) -> Opcodes:
    """Return what pushes a name of a module."""
    module, _, last = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def tuple_of(*items: Opcodes) -> Opcodes:
    """Return what pushes a tuple."""
    return b"(" + b"".join(items) + b"t"


def call(dotted: str, *arguments: Opcodes) -> Opcodes:
    """Return what calls a name."""
    return name(dotted) + tuple_of(*arguments) + b"R"


def storage(key: str, size: int, kind: str = "float32", is_stream: bool = False) -> Opcodes:
    """Return what refers to a storage."""
    parts = [value("storage"), name(f"torch.{CLASSES[kind]}"), value(key), value("cpu"), value(size)]
    return tuple_of(*parts, *([value(None)] if is_stream else [])) + b"Q"


def tensor(place: Opcodes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Opcodes:
    """Return what makes a tensor of a storage."""
    arguments = [place, value(offset), value(tuple(shape)), value(tuple(strides)), value(False)]
    return call("torch._utils._rebuild_tensor_v2", *arguments, call("collections.OrderedDict"))


def state_dict(items: Mapping[str, Opcodes]) -> bytes:
    """Return the whole pickle of a dict."""
    pairs = b"".join(value(key) + item for key, item in items.items())
    return b"\x80\x02" + call("collections.OrderedDict") + b"(" + pairs + b"u."


def strides_of(array: np.ndarray[Any, Any]) -> list[int]:
    """Return the strides of an array in elements."""
    return [step // array.itemsize for step in array.strides]


def plain_state(arrays: Mapping[str, np.ndarray[Any, Any]], is_stream: bool = False) -> bytes:
    """Return the pickle of contiguous arrays, the storage of each under its number."""
    return state_dict(
        {
            key: tensor(
                storage(str(number), array.size, array.dtype.name, is_stream), array.shape, strides_of(array)
            )
            for number, (key, array) in enumerate(arrays.items())
        }
    )


def archive(pickled: bytes, storages: Mapping[str, bytes], more: Mapping[str, bytes] | None = None) -> bytes:
    """Return a zip file as torch.save writes it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        target.writestr("model/data.pkl", pickled)
        for key, content in storages.items():
            target.writestr(f"model/data/{key}", content)
        for key, content in (more or {}).items():
            target.writestr(key, content)
    return made.getvalue()


def stream(pickled: bytes, storages: Mapping[str, bytes], width: int = 4) -> bytes:
    """Return a file as torch.save wrote it before PyTorch 1.6."""
    facts = {"protocol_version": 1001, "little_endian": True}
    head = [pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, facts)]
    keys = pickle.dumps(list(storages), protocol=2)
    bodies = [struct.pack("<q", len(content) // width) + content for content in storages.values()]
    return b"".join([*head, pickled, keys, *bodies])


def checkpoint(arrays: Mapping[str, np.ndarray[Any, Any]], is_stream: bool = False) -> bytes:
    """Return a whole file of float32 arrays."""
    storages = {str(number): array.tobytes() for number, array in enumerate(arrays.values())}
    pickled = plain_state(arrays, is_stream)
    return stream(pickled, storages) if is_stream else archive(pickled, storages)
