"""Two evaluations of packed graphs without a GPU, whose packed attention the CPU does not have.

`ReferenceGraph` runs the graph in numpy, by the operators' definitions. `on_cpu` swaps packed attention for
standard operators, so that onnxruntime itself can run everything else, through `PackedSession`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class PackedAttention(OpRun):
    """Attention within each of the sequences that `cu_seqlens` tells apart (onnxruntime, bert_defs.cc)."""

    op_domain = "com.microsoft"

    def _run(
        self,
        value: Array,
        weights: Array,
        shift: Array,
        token_offset: Array,
        cu_seqlens: Array,
        attention_bias: Array | None = None,
        num_heads: int = 0,
        scale: float = 0.0,
    ) -> tuple[Array]:
        parts = np.split(value @ weights + shift, 3, axis=1)  # (T, H) each
        return (attend(parts, token_offset, cu_seqlens, attention_bias, num_heads, scale),)


class PackedMultiHeadAttention(OpRun):
    """The same over queries, keys and values that come in, each (T, K)."""

    op_domain = "com.microsoft"

    def _run(  # noqa: PLR0917 - as onnx calls it
        self,
        query: Array,
        key: Array,
        value: Array,
        shift: Array | None,
        token_offset: Array,
        cu_seqlens: Array,
        attention_bias: Array | None = None,
        num_heads: int = 0,
        scale: float = 0.0,
    ) -> tuple[Array]:
        assert shift is None
        return (attend([query, key, value], token_offset, cu_seqlens, attention_bias, num_heads, scale),)


def attend(
    parts: list[Array],
    token_offset: Array,
    cu_seqlens: Array,
    attention_bias: Array | None,
    num_heads: int,
    scale: float,
) -> Array:
    """Attention within each sequence; a bias of one head, or of one sequence, serves all."""
    query, key, content = parts
    check_layout(token_offset, cu_seqlens, len(query))
    result = np.zeros_like(query)
    size = query.shape[1] // num_heads
    factor = scale or 1 / math.sqrt(size)
    for number, (start, end) in enumerate(pairwise(cu_seqlens)):
        for head in range(num_heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[start:end, columns] @ key[start:end, columns].T * factor
            if attention_bias is not None:
                which = head if attention_bias.shape[1] > 1 else 0
                of = number if attention_bias.shape[0] > 1 else 0
                scores = scores + attention_bias[of, which, : end - start, : end - start]
            weight = np.exp(scores - scores.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            result[start:end, columns] = weight @ content[start:end, columns]
    return result


def check_layout(token_offset: Array, cu_seqlens: Array, n_tokens: int) -> None:
    """Check what the operator documents of its two descriptions of the sequences."""
    n_sequences, longest = token_offset.shape
    lengths = np.diff(cu_seqlens)
    assert len(cu_seqlens) == n_sequences + 1
    assert (cu_seqlens[0], cu_seqlens[-1]) == (0, n_tokens)
    assert (lengths >= 1).all()
    assert (lengths <= longest).all()
    tokens = [row * longest + column for row, n in enumerate(lengths) for column in range(n)]
    padding = sorted(set(range(token_offset.size)) - set(tokens))
    assert token_offset.reshape(-1).tolist() == tokens + padding


class EmbedLayerNormalization(OpRun):
    """Word plus position vector, normalised."""

    op_domain = "com.microsoft"

    def _run(self, *inputs: Array | None, epsilon: float = 0.0) -> tuple[Array, Array]:
        ids, types, words, positions, type_table, gamma, beta, mask, position_ids = inputs
        assert types is type_table is mask is None
        assert ids is not None
        assert words is not None
        assert positions is not None
        assert gamma is not None
        assert beta is not None
        summed = words[ids] + positions[position_ids]
        return normalise(summed, gamma, beta, epsilon), np.zeros(len(ids), np.int32)


class RotaryEmbedding(OpRun):
    """Each head's first half and second half, turned by the angle of the position (onnxruntime, bert_defs.cc)."""

    op_domain = "com.microsoft"

    def _run(
        self,
        value: Array,
        positions: Array,
        cosines: Array,
        sines: Array,
        num_heads: int = 0,
        **defaults: int,
    ) -> tuple[Array]:
        assert not any(defaults.values())
        assert positions.shape == value.shape[:2]
        heads = value.reshape(*value.shape[:2], num_heads, -1)
        cosine, sine = (table[positions][:, :, None] for table in (cosines, sines))
        first, second = np.split(heads, 2, axis=-1)
        turned = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
        return (turned.reshape(value.shape),)


class SimplifiedLayerNormalization(OpRun):
    """RMS normalisation, which onnxruntime has in ONNX's own domain."""

    op_domain = ""

    def _run(self, value: Array, gamma: Array, axis: int = -1, epsilon: float = 0.0) -> tuple[Array]:
        size = np.sqrt((value**2).mean(axis=axis, keepdims=True) + np.float32(epsilon))
        return ((value / size * gamma).astype(value.dtype),)


class QuickGelu(OpRun):
    """x sigmoid(alpha x)."""

    op_domain = "com.microsoft"

    def _run(self, value: Array, alpha: float = 0.0) -> tuple[Array]:
        return ((value / (1 + np.exp(-alpha * value))).astype(value.dtype),)


class Gelu(OpRun):
    """x Phi(x)."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        assert approximate == "none"
        return ((0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(x.dtype),)


class SkipLayerNormalization(OpRun):
    """Two values and a bias, summed and normalised."""

    op_domain = "com.microsoft"

    def _run(
        self,
        value: Array,
        skip: Array,
        gamma: Array,
        beta: Array,
        bias: Array | None = None,
        epsilon: float = 0.0,
    ) -> tuple[Array]:
        total = value + skip if bias is None else value + skip + bias
        return (normalise(total, gamma, beta, epsilon),)


class BiasGelu(OpRun):
    """x Phi(x) of value + bias."""

    op_domain = "com.microsoft"

    def _run(self, value: Array, bias: Array) -> tuple[Array]:
        x = value + bias
        return ((0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(x.dtype),)


class FastGelu(OpRun):
    """The tanh form of GELU of value + bias."""

    op_domain = "com.microsoft"

    def _run(self, value: Array, bias: Array | None = None) -> tuple[Array]:
        x = value if bias is None else value + bias
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return ((0.5 * x * (1 + np.tanh(inner))).astype(x.dtype),)


def normalise(value: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """Layer normalisation over the last axis."""
    centred = value - value.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    result: Array = (centred / deviation * gamma + beta).astype(value.dtype)
    return result


class ReferenceGraph:
    """A packed graph, evaluated in numpy."""

    def __init__(self, source: bytes) -> None:
        new_ops = [
            *(PackedAttention, PackedMultiHeadAttention, EmbedLayerNormalization, SkipLayerNormalization),
            *(BiasGelu, FastGelu, Gelu, QuickGelu, RotaryEmbedding, SimplifiedLayerNormalization),
        ]
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(source), new_ops=new_ops)

    def run(self, inputs: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Return label ids (T, 1), scores (T, 1) and logits (T, L)."""
        label_ids, scores, logits = self._evaluator.run(["label_ids", "scores", "logits"], inputs)
        return label_ids, scores, logits


def on_cpu(source: bytes) -> bytes:
    """Return the graph with every `PackedAttention` written in standard operators."""
    model = onnx.load_from_string(source)
    nodes = list(model.graph.node)
    sizes = {i.name: i.dims for i in model.graph.initializer}
    kind = next(i.data_type for i in model.graph.initializer if i.name == "words")
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    constants = {
        "cpu.zero": np.zeros((), dtype),
        "cpu.far": np.full((), -1e4, dtype),
        "cpu.keep": np.array([0], np.int64),
        "cpu.all": np.array([-1], np.int64),
        "cpu.axis0": np.array([0], np.int64),
        "cpu.axis1": np.array([1], np.int64),
        "cpu.from": np.array(0, np.int32),
        "cpu.step": np.array(1, np.int32),
        "cpu.back": np.array(-1, np.int32),
    }
    swapped = [
        # Which sequence each token belongs to, and where it stands there, both (T,).
        helper.make_node("Shape", ["input_ids"], ["cpu.T"], start=1, end=2),
        helper.make_node("Squeeze", ["cpu.T"], ["cpu.T0"]),
        helper.make_node("Cast", ["cpu.T0"], ["cpu.T1"], to=TensorProto.INT32),
        helper.make_node("Range", ["cpu.from", "cpu.T1", "cpu.step"], ["cpu.at"]),
        helper.make_node("Unsqueeze", ["cu_seqlens", "cpu.axis1"], ["cpu.starts"]),
        helper.make_node("LessOrEqual", ["cpu.starts", "cpu.at"], ["cpu.begun"]),
        helper.make_node("Cast", ["cpu.begun"], ["cpu.begun_n"], to=TensorProto.INT32),
        helper.make_node("ReduceSum", ["cpu.begun_n", "cpu.axis0"], ["cpu.number"], keepdims=0),
        helper.make_node("Add", ["cpu.number", "cpu.back"], ["cpu.sequence"]),
        helper.make_node("Gather", ["cu_seqlens", "cpu.sequence"], ["cpu.start"]),
        helper.make_node("Sub", ["cpu.at", "cpu.start"], ["cpu.place"]),
        helper.make_node("Unsqueeze", ["cpu.sequence", "cpu.axis0"], ["cpu.row"]),
        helper.make_node("Unsqueeze", ["cpu.sequence", "cpu.axis1"], ["cpu.column"]),
        helper.make_node("Equal", ["cpu.row", "cpu.column"], ["cpu.same"]),
        helper.make_node("Where", ["cpu.same", "cpu.zero", "cpu.far"], ["cpu.mask"]),
    ]
    for node in nodes:
        if node.op_type == "PackedAttention":
            swapped += _projected(node)
            width = sizes[node.input[1]][1] // 3
            swapped += _attention(node, node.input[5:], width, constants, dtype)
        elif node.op_type == "PackedMultiHeadAttention":
            for part, given in zip("qkv", node.input, strict=False):
                swapped.append(helper.make_node("Identity", [given], [f"{node.name}.{part}"]))
            source = next(n for n in nodes if n.output[0] == node.input[0])
            width = source.input[1]  # of a bias its length, of rows their shape
            extent = sizes[width][-1] if source.op_type == "Add" else _width_of(model, width)
            swapped += _attention(node, node.input[6:], extent, constants, dtype)
        else:
            swapped.append(node)
    del model.graph.node[:]
    model.graph.node.extend(swapped)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return model.SerializeToString()


def _width_of(model: Any, name: str) -> int:
    """Return the last number of a shape that is a constant."""
    found = next(i for i in model.graph.initializer if i.name == name)
    return int(numpy_helper.to_array(found)[-1])


def _projected(node: Any) -> list[Any]:
    value, weights, shift = node.input[:3]
    name = node.name
    return [
        helper.make_node("MatMul", [value, weights], [f"{name}.product"]),
        helper.make_node("Add", [f"{name}.product", shift], [f"{name}.qkv"]),
        helper.make_node("Split", [f"{name}.qkv"], [f"{name}.{part}" for part in "qkv"], axis=1),
    ]


def _attention(node: Any, bias: list[str], hidden: int, constants: dict[str, Array], dtype: Any) -> list[Any]:
    name = node.name
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads = options["num_heads"]
    size = hidden // heads
    constants["cpu.split"] = np.array([0, heads, size], np.int64)
    constants["cpu.join"] = np.array([0, hidden], np.int64)
    constants["cpu.scale"] = np.array(options.get("scale", size**-0.5), dtype)
    nodes = []
    for part, order in (("q", [1, 0, 2]), ("k", [1, 2, 0]), ("v", [1, 0, 2])):
        nodes += [
            helper.make_node("Reshape", [f"{name}.{part}", "cpu.split"], [f"{name}.{part}3"]),
            helper.make_node("Transpose", [f"{name}.{part}3"], [f"{name}.{part}4"], perm=order),
        ]
    nodes += [
        helper.make_node("MatMul", [f"{name}.q4", f"{name}.k4"], [f"{name}.qk"]),
        helper.make_node("Mul", [f"{name}.qk", "cpu.scale"], [f"{name}.scaled"]),
        helper.make_node("Add", [f"{name}.scaled", "cpu.mask"], [f"{name}.masked"]),
    ]
    last = f"{name}.masked"
    if bias:
        nodes += [
            # (heads, sequences * S, S), of one sequence where the bias is the same in all.
            helper.make_node("Shape", [bias[0]], [f"{name}.sequences"], start=0, end=1),
            helper.make_node("Shape", [bias[0]], [f"{name}.room"], start=3, end=4),
            helper.make_node("Transpose", [bias[0]], [f"{name}.by_head"], perm=[1, 0, 2, 3]),
            helper.make_node(
                "Concat", ["cpu.keep", "cpu.all", f"{name}.room"], [f"{name}.bias_shape"], axis=0
            ),
            helper.make_node("Reshape", [f"{name}.by_head", f"{name}.bias_shape"], [f"{name}.bias3"]),
            helper.make_node("Cast", ["cpu.sequence"], [f"{name}.sequence64"], to=TensorProto.INT64),
            helper.make_node("Mod", [f"{name}.sequence64", f"{name}.sequences"], [f"{name}.which"]),
            helper.make_node("Mul", [f"{name}.which", f"{name}.room"], [f"{name}.first"]),
            helper.make_node("Cast", ["cpu.place"], [f"{name}.place64"], to=TensorProto.INT64),
            helper.make_node("Add", [f"{name}.first", f"{name}.place64"], [f"{name}.row"]),
            helper.make_node("Gather", [f"{name}.bias3", f"{name}.row"], [f"{name}.rows"], axis=1),
            helper.make_node("Gather", [f"{name}.rows", "cpu.place"], [f"{name}.cells"], axis=2),
            helper.make_node("Add", [last, f"{name}.cells"], [f"{name}.biased"]),
        ]
        last = f"{name}.biased"
    return [
        *nodes,
        helper.make_node("Softmax", [last], [f"{name}.weights"], axis=-1),
        helper.make_node("MatMul", [f"{name}.weights", f"{name}.v4"], [f"{name}.context"]),
        helper.make_node("Transpose", [f"{name}.context"], [f"{name}.turned"], perm=[1, 0, 2]),
        helper.make_node("Reshape", [f"{name}.turned", "cpu.join"], list(node.output)),
    ]
