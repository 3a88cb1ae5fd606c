"""Writes the token-packed CUDA graph of an encoder: the tokens of all sequences in one row, no padding.

Inputs, all int32: `input_ids` (1, T), `position_ids` (1, T), `cu_seqlens` (B + 1,), where each sequence
starts and the last one ends, `token_offset` (B, S), where each token would lie if sequences were padded to
S, and for MPNet `distances` (S, S). Outputs: `label_ids` int64 (T, 1), `scores` float32 (T, 1), `logits`
float32 (T, L). `nerve.runtime.packing` fills the inputs; `nerve.runtime.packed` runs the graph.

Everything the graph needs of the host comes in as an input of a shape known in advance: there is no node
whose result is a shape, so no node for the CPU and no synchronisation, as CUDA graphs demand. Softmax and
the best label are computed in float32 whatever the precision.

T = tokens of a step, B = sequences, S = room for the longest of them, P = positions, L = labels; other
letters as in `builder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from nerve.errors import ModelError
from nerve.graph import builder
from nerve.graph.builder import GraphWriter

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt
    import onnx

    from nerve.graph.architectures.encoder import Encoder, Layer


def build(encoder: Encoder, *, half: bool) -> onnx.ModelProto:
    """Return the packed graph of `encoder` in float16 (`half`) or float32.

    Raises `ModelError` when a weight is too large for float16.
    """
    graph = _PackedWriter(half)
    hidden = _embed(graph, encoder)  # (T, H)
    bias = _relative_bias(graph, encoder)
    for index, layer in enumerate(encoder.layers):
        hidden = _layer(graph, encoder, layer, hidden, bias, f"layer.{index}")
    logits = builder.linear(graph, hidden, encoder.classifier, "classifier")  # (T, L)
    model = _finish(graph, logits, len(encoder.classifier.bias), has_distances=bool(bias))
    # What the host must know to fill the inputs; it travels with the graph, also through the cache.
    facts = {"n_words": str(len(encoder.words)), "n_positions": str(len(encoder.positions))}
    if encoder.padding_id is not None:
        facts["padding_id"] = str(encoder.padding_id)
    helper.set_model_props(model, facts)
    return model


class _PackedWriter(GraphWriter):
    """Stores float32 constants as float16 when the graph is to compute in that."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add `value` as an initializer, once per name."""
        if self.half and value.dtype == np.float32:
            with np.errstate(over="ignore"):
                value = value.astype(np.float16)
            if not np.isfinite(value).all():
                raise ModelError(f"{name} has values that float16 cannot hold; set model.precision: float32")
        return super().constant(name, value)


def _embed(graph: _PackedWriter, encoder: Encoder) -> str:
    """Sum of word and position vectors, normalised: (T, H)."""
    embeddings = builder.add_embeddings(graph, encoder, "position_ids")  # (1, T, E)
    rows = graph.constant("rows_shape", np.array([-1, encoder.words.shape[1]], np.int64))
    hidden = graph.node("Reshape", [embeddings, rows], "rows")  # (T, E)
    if encoder.projection is None:
        return hidden
    return builder.linear(graph, hidden, encoder.projection, "projection")


def _relative_bias(graph: _PackedWriter, encoder: Encoder) -> str:
    """MPNet's bias by distance, (1, heads, S, S), the same in every sequence; "" for other architectures.

    `distances` (S, S) holds query minus key plus P - 1, so that the table has a column for each.
    """
    if encoder.relative_bias is None:
        return ""
    by_distance = builder.bias_by_distance(encoder.relative_bias, len(encoder.positions))
    table = graph.constant("relative_bias", by_distance)  # (heads, 2P - 1)
    bias = graph.node("Gather", [table, "distances"], "distance_bias", axis=1)  # (heads, S, S)
    axis = graph.constant("first_axis", np.zeros(1, np.int64))
    return graph.node("Unsqueeze", [bias, axis], "attention_bias")


def _layer(graph: _PackedWriter, encoder: Encoder, layer: Layer, hidden: str, bias: str, name: str) -> str:
    projections = layer.projections.values()
    weight = graph.constant(
        f"{name}.qkv.weight", np.concatenate([p.weight for p in projections]).T
    )  # (H, 3H)
    qkv_bias = graph.constant(f"{name}.qkv.bias", np.concatenate([p.bias for p in projections]))
    inputs = [hidden, weight, qkv_bias, "token_offset", "cu_seqlens"]
    if bias:
        inputs.append(bias)
    context = graph.node("PackedAttention", inputs, f"{name}.attention", fused=True, num_heads=encoder.heads)
    return builder.after_attention(graph, encoder, layer, context, hidden, name, fused=True)


def _finish(graph: _PackedWriter, logits: str, n_labels: int, *, has_distances: bool) -> onnx.ModelProto:
    """Append softmax and the best label. TopK puts the lower index first among equals, as `builder` says."""
    if graph.half:
        logits = graph.node("Cast", [logits], "wide_logits", output="logits", to=TensorProto.FLOAT)
    else:
        graph.graph.node[-1].output[0] = logits = "logits"
    probabilities = graph.node("Softmax", [logits], "probabilities", axis=-1)
    one = graph.constant("one", np.array([1], np.int64))
    graph.graph.node.append(
        helper.make_node(
            "TopK", [probabilities, one], ["scores", "label_ids"], name="best", axis=-1, largest=1
        )
    )
    info = helper.make_tensor_value_info
    inputs: dict[str, list[str | int]] = {
        "input_ids": [1, "T"],
        "position_ids": [1, "T"],
        "cu_seqlens": ["B+1"],
        "token_offset": ["B", "S"],
    }
    if has_distances:
        inputs["distances"] = ["S", "S"]
    graph.graph.name = "packed_token_classifier"
    graph.graph.input.extend(info(name, TensorProto.INT32, shape) for name, shape in inputs.items())
    graph.graph.output.extend(
        [
            info("label_ids", TensorProto.INT64, ["T", 1]),
            info("scores", TensorProto.FLOAT, ["T", 1]),
            info("logits", TensorProto.FLOAT, ["T", n_labels]),
        ]
    )
    return graph.model
