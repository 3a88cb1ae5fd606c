"""Writes the int8 graph of an encoder: inputs and outputs as `builder` has them, integer linear layers.

Each linear layer of the encoder multiplies uint8 activations with int8 weights. Every token (row) has its own
activation scale and every output column its own weight scale, so, unlike ONNX Runtime's dynamic
quantisation with one scale per tensor, an answer does not depend on batch mates. Attention scores, softmax,
layer norms and the classifier stay float32.

N = B x T rows, all tokens of the batch one after the other; the other letters as in `builder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from nerve.graph import builder
from nerve.graph.architectures import Activation, Linear, Norm
from nerve.graph.builder import GraphWriter

if TYPE_CHECKING:
    import numpy.typing as npt

    from nerve.graph.architectures import Encoder, Layer
    from nerve.types import FloatArray

# How much of an outlier moves from the activations into the weights (SmoothQuant, arXiv 2211.10438, eq. 4).
ALPHA = 0.7

# gelu(x) >= -0.16998 for both forms, so its quantised range needs little room below zero.
_GELU_FLOOR = 0.171


def build(encoder: Encoder) -> onnx.ModelProto:
    """Return the int8 graph of `encoder`."""
    graph = GraphWriter()
    hidden_size = encoder.classifier.weight.shape[1]
    rows = graph.constant("rows_shape", np.array([-1, hidden_size], np.int64))
    shape = graph.node("Shape", ["input_ids"], "batch_shape")
    width = graph.constant("hidden_size", np.array([hidden_size], np.int64))
    grid = graph.node("Concat", [shape, width], "grid_shape", axis=0)  # (B, T, H)
    hidden = graph.node("Reshape", [builder.embed(graph, encoder), rows], "rows")  # (N, H)
    bias = builder.relative_bias(graph, encoder)
    norm = encoder.embedding_norm if encoder.projection is None else None
    for index, layer in enumerate(encoder.layers):
        hidden = _Layer(graph, encoder, layer, f"layer.{index}").write(hidden, norm, grid, rows, bias)
        norm = layer.output_norm
    logits = builder.linear(graph, hidden, encoder.classifier, "classifier")  # (N, L)
    labels = graph.constant("labels", np.array([len(encoder.classifier.bias)], np.int64))
    shape = graph.node("Concat", [shape, labels], "logits_shape", axis=0)
    logits = graph.node("Reshape", [logits, shape], "logits_grid", output="logits")  # (B, T, L)
    return builder.finish(graph, logits, len(encoder.classifier.bias))


def quantize_columns(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8 (in, out) and one scale per output, for a weight (out, in)."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-9) / np.float32(127)  # (out,)
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale.astype(np.float32)


class _Layer:
    def __init__(self, graph: GraphWriter, encoder: Encoder, layer: Layer, name: str) -> None:
        self._graph = graph
        self._encoder = encoder
        self._layer = layer
        self._name = name

    def write(self, hidden: str, norm: Norm | None, grid: str, rows: str, bias: str) -> str:
        """Add the layer; `norm` is the one that made `hidden`."""
        graph, layer, name = self._graph, self._layer, self._name
        query, key, value = layer.query, layer.key, layer.value
        factors = norm_factors(norm, [query, key, value])
        quantised = self._quantize(hidden, factors, f"{name}.qkv_in")
        projected = [
            graph.node(
                "Reshape", [self._matmul(quantised, p, factors, f"{name}.{n}"), grid], f"{name}.{n}.grid"
            )
            for n, p in (("query", query), ("key", key), ("value", value))
        ]
        qkv_bias = graph.constant(f"{name}.qkv.bias", np.concatenate([p.bias for p in (query, key, value)]))
        inputs = [*projected, qkv_bias, "lengths"] + ([bias] if bias else [])
        context = graph.node(
            "MultiHeadAttention", inputs, f"{name}.attention", fused=True, num_heads=self._encoder.heads
        )
        context = graph.node("Reshape", [context, rows], f"{name}.context")
        output = layer.attention_output
        attended = self._matmul(self._quantize(context, None, f"{name}.out_in"), output, None, f"{name}.out")
        eps = self._encoder.epsilon
        hidden = builder.skip_norm(
            graph, attended, hidden, output.bias, layer.attention_norm, eps, f"{name}.attended"
        )
        factors = norm_factors(layer.attention_norm, [layer.up])
        quantised = self._quantize(hidden, factors, f"{name}.up_in")
        wide = self._matmul(quantised, layer.up, factors, f"{name}.up")
        wide = builder.activate(graph, self._encoder.activation, wide, layer.up.bias, name)
        quantised = self._quantize_activation(wide, f"{name}.down_in")
        down = self._matmul(quantised, layer.down, None, f"{name}.down")
        return builder.skip_norm(
            graph, down, hidden, layer.down.bias, layer.output_norm, eps, f"{name}.output"
        )

    def _quantize(self, value: str, factors: FloatArray | None, name: str) -> tuple[str, str, str]:
        """Quantise rows symmetrically about 128; return values, scales (N, 1) and zero point."""
        graph = self._graph
        if factors is not None:
            value = graph.node(
                "Mul", [value, graph.constant(f"{name}.factors", 1 / factors)], f"{name}.smooth"
            )
        size = graph.node("Abs", [value], f"{name}.abs")
        return self._rows(value, size, name, zero=128, steps=127, floor=1e-9)

    def _quantize_activation(self, value: str, name: str) -> tuple[str, str, str]:
        """Quantise what a GELU or ReLU gives, with nearly all steps above zero."""
        if self._encoder.activation is Activation.RELU:
            return self._rows(value, value, name, zero=0, steps=255, floor=1e-9)
        zero = 32
        return self._rows(value, value, name, zero=zero, steps=255 - zero, floor=_GELU_FLOOR / zero)

    def _rows(
        self, value: str, size: str, name: str, zero: int, steps: int, floor: float
    ) -> tuple[str, str, str]:
        graph = self._graph
        top = graph.node("ReduceMax", [size], f"{name}.top", axes=[1], keepdims=0)  # (N,)
        step = graph.node(
            "Mul", [top, graph.constant(f"one_in_{steps}", np.array(1 / steps, np.float32))], f"{name}.step"
        )
        scale = graph.node(
            "Max", [step, graph.constant(f"floor_{zero}", np.array(floor, np.float32))], f"{name}.scale"
        )
        point = graph.constant(f"zero_{zero}", np.array(zero, np.uint8))
        points = graph.node(
            "ConstantOfShape",
            [graph.node("Shape", [scale], f"{name}.n")],
            f"{name}.points",
            value=onnx.helper.make_tensor("v", TensorProto.UINT8, [1], [zero]),
        )
        quantised = graph.node("QuantizeLinear", [value, scale, points], f"{name}.q", axis=0)
        column = graph.node(
            "Unsqueeze",
            [scale, graph.constant("column_axis", np.array([1], np.int64))],
            f"{name}.scale_column",
        )
        return quantised, column, point

    def _matmul(
        self, quantised: tuple[str, str, str], layer: Linear, factors: FloatArray | None, name: str
    ) -> str:
        graph = self._graph
        weight = layer.weight if factors is None else layer.weight * factors
        values, scales = quantize_columns(weight)
        inputs = [
            quantised[0],
            graph.constant(f"{name}.weight", values),
            quantised[1],
            graph.constant(f"{name}.scales", scales),
            quantised[2],
        ]
        return graph.node("MatMulIntegerToFloat", inputs, name, fused=True)


def norm_factors(norm: Norm | None, layers: list[Linear]) -> FloatArray | None:
    """Smoothing factors (in,) of layers that read a layer norm: max|x|^alpha / max|w|^(1-alpha).

    max|x| is taken from the norm itself: its output in channel j is g_j z + b_j, z about standard normal.
    """
    if norm is None:
        return None
    reach = np.abs(norm.bias) + 4 * np.abs(norm.weight)
    columns = np.max([np.abs(layer.weight).max(axis=0) for layer in layers], axis=0)
    factors: FloatArray = np.maximum(reach, 1e-5) ** ALPHA / np.maximum(columns, 1e-5) ** (1 - ALPHA)
    factors /= np.exp(np.log(factors).mean())
    return factors
