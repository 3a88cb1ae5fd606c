"""Finds, checks and reads back ONNX graphs that somebody else made.

A ready graph takes `input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 (B, T), and gives
float logits (B, T, L). Further outputs do no harm where one is called `logits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from nerve.checkpoint.choice import sort_graphs
from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph.weights import load_onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import onnx

KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})

_LOGITS = "logits"
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
# They take one scale for all that they are given, the other rows of the batch included.
_ROW_MIXERS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
# What leaves ids, or the rows of a table, as they are; and what looks ids up: (input of the table, input of the ids).
_SAME_IDS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_SAME_ROWS = frozenset({"Cast", "Identity", "DequantizeLinear"})
_LOOKUPS = {
    "Gather": (0, 1),
    "GatherBlockQuantized": (0, 1),
    "EmbedLayerNormalization": (2, 0),
    "QEmbedLayerNormalization": (2, 0),
}


def find_onnx(folder: Path, precision: Precision) -> list[Path]:
    """Return the ONNX files under `folder`, the one to prefer first (docs/guide/checkpoints.md)."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.onnx") if file.is_file()]
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return [folder / name for name in sort_graphs(shown, precision)]


@dataclass(frozen=True, slots=True)
class ReadyFacts:
    """What is known of a ready graph.

    precision: what it computes in. mixes_rows: an operator in it whose result for one row depends on the others.
    n_words: rows of the table that token ids are looked up in; None where it is not found.
    """

    precision: Precision
    mixes_rows: str | None
    n_words: int | None


def check_ready(file: Path) -> ReadyFacts:
    """Check inputs and outputs of a ready graph; raises `ModelError` saying what does not fit."""
    model = load_onnx(file, with_weights=False)
    if model is None:
        raise ModelError(f"{file} is not an ONNX graph, or a damaged one; fetch the checkpoint again")
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - stored
    if "input_ids" not in inputs or not inputs <= KNOWN_INPUTS:
        raise ModelError(
            f"{file} has the inputs {', '.join(sorted(inputs))}; needed are input_ids and, where the model "
            "uses them, attention_mask and token_type_ids; export it again with `nerve export`"
        )
    for value in graph.input:
        if value.name in inputs and value.type.tensor_type.elem_type not in (
            TensorProto.INT64,
            TensorProto.INT32,
        ):
            raise ModelError(
                f"{file}: input {value.name} is not of integers; export it again with `nerve export`"
            )
        fixed = [axis.dim_value for axis in value.type.tensor_type.shape.dim if axis.dim_value]
        if value.name in inputs and fixed:
            raise ModelError(
                f"{file}: input {value.name} has a fixed size ({', '.join(map(str, fixed))}), for one batch alone; "
                "export it again with `nerve export`"
            )
    outputs = [value for value in graph.output if value.name == _LOGITS] or list(graph.output)
    if len(outputs) != 1 or outputs[0].type.tensor_type.elem_type not in _FLOATS:
        raise ModelError(
            f"{file} must have one output, or one called {_LOGITS}, of floats; it has "
            f"{', '.join(value.name for value in graph.output)}; export it again with `nerve export`"
        )
    tensor = outputs[0].type.tensor_type
    if tensor.HasField("shape") and len(tensor.shape.dim) != 3:
        raise ModelError(
            f"{file}: the output has {len(tensor.shape.dim)} axes; token logits have (batch, token, label); "
            "choose a token classifier"
        )
    nodes = list(_all_nodes([*graph.node, *(node for function in model.functions for node in function.node)]))
    mixing = sorted({node.op_type for node in nodes} & _ROW_MIXERS)
    return ReadyFacts(_precision(graph, nodes), mixing[0] if mixing else None, _count_words(graph))


def _count_words(graph: onnx.GraphProto) -> int | None:
    """Follow `input_ids` to the tables that they are looked up in, and return the rows of the smallest."""
    rows: dict[str, int] = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None and value.dims:
            rows[node.output[0]] = value.dims[0]
    ids = {"input_ids"}
    found = []
    for node in graph.node:  # in an order in which whatever is used was made before
        table, index = _LOOKUPS.get(node.op_type, (None, None))
        if node.op_type in _SAME_IDS and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type in _SAME_ROWS and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif table is not None and index is not None and len(node.input) > max(table, index):
            axis = next((a.i for a in node.attribute if a.name in ("axis", "gather_axis")), 0)
            if node.input[index] in ids and node.input[table] in rows and axis == 0:
                found.append(rows[node.input[table]])
    return min(found, default=None)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the graphs inside them (branches and loops)."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _all_nodes(graph.node)


def _precision(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> Precision:
    """Tell the arithmetic from the operators; 4-bit weights alone are unpacked to float32 in the kernel."""
    operators = {node.op_type for node in nodes}
    levels = {a.i for node in nodes for a in node.attribute if a.name == "accuracy_level"}
    if operators & _INT8_OPERATORS or 4 in levels:  # level 4 rounds activations to int8 (ContribOperators.md)
        return Precision.INT8
    if any(tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 2 for tensor in graph.initializer):
        return Precision.FLOAT16
    return Precision.FLOAT32
