"""Writes the ONNX graph of an encoder in the operators that ONNX Runtime has fused kernels for.

Inputs: `input_ids` int32 (B, T), right-padded with anything, and `lengths` int32 (B,).
Outputs: `label_ids` int64 (B, T), `scores` float32 (B, T), `logits` float32 (B, T, L); what stands at
padded positions has no meaning. A run that asks for `label_ids` and `scores` computes nothing else.

Every operator works on one row (token) or on one (sequence, head) at a time, and none sums over an
extent that padding changes, so an answer does not depend on batch mates; docs/explanation/exactness.md says why.

B = sequences, T = longest of them, V = vocabulary, E = embedding size, H = hidden size, F = feed-forward
size, L = labels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from nerve.graph.architectures.encoder import Activation

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Encoder, Layer, Linear, Norm
    from nerve.types import FloatArray

BUILDER_VERSION = 4

_OPSET = 17
_IR_VERSION = 8  # belongs to opset 17; older than what the oldest onnxruntime we allow reads
_FUSED = "com.microsoft"
_MAX_DISTANCE = 128  # MPNet: farther tokens share a bucket (modeling_mpnet.py, relative_position_bucket)


def build(encoder: Encoder) -> onnx.ModelProto:
    """Return the float32 graph of `encoder`."""
    graph = GraphWriter()
    hidden = embed(graph, encoder)  # (B, T, H)
    scope = attention_scope(graph, encoder)
    for index, layer in enumerate(encoder.layers):
        name = f"layer.{index}"
        parts = [
            graph.node(
                "MatMul", [hidden, graph.constant(f"{name}.{part}.weight", p.weight.T)], f"{name}.{part}"
            )
            for part, p in layer.projections.items()
        ]
        context = attend(graph, encoder, scope, layer, parts, name)
        hidden = after_attention(graph, encoder, layer, context, hidden, name, fused=False)
    logits = linear(graph, hidden, encoder.classifier, "classifier", output="logits")  # (B, T, L)
    return finish(graph, logits, len(encoder.classifier.bias))


class GraphWriter:
    """A model under construction; each method returns the name of what it added."""

    def __init__(self) -> None:
        self.model = onnx.ModelProto(
            ir_version=_IR_VERSION,
            producer_name="nerve",
            opset_import=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
        )
        self.graph = self.model.graph
        self._names: set[str] = set()

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add `value` as an initializer, once per name."""
        if name not in self._names:
            self._names.add(name)
            array = np.ascontiguousarray(value)
            self.graph.initializer.add(
                name=name,
                dims=value.shape,
                data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                raw_data=array.tobytes(),
            )
        return name

    def node(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        *,
        fused: bool = False,
        output: str | None = None,
        **attributes: Any,  # noqa: ANN401 - what an ONNX attribute can hold
    ) -> str:
        """Add a node with one output of interest; fused operators are ONNX Runtime's own."""
        result = output or name
        self.graph.node.append(
            helper.make_node(
                operator, inputs, [result], name=name, domain=_FUSED if fused else None, **attributes
            )
        )
        return result


def linear(graph: GraphWriter, value: str, layer: Linear, name: str, output: str | None = None) -> str:
    """Add x W^T + b over the last axis."""
    weight = graph.constant(name + ".weight", layer.weight.T)  # (in, out)
    product = graph.node("MatMul", [value, weight], name + ".matmul")
    return graph.node(
        "Add", [product, graph.constant(name + ".bias", layer.bias)], name + ".add", output=output
    )


def finish(graph: GraphWriter, logits: str, labels: int) -> onnx.ModelProto:
    """Append softmax and the best label, and wrap everything up as a model.

    TopK puts the lower index first among equals (ONNX, operator TopK): the smallest label id wins a tie.
    """
    probabilities = graph.node("Softmax", [logits], "probabilities", axis=-1)
    one = graph.constant("one", np.array([1], np.int64))
    graph.graph.node.append(
        helper.make_node(
            "TopK", [probabilities, one], ["best.scores", "best.ids"], name="best", axis=-1, largest=1
        )
    )
    last = graph.constant("last_axis", np.array([-1], np.int64))
    graph.node("Squeeze", ["best.ids", last], "squeeze_ids", output="label_ids")
    graph.node("Squeeze", ["best.scores", last], "squeeze_scores", output="scores")
    info = helper.make_tensor_value_info
    graph.graph.name = "token_classifier"
    graph.graph.input.extend(
        [info("input_ids", TensorProto.INT32, ["B", "T"]), info("lengths", TensorProto.INT32, ["B"])]
    )
    graph.graph.output.extend(
        [
            info("label_ids", TensorProto.INT64, ["B", "T"]),
            info("scores", TensorProto.FLOAT, ["B", "T"]),
            info("logits", TensorProto.FLOAT, ["B", "T", labels]),
        ]
    )
    return graph.model


def embed(graph: GraphWriter, encoder: Encoder) -> str:
    """Sum of word and position vectors, normalised: (B, T, E), or (B, T, H) after the projection."""
    positions = "" if encoder.padding_id is None else _positions(graph, encoder.padding_id)
    embeddings = add_embeddings(graph, encoder, positions)
    return (
        embeddings
        if encoder.projection is None
        else linear(graph, embeddings, encoder.projection, "projection")
    )


def add_embeddings(graph: GraphWriter, encoder: Encoder, positions: str) -> str:
    """Add the sum of word and position vectors, normalised, of the shape of `input_ids` and E.

    positions: name of the position ids; "" where token t has position t.
    """
    inputs = [
        "input_ids",
        "",  # token types: all 0, and their vector is part of the positions
        graph.constant("words", encoder.words),  # (V, E)
        graph.constant("positions", encoder.positions),  # (P, E)
        "",
        graph.constant("embedding_norm.weight", encoder.embedding_norm.weight),
        graph.constant("embedding_norm.bias", encoder.embedding_norm.bias),
    ]
    if positions:
        inputs += ["", positions]
    graph.graph.node.append(
        helper.make_node(
            "EmbedLayerNormalization",
            inputs,
            ["embeddings", "unused_mask_index"],
            name="embeddings",
            domain=_FUSED,
            epsilon=encoder.epsilon,
        )
    )
    return "embeddings"


def _positions(graph: GraphWriter, padding_id: int) -> str:
    """Positions of the RoBERTa family, int32 (B, T).

    cumsum(id != pad) * (id != pad) + pad (modeling_roberta.py, create_position_ids_from_input_ids). It
    matters inside a text too, where the tokenizer found the padding token written out.
    """
    pad = graph.constant("padding_id", np.array(padding_id, np.int32))
    is_pad = graph.node("Equal", ["input_ids", pad], "is_padding")
    is_real = graph.node("Not", [is_pad], "is_not_padding")
    real = graph.node("Cast", [is_real], "counts", to=TensorProto.INT32)
    count = graph.node("CumSum", [real, graph.constant("time_axis", np.array(1, np.int64))], "count")
    return graph.node("Add", [graph.node("Mul", [count, real], "counted"), pad], "position_ids")


def relative_bias(graph: GraphWriter, encoder: Encoder) -> str:
    """MPNet's bias by distance, (1, heads, T, T); an empty name for other architectures."""
    if encoder.relative_bias is None:
        return ""
    n_positions = len(encoder.positions)
    table = graph.constant(
        "relative_bias", bias_by_distance(encoder.relative_bias, n_positions)
    )  # (heads, 2P - 1)
    zero, one, shift = (
        graph.constant(name, np.array(value, np.int32))
        for name, value in (("zero", 0), ("step", 1), ("farthest", n_positions - 1))
    )
    time = graph.node("Shape", ["input_ids"], "time", start=1, end=2)  # (1,)
    n_tokens = graph.node(
        "Cast", [graph.node("Squeeze", [time], "time_scalar")], "n_tokens", to=TensorProto.INT32
    )
    at = graph.node("Range", [zero, n_tokens, one], "at")  # (T,)
    first_axis = graph.constant("first_axis", np.zeros(1, np.int64))
    keys = graph.node("Unsqueeze", [at, first_axis], "keys")  # (1, T)
    queries = graph.node("Unsqueeze", [at, graph.constant("second_axis", np.ones(1, np.int64))], "queries")
    columns = graph.node("Sub", [graph.node("Add", [queries, shift], "shifted"), keys], "distances")  # (T, T)
    bias = graph.node("Gather", [table, columns], "distance_bias", axis=1)  # (heads, T, T)
    return graph.node("Unsqueeze", [bias, first_axis], "attention_bias")


def bias_by_distance(relative_bias: FloatArray, positions: int) -> FloatArray:
    """Return the bias of every distance, query minus key, from -(P - 1) on: (heads, 2P - 1).

    One row for each distance, not for each pair of positions: of these there are billions where contexts are long.
    T5's scheme, in float32 as modeling_mpnet.py computes it.
    """
    distance = np.arange(1 - positions, positions)
    half = len(relative_bias) // 2
    exact = half // 2
    far = np.abs(distance)
    with np.errstate(divide="ignore"):
        growth = np.log(far.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(_MAX_DISTANCE / exact)
        )
        spread = np.where(far < exact, 0, growth * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(far < exact, far, np.minimum(exact + spread, half - 1))
    by_distance: FloatArray = relative_bias.T[:, bucket + np.where(distance < 0, half, 0)]
    return by_distance


class AttentionScope(NamedTuple):
    """What every layer's attention knows of the batch, by name.

    is_full: bool, no row has padding. bias: (1, heads, T, T), added to the scores; "" for none.
    """

    is_full: str
    bias: str


def attention_scope(graph: GraphWriter, encoder: Encoder) -> AttentionScope:
    """Add what attention needs, once for all layers."""
    shortest = graph.node("ReduceMin", ["lengths"], "shortest", keepdims=0)
    time = graph.node("Shape", ["input_ids"], "longest_shape", start=1, end=2)  # (1,)
    longest = graph.node(
        "Cast", [graph.node("Squeeze", [time], "longest")], "longest_int", to=TensorProto.INT32
    )
    is_full = graph.node("Equal", [shortest, longest], "is_full")
    return AttentionScope(is_full, relative_bias(graph, encoder))


def attend(
    graph: GraphWriter, encoder: Encoder, scope: AttentionScope, layer: Layer, parts: list[str], name: str
) -> str:
    """Add attention over query, key and value without their biases, each (B, T, H); returns (B, T, H).

    Where no row has padding, the operator is called without lengths: what it does for them takes a fifth of its time.
    Zeros that are not added change no bit of the scores.
    """
    biases = [projection.bias for projection in layer.projections.values()]
    inputs = [*parts, graph.constant(f"{name}.qkv.bias", np.concatenate(biases))]

    def branch(kind: str, lengths: str) -> onnx.GraphProto:
        output = f"{name}.context.{kind}"
        masks = [lengths, scope.bias] if scope.bias else [lengths] if lengths else []
        node = helper.make_node(
            "MultiHeadAttention",
            [*inputs, *masks],
            [output],
            name=f"{name}.attention.{kind}",
            domain=_FUSED,
            num_heads=encoder.heads,
        )
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        return helper.make_graph([node], f"{name}.{kind}", [], [result])

    return graph.node(
        "If",
        [scope.is_full],
        f"{name}.attention",
        then_branch=branch("full", ""),
        else_branch=branch("padded", "lengths"),
    )


def after_attention(
    graph: GraphWriter,
    encoder: Encoder,
    layer: Layer,
    context: str,
    hidden: str,
    name: str,
    *,
    fused: bool,
) -> str:
    """Add the rest of a layer: output projection, feed-forward block, and the norm after each.

    fused: in the operators that are quickest on CUDA; False: on the CPU.
    """
    normalize = partial(fused_skip_norm if fused else skip_norm, graph, epsilon=encoder.epsilon)
    output = _product(graph, context, layer.attention_output, f"{name}.attended")
    hidden = normalize(
        output, hidden, layer.attention_output.bias, layer.attention_norm, name=f"{name}.attended"
    )
    up = graph.constant(f"{name}.up.weight", layer.up.weight.T)  # (H, F)
    wide = graph.node("MatMul", [hidden, up], f"{name}.up")
    wide = activate(graph, encoder.activation, wide, layer.up.bias, name, fused=fused)
    output = _product(graph, wide, layer.down, f"{name}.output")
    return normalize(output, hidden, layer.down.bias, layer.output_norm, name=f"{name}.output")


def activate(
    graph: GraphWriter, activation: Activation, value: str, bias: FloatArray, name: str, *, fused: bool
) -> str:
    """Activation of x + bias.

    fused: as for `after_attention`. On the CPU, BiasGelu takes a quarter longer than Add and Gelu, to the same bits.
    """
    shift = graph.constant(f"{name}.up.bias", bias)
    if activation is Activation.GELU_TANH:
        return graph.node("FastGelu", [value, shift], f"{name}.gelu", fused=True)
    if activation is Activation.GELU and fused:
        return graph.node("BiasGelu", [value, shift], f"{name}.gelu", fused=True)
    total = graph.node("Add", [value, shift], f"{name}.up.add")
    if activation is Activation.RELU:
        return graph.node("Relu", [total], f"{name}.relu")
    return graph.node("Gelu", [total], f"{name}.gelu", fused=True)


def _product(graph: GraphWriter, value: str, layer: Linear, name: str) -> str:
    """Multiply: x W^T."""
    return graph.node("MatMul", [value, graph.constant(f"{name}.weight", layer.weight.T)], f"{name}.matmul")


def skip_norm(
    graph: GraphWriter, value: str, skip: str, bias: FloatArray, norm: Norm, epsilon: float, name: str
) -> str:
    """LayerNorm(value + skip + bias), for the CPU.

    Three operators are faster there than one: ONNX Runtime's SkipLayerNormalization for the CPU works on one number
    at a time (docs/decisions/0018).
    """
    total = graph.node("Add", [value, skip], f"{name}.sum")
    total = graph.node("Add", [total, graph.constant(f"{name}.bias", bias)], f"{name}.sum.bias")
    inputs = [
        total,
        graph.constant(f"{name}.norm.weight", norm.weight),
        graph.constant(f"{name}.norm.bias", norm.bias),
    ]
    return graph.node("LayerNormalization", inputs, f"{name}.norm", axis=-1, epsilon=epsilon)


def fused_skip_norm(
    graph: GraphWriter, value: str, skip: str, bias: FloatArray, norm: Norm, epsilon: float, name: str
) -> str:
    """LayerNorm(value + skip + bias) in one operator, for CUDA."""
    return graph.node(
        "SkipLayerNormalization",
        [
            value,
            skip,
            graph.constant(f"{name}.norm.weight", norm.weight),
            graph.constant(f"{name}.norm.bias", norm.bias),
            graph.constant(f"{name}.bias", bias),
        ],
        f"{name}.norm",
        fused=True,
        epsilon=epsilon,
    )
