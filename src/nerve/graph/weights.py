"""Reads the weights of a model folder as named float32 arrays.

Two sources: safetensors (one file, or shards with an index), and an ONNX graph whose MatMulNBits or
DequantizeLinear weights are unpacked under the names that PyTorch gave them. Pickled weights are never
opened. Nothing here knows an architecture; `architectures` decides which names must be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import safetensors
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx import numpy_helper

from nerve.checkpoint.choice import WEIGHTS, WEIGHTS_INDEX
from nerve.checkpoint.folder import explain_unreadable
from nerve.checkpoint.settings import read_shards
from nerve.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from nerve.types import FloatArray

    Weights = dict[str, FloatArray]
    Array = npt.NDArray[Any]

PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_FLOAT_TYPES = frozenset({"F32", "F16", "BF16"})


def find_safetensors(folder: Path) -> list[Path]:
    """Return the safetensors files of `folder`, sorted; empty when it has none.

    Raises `CheckpointError` when the index is unreadable, `ModelError` when it names a file that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return []
    names = sorted(read_shards(index))
    if not all("/" not in name and (folder / name).is_file() for name in names):
        raise ModelError(f"{index} names files that are not beside it; copy the whole checkpoint")
    return [folder / name for name in names]


def has_pickle_only(folder: Path) -> bool:
    """Return True when the only weights of `folder` are pickled ones, which are never opened."""
    return not find_safetensors(folder) and any((folder / name).is_file() for name in PICKLE_FILES)


def read_safetensors(files: Iterable[Path], wanted: Callable[[str], bool]) -> Weights:
    """Return the tensors whose name is `wanted`, as float32. Raises `ModelError` for a damaged file."""
    weights: Weights = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="np") as tensors:
                for name in filter(wanted, tensors.keys()):
                    kind = tensors.get_slice(name).get_dtype()
                    if kind not in _FLOAT_TYPES:
                        raise ModelError(
                            f"{file.name}: {name} is {kind}; float32, float16 or bfloat16 is needed"
                        )
                    weights[name] = tensors.get_tensor(name).astype(np.float32, copy=False)
        except safetensors.SafetensorError as error:
            raise ModelError(_damaged(file, error)) from error
        except OSError as error:
            raise explain_unreadable(OSError(error.errno, error.strerror or str(error), str(file))) from error
    return weights


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} cannot be read as safetensors ({error}); fetch the checkpoint again"


def read_shapes(files: Iterable[Path], wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors whose name is `wanted`. Raises `ModelError` for a damaged file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="np") as tensors:
                for name in filter(wanted, tensors.keys()):
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except safetensors.SafetensorError as error:
            raise ModelError(_damaged(file, error)) from error
        except OSError as error:
            raise explain_unreadable(OSError(error.errno, error.strerror or str(error), str(file))) from error
    return shapes


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
