"""Writes the int8 graph of an encoder: inputs and outputs as `builder` has them, integer linear layers.

Each linear layer of the encoder multiplies uint8 activations with int8 weights. Every token (row) has its own
activation scale and every output column its own weight scale, so, unlike ONNX Runtime's dynamic
quantisation with one scale per tensor, an answer does not depend on batch mates. Attention scores, softmax,
layer norms and the classifier stay float32.

N = B x T rows, all tokens of the batch one after the other; the other letters as in `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from nerve.graph import builder
from nerve.graph.architectures.encoder import Activation, Linear, Norm
from nerve.graph.builder import GraphWriter
from nerve.graph.calibrate import LayerRanges, Range, calibrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Encoder, Layer
    from nerve.graph.builder import AttentionScope
    from nerve.types import FloatArray

# How much of an outlier moves from the activations into the weights (SmoothQuant, arXiv 2211.10438, eq. 4).
ALPHA = 0.65

# gelu(x) >= -0.16998 for both forms, so its quantised range needs little room below zero.
_GELU_FLOOR = 0.171

# Zero points: of what lies on both sides of zero, of a GELU's output, of a ReLU's.
_ZERO, _ZERO_GELU, _ZERO_RELU = 128, 32, 0


def build(encoder: Encoder, calibration: Sequence[Sequence[int]] = ()) -> onnx.ModelProto:
    """Return the int8 graph of `encoder`; calibration: token ids of texts, see `calibrate`."""
    return write(smooth(encoder, calibrate(encoder, calibration)))


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An encoder whose hidden states are, before each quantisation, centred and divided by factors.

    The norm (or projection) that makes a hidden state x gives (x - centre) / factors instead, and the linear
    layers that read it are changed to match: nothing is computed for it at run time. The residual
    sum gets x back as factors * x', with the centre added to the bias that is added there anyway.
    `hidden` and `attended` hold the factors of each layer's two residual inputs, float32 (H,).
    """

    encoder: Encoder
    hidden: tuple[FloatArray, ...]
    attended: tuple[FloatArray, ...]


def smooth(encoder: Encoder, ranges: list[LayerRanges]) -> Smoothed:
    """Fold the centres and factors of all layers into the weights; the function stays the same."""
    layers: list[Layer] = []
    hidden: list[FloatArray] = []
    attended: list[FloatArray] = []
    for layer, found in zip(encoder.layers, ranges, strict=True):
        s_hidden = smoothing_factors(found.hidden, [layer.query, layer.key, layer.value])
        s_attended = smoothing_factors(found.attended, [layer.up])
        s_context = smoothing_factors(found.context, [layer.attention_output])
        value = _fold_after(_fold_before(layer.value, found.hidden, s_hidden), found.context, s_context)
        output = _fold_before(layer.attention_output, found.context, s_context)
        layers.append(
            replace(
                layer,
                query=_fold_before(layer.query, found.hidden, s_hidden),
                key=_fold_before(layer.key, found.hidden, s_hidden),
                value=value,
                attention_output=Linear(output.weight, output.bias + found.hidden.centre),
                attention_norm=_fold_norm(layer.attention_norm, found.attended, s_attended),
                up=_fold_before(layer.up, found.attended, s_attended),
                down=Linear(
                    layer.down.weight,
                    layer.down.bias + found.attended.centre - _rounding(layer.down) @ found.inner,
                ),
            )
        )
        hidden.append(s_hidden)
        attended.append(s_attended)
    for index in range(len(layers) - 1):
        norm = _fold_norm(layers[index].output_norm, ranges[index + 1].hidden, hidden[index + 1])
        layers[index] = replace(layers[index], output_norm=norm)
    start = replace(encoder, layers=tuple(layers))
    if encoder.projection is None:
        start = replace(start, embedding_norm=_fold_norm(encoder.embedding_norm, ranges[0].hidden, hidden[0]))
    else:
        start = replace(start, projection=_fold_after(encoder.projection, ranges[0].hidden, hidden[0]))
    return Smoothed(start, tuple(hidden), tuple(attended))


def smoothing_factors(found: Range, readers: list[Linear]) -> FloatArray:
    """Factors (in,) of an activation: reach^alpha / max|w|^(1-alpha), with a geometric mean of 1."""
    columns = np.max([np.abs(layer.weight).max(axis=0) for layer in readers], axis=0)
    factors: FloatArray = np.maximum(found.reach, 1e-5) ** ALPHA / np.maximum(columns, 1e-5) ** (1 - ALPHA)
    factors /= np.exp(np.log(factors).mean())
    return factors


def _fold_before(layer: Linear, found: Range, factors: FloatArray) -> Linear:
    """W x + b = (W s) x' + (b + W c), with x' = (x - c) / s."""
    return Linear(layer.weight * factors, layer.bias + layer.weight @ found.centre)


def _fold_after(layer: Linear, found: Range, factors: FloatArray) -> Linear:
    """Make a linear layer give (y - c) / s. Attention weights sum to 1, so this passes through them too."""
    return Linear(layer.weight / factors[:, None], (layer.bias - found.centre) / factors)


def _fold_norm(norm: Norm, found: Range, factors: FloatArray) -> Norm:
    """Make a layer norm give (y - c) / s."""
    return Norm(norm.weight / factors, (norm.bias - found.centre) / factors)


def write(smoothed: Smoothed) -> onnx.ModelProto:
    """Write the graph of an encoder that has been smoothed."""
    encoder = smoothed.encoder
    graph = GraphWriter()
    hidden_size = encoder.classifier.weight.shape[1]
    rows = graph.constant("rows_shape", np.array([-1, hidden_size], np.int64))
    shape = graph.node("Shape", ["input_ids"], "batch_shape")
    width = graph.constant("hidden_size", np.array([hidden_size], np.int64))
    grid = graph.node("Concat", [shape, width], "grid_shape", axis=0)  # (B, T, H)
    hidden = graph.node("Reshape", [builder.embed(graph, encoder), rows], "rows")  # (N, H)
    scope = builder.attention_scope(graph, encoder)
    points = _zero_points(graph, hidden, encoder.activation)
    for index in range(len(encoder.layers)):
        hidden = _LayerWriter(graph, smoothed, index, grid, rows, points).write(hidden, scope)
    logits = builder.linear(graph, hidden, encoder.classifier, "classifier")  # (N, L)
    labels = graph.constant("labels", np.array([len(encoder.classifier.bias)], np.int64))
    shape = graph.node("Concat", [shape, labels], "logits_shape", axis=0)
    logits = graph.node("Reshape", [logits, shape], "logits_grid", output="logits")  # (B, T, L)
    return builder.finish(graph, logits, len(encoder.classifier.bias))


def quantize_columns(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8 (in, out) and one scale per output, for a weight (out, in)."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-9) / np.float32(127)  # (out,)
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale.astype(np.float32)


def _zero_points(graph: GraphWriter, rows: str, activation: Activation) -> dict[int, str]:
    """Add the zero point of every row, uint8 (N,), for each that is in use: `QuantizeLinear` wants one a row."""
    shape = graph.node("Shape", [rows], "n_rows", start=0, end=1)  # (1,)
    return {
        zero: graph.node(
            "ConstantOfShape",
            [shape],
            f"zero_{zero}_of_rows",
            value=onnx.helper.make_tensor("v", TensorProto.UINT8, [1], [zero]),
        )
        for zero in (_ZERO, _ZERO_RELU if activation is Activation.RELU else _ZERO_GELU)
    }


def _rounding(layer: Linear) -> FloatArray:
    """Return what rounding adds to the weights, (out, in)."""
    values, scale = quantize_columns(layer.weight)
    error: FloatArray = values.T * scale[:, None] - layer.weight
    return error


class _LayerWriter:
    """Adds one layer to a graph.

    grid, rows: names of the shapes (B, T, H) and (N, H). points: of the zero points of all rows.
    """

    def __init__(
        self,
        graph: GraphWriter,
        smoothed: Smoothed,
        index: int,
        grid: str,
        rows: str,
        points: dict[int, str],
    ) -> None:
        self._graph = graph
        self._encoder = smoothed.encoder
        self._layer = smoothed.encoder.layers[index]
        self._factors = (smoothed.hidden[index], smoothed.attended[index])
        self._name = f"layer.{index}"
        self._grid = grid
        self._rows_shape = rows
        self._points = points

    def write(self, hidden: str, scope: AttentionScope) -> str:
        """Add the layer and return its output, (N, H)."""
        layer, name, epsilon = self._layer, self._name, self._encoder.epsilon
        context = self._attend(hidden, scope)
        attended = self._matmul(
            self._quantize(context, f"{name}.out_in"), layer.attention_output, f"{name}.out"
        )
        skip = self._restore(hidden, self._factors[0], f"{name}.hidden")
        shift, norm = layer.attention_output.bias, layer.attention_norm
        hidden = builder.skip_norm(self._graph, attended, skip, shift, norm, epsilon, f"{name}.attended")
        wide = self._matmul(self._quantize(hidden, f"{name}.up_in"), layer.up, f"{name}.up")
        wide = builder.activate(self._graph, self._encoder.activation, wide, layer.up.bias, name, fused=False)
        down = self._matmul(self._quantize_activation(wide, f"{name}.down_in"), layer.down, f"{name}.down")
        skip = self._restore(hidden, self._factors[1], f"{name}.middle")
        return builder.skip_norm(
            self._graph, down, skip, layer.down.bias, layer.output_norm, epsilon, f"{name}.output"
        )

    def _attend(self, hidden: str, scope: AttentionScope) -> str:
        graph, layer, name = self._graph, self._layer, self._name
        quantised = self._quantize(hidden, f"{name}.qkv_in")
        parts = [
            graph.node("Reshape", [self._matmul(quantised, p, f"{name}.{n}"), self._grid], f"{name}.{n}.grid")
            for n, p in layer.projections.items()
        ]
        context = builder.attend(graph, self._encoder, scope, layer, parts, name)
        return graph.node("Reshape", [context, self._rows_shape], f"{name}.context")

    def _restore(self, value: str, factors: FloatArray, name: str) -> str:
        return self._graph.node(
            "Mul", [value, self._graph.constant(f"{name}.factors", factors)], f"{name}.skip"
        )

    def _quantize(self, value: str, name: str) -> tuple[str, str, str]:
        """Quantise rows symmetrically about 128; return values, scales (N, 1) and zero point."""
        size = self._graph.node("Abs", [value], f"{name}.abs")
        return self._rows(value, size, name, zero=_ZERO, steps=127, floor=1e-9)

    def _quantize_activation(self, value: str, name: str) -> tuple[str, str, str]:
        """Quantise what a GELU or ReLU gives, with nearly all steps above zero."""
        if self._encoder.activation is Activation.RELU:
            return self._rows(value, value, name, zero=_ZERO_RELU, steps=255, floor=1e-9)
        zero = _ZERO_GELU
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
        quantised = graph.node("QuantizeLinear", [value, scale, self._points[zero]], f"{name}.q", axis=0)
        column = graph.node(
            "Unsqueeze",
            [scale, graph.constant("column_axis", np.array([1], np.int64))],
            f"{name}.scale_column",
        )
        return quantised, column, point

    def _matmul(self, quantised: tuple[str, str, str], layer: Linear, name: str) -> str:
        """Multiply, without the bias, which the next operator adds."""
        graph = self._graph
        values, scales = quantize_columns(layer.weight)
        inputs = [
            quantised[0],
            graph.constant(f"{name}.weight", values),
            quantised[1],
            graph.constant(f"{name}.scales", scales),
            quantised[2],
        ]
        return graph.node("MatMulIntegerToFloat", inputs, name, fused=True)
