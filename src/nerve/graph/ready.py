"""Finds, checks and reads back ONNX graphs that somebody else made.

A ready graph takes `input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 (B, T), and gives
float logits (B, T, L).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from nerve.checkpoint.choice import sort_graphs
from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph.weights import load_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_INT8_OPERATORS = frozenset(
    {
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QLinearMatMul",
        "QAttention",
        "DynamicQuantizeMatMul",
        "QuantizeLinear",
    }
)


def find_onnx(folder: Path, precision: Precision) -> list[Path]:
    """Return the ONNX files under `folder`, the one to prefer first (docs/guide/checkpoints.md)."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.onnx") if file.is_file()]
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return [folder / name for name in sort_graphs(shown, precision)]


def check_ready(file: Path) -> Precision:
    """Check inputs and outputs of a ready graph and return the precision it computes in.

    Raises `ModelError` saying what does not fit.
    """
    model = load_onnx(file, with_weights=False)
    if model is None:
        raise ModelError(f"{file} is not an ONNX graph, or a damaged one; fetch the checkpoint again")
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - stored
    if "input_ids" not in inputs or not inputs <= KNOWN_INPUTS:
        raise ModelError(
            f"{file} has the inputs {', '.join(sorted(inputs))}; needed are input_ids and, where the model "
            "uses them, attention_mask and token_type_ids"
        )
    for value in graph.input:
        if value.name in inputs and value.type.tensor_type.elem_type not in (
            TensorProto.INT64,
            TensorProto.INT32,
        ):
            raise ModelError(f"{file}: input {value.name} is not of integers")
    if len(graph.output) != 1 or graph.output[0].type.tensor_type.elem_type not in _FLOATS:
        raise ModelError(
            f"{file} must have one output, float logits; it has {len(graph.output)} or another type"
        )
    tensor = graph.output[0].type.tensor_type
    if tensor.HasField("shape") and len(tensor.shape.dim) != 3:
        raise ModelError(
            f"{file}: the output has {len(tensor.shape.dim)} axes; token logits have (batch, token, label)"
        )
    return _precision(graph)


def _precision(graph: onnx.GraphProto) -> Precision:
    """Tell the arithmetic from the operators; 4-bit weights alone are unpacked to float32 in the kernel."""
    operators = {node.op_type for node in graph.node}
    levels = {a.i for node in graph.node for a in node.attribute if a.name == "accuracy_level"}
    if operators & _INT8_OPERATORS or 4 in levels:  # level 4 rounds activations to int8 (ContribOperators.md)
        return Precision.INT8
    if any(tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 2 for tensor in graph.initializer):
        return Precision.FLOAT16
    return Precision.FLOAT32
