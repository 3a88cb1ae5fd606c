"""Reads the weights of a model folder as named float32 arrays.

Three sources: safetensors (one file, or shards with an index); the same as `torch.save` wrote it, read by `torch_files`
without running any code; and an ONNX graph whose MatMulNBits or DequantizeLinear weights are unpacked under the names
that PyTorch gave them. Nothing here knows an architecture; `architectures` decides which names must be there.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import safetensors
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx import numpy_helper

from nerve.checkpoint.choice import SAFETENSORS, WEIGHTS, choose_weights
from nerve.checkpoint.folder import explain_unreadable
from nerve.checkpoint.settings import read_shards
from nerve.errors import ModelError
from nerve.graph.stored import StoredTensor, StoredWeights
from nerve.graph.torch_files import read_torch_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from nerve.types import FloatArray

    Weights = dict[str, FloatArray]
    Array = npt.NDArray[Any]

# Types of elements as safetensors calls them (safetensors/src/tensor.rs, Dtype), by their names in numpy.
_KINDS = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
}
# Those that are used as they lie in the file: the pages of the file are the array, where safetensors makes a copy.
_MAPPED_KINDS = frozenset({"float32"})


def find_weights(folder: Path) -> list[Path]:
    """Return the files of the weights of `folder`, sorted; empty when it has none.

    They are those of one form, the first in the order of `choose_weights`. Raises `CheckpointError` when an index is
    unreadable, `ModelError` when it names a file that is not there.
    """
    main = choose_weights([name for name in WEIGHTS if (folder / name).is_file()])
    if main is None:
        return []
    if not main.endswith(".json"):
        return [folder / main]
    index = folder / main
    names = sorted(read_shards(index))
    if not all("/" not in name and (folder / name).is_file() for name in names):
        raise ModelError(f"{index} names files that are not beside it; copy the whole checkpoint")
    return [folder / name for name in names]


def open_weights(files: Iterable[Path]) -> StoredWeights:
    """Return the tensors of files in safetensors or as PyTorch pickles them; their numbers are read later.

    Raises `ModelError` for a damaged file, and `NotBuildable` for a pickle that holds something else.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            tensors |= _list_safetensors(file) if file.suffix == SAFETENSORS else read_torch_file(file)
        except OSError as error:
            raise explain_unreadable(OSError(error.errno, error.strerror or str(error), str(file))) from error
    return StoredWeights(tensors)


def _list_safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        opened: Any = safetensors.safe_open(file, framework="np")
        starts = _read_places(file)
        return {name: _stored(file, opened, name, starts[name]) for name in opened.keys()}  # noqa: SIM118 - no dict
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{file} cannot be read as safetensors ({error}); fetch the checkpoint again"
        ) from error


def _read_places(file: Path) -> dict[str, int]:
    """Return where the numbers of each tensor begin in a file that safetensors has found sound."""
    with file.open("rb") as stream:
        n_bytes = int.from_bytes(stream.read(8), "little")
        head = json.loads(stream.read(n_bytes))
    return {
        name: 8 + n_bytes + entry["data_offsets"][0] for name, entry in head.items() if name != "__metadata__"
    }


def _stored(file: Path, opened: Any, name: str, start: int) -> StoredTensor:  # noqa: ANN401 - no types
    part = opened.get_slice(name)
    kind = _KINDS.get(part.get_dtype(), part.get_dtype())
    shape = tuple(part.get_shape())

    def read() -> Array:
        if kind not in _MAPPED_KINDS or not math.prod(shape):
            tensor: Array = opened.get_tensor(name)
            return tensor
        return np.memmap(file, np.dtype(kind).newbyteorder("<"), "r", start, shape).view(np.ndarray)

    return StoredTensor(file.name, shape, kind, read)


def read_onnx_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of an ONNX graph by the names of its initializers; empty when it is damaged."""
    model = load_onnx(file, with_weights=False)
    tensors = model.graph.initializer if model is not None else []
    return {tensor.name.removesuffix("_quantized"): tuple(tensor.dims) for tensor in tensors}


def read_onnx(file: Path) -> Weights | None:
    """Return the weights of an ONNX graph by their PyTorch names; None when one cannot be unpacked.

    The names are those that torch.onnx.export leaves: a linear layer is known by the name of its node
    (`/bert/encoder/layer.0/output/dense/MatMul_Q4`), everything else by the name of its initializer.
    Names that PyTorch did not give are left out, so the caller must check that it has all it needs.
    """
    model = load_onnx(file, with_weights=True)
    if model is None:
        return None
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name: value for name, value in tensors.items() if _is_plain(name, value)}
    try:
        for name in tensors:
            if name.endswith("_quantized"):
                weights[name.removesuffix("_quantized")] = _dequantize(name, tensors)
        for node in model.graph.node:
            if node.op_type in ("MatMulNBits", "MatMul") and node.input[1] in tensors:
                unpack = _unpack_nbits if node.op_type == "MatMulNBits" else _unpack_plain
                weights[_module_of(node.name) + ".weight"] = unpack(
                    node, tensors
                )  # (N, K), as PyTorch has it
    except (ValueError, KeyError):  # quantised in a way not known here
        return None
    return weights


def load_onnx(file: Path, *, with_weights: bool) -> onnx.ModelProto | None:
    """Return the parsed file, with or without the tensors kept in other files; None when it is damaged."""
    try:
        model = onnx.load(file, load_external_data=with_weights)
    except PermissionError as error:
        raise explain_unreadable(error) from error
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError):
        return None
    return model if model.graph.node else None  # an empty file parses as a model of nothing


def onnx_parts(file: Path) -> list[Path]:
    """Return an ONNX file and the files beside it that hold its larger tensors."""
    model = load_onnx(file, with_weights=False)
    tensors = model.graph.initializer if model is not None else []
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [file, *sorted(part for place in places if (part := file.parent / place).is_file())]


def _is_plain(name: str, value: Array) -> bool:
    return value.dtype == np.float32 and name.endswith((".weight", ".bias")) and "::" not in name


def _module_of(node_name: str) -> str:
    """Turn `/classifier/MatMul_Q4` into `classifier`."""
    return ".".join(part for part in node_name.strip("/").split("/") if not part.startswith("MatMul"))


def _dequantize(name: str, tensors: Mapping[str, Array]) -> FloatArray:
    """(quantised - zero point) * scale, with one scale per tensor or per row (ONNX, DequantizeLinear)."""
    base = name.removesuffix("_quantized")
    scale = tensors[base + "_scale"].astype(np.float32)
    zero = tensors[base + "_zero_point"].astype(np.float32)
    quantised = tensors[name]
    if scale.size != 1:
        if quantised.ndim != 2 or scale.shape != quantised.shape[:1]:
            raise ValueError(f"{name}: scales of shape {scale.shape}")
        scale, zero = scale[:, None], zero[:, None]
    return (quantised.astype(np.float32) - zero) * scale


def _unpack_plain(node: onnx.NodeProto, tensors: Mapping[str, Array]) -> FloatArray:
    return np.ascontiguousarray(tensors[node.input[1]].T.astype(np.float32))


def _unpack_nbits(node: onnx.NodeProto, tensors: Mapping[str, Array]) -> FloatArray:
    """Unpack a MatMulNBits weight to (N, K).

    Each row of N values is split into blocks of `block_size`; two 4-bit values share a byte, the low
    half first; the zero point is 2**(bits-1) unless given. (onnxruntime, docs/ContribOperators.md)
    """
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    k, n, bits = attributes["K"], attributes["N"], attributes["bits"]
    optional = list(node.input[3:])
    if bits not in (4, 8) or any(optional[1:]):
        raise ValueError(f"{node.name}: {bits} bits or a group index")
    packed = tensors[node.input[1]]  # uint8 (N, blocks, block_size * bits / 8)
    blocks = packed.shape[1]
    values = _split_bytes(packed.reshape(n, -1), bits).reshape(n, blocks, -1)
    scales = tensors[node.input[2]].astype(np.float32).reshape(n, blocks, 1)
    zero: FloatArray = np.full((n, blocks, 1), 2.0 ** (bits - 1), np.float32)
    if optional and optional[0]:
        points = tensors[optional[0]]
        if points.dtype == np.uint8:
            points = _split_bytes(points.reshape(n, -1), bits)[:, :blocks]
        zero = points.astype(np.float32).reshape(n, blocks, 1)
    return np.ascontiguousarray(((values - zero) * scales).reshape(n, -1)[:, :k])


def _split_bytes(packed: Array, bits: int) -> FloatArray:
    """Return the values packed in the bytes of each row, as float32."""
    if bits == 8:
        return packed.astype(np.float32)
    return np.stack([packed & 0xF, packed >> 4], -1).reshape(packed.shape[0], -1).astype(np.float32)
