"""Writes the int8 graph of an encoder: inputs and outputs as `builder` has them, integer linear layers.

Each linear layer of the encoder multiplies uint8 activations with int8 weights. Every token (row) has its own
activation scale and every output column its own weight scale, so, unlike ONNX Runtime's dynamic
quantisation with one scale per tensor, an answer does not depend on batch mates. Attention scores, softmax,
norms, a head and the classifier stay float32.

N = B x T rows, all tokens of the batch one after the other; the other letters as in `builder`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from nerve.graph import builder
from nerve.graph.architectures.encoder import Activation, FeedForward
from nerve.graph.calibrate import calibrate
from nerve.graph.embedding import embed
from nerve.graph.experts import mix, split_rows
from nerve.graph.smoothing import Smoothed, quantize_columns, smooth
from nerve.graph.writing import GraphWriter
from nerve.observability import PROGRESS_LOGGER
from nerve.observability.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nerve.graph.architectures.encoder import Convolution, Encoder, Experts, Linear, Stack
    from nerve.graph.experts import Routes

log = logging.getLogger(PROGRESS_LOGGER)

# The lowest value of what is bounded below, and the zero point that leaves just enough room for it: what an activation
# gives has nearly all steps above zero.
_FLOORS = {
    Activation.GELU: (0.171, 32),  # gelu(x) >= -0.16998, for both forms
    Activation.GELU_TANH: (0.171, 32),
    Activation.SILU: (0.279, 32),  # silu(x) >= -0.27846
    Activation.GELU_10: (0.171, 32),
    Activation.QUICK_GELU: (0.171, 32),  # -0.1636
    Activation.MISH: (0.309, 32),  # -0.30884
    Activation.HARD_SWISH: (0.376, 32),  # -0.375
    **dict.fromkeys(
        [
            *(Activation.RELU, Activation.RELU_2, Activation.RELU_6, Activation.LAPLACE),
            *(Activation.SIGMOID, Activation.SQRT_SOFTPLUS),
        ],
        (0.0, 0),
    ),
}
# Zero point of what lies on both sides of zero.
_ZERO = 128


def build(
    encoder: Encoder, calibration: Sequence[Sequence[int]] = (), *, show_progress: bool = False
) -> onnx.ModelProto:
    """Return the int8 graph of `encoder`; calibration: token ids of texts, see `calibrate`."""
    n_layers = len(encoder.layers)
    log.info("building the int8 graph: %d layers; it is kept in the cache", n_layers)
    with progress("int8 graph, layers", n_layers, show=show_progress) as task:
        return write(smooth(encoder, calibrate(encoder, calibration, task.advance)))


def write(smoothed: Smoothed) -> onnx.ModelProto:
    """Write the graph of an encoder that has been smoothed."""
    encoder = smoothed.encoder
    graph = GraphWriter()
    layers = _Int8Layers(graph, smoothed)
    hidden = layers.rows(embed(graph, encoder), "embeddings.rows")  # (N, H)
    builder.classify(graph, encoder, layers.grid(layers.write_all(hidden), "final.grid"))
    return builder.finish(graph, "logits", len(encoder.classifier.weight))


class _Int8Layers(builder.PaddedLayers):
    """Adds layers whose values between layers are rows, (N, H), and whose linear layers are integer."""

    def __init__(self, graph: GraphWriter, smoothed: Smoothed) -> None:
        super().__init__(graph, smoothed.encoder)
        self._factors = {"hidden": smoothed.hidden, "attended": smoothed.attended}
        self._batch = graph.node("Shape", ["input_ids"], "batch_shape")  # (2,)
        self._wide = smoothed.wide
        self._points: dict[tuple[int, str], str] = {}

    def rows(self, value: str, name: str) -> str:
        """Turn (B, T, H) into (N, H)."""
        return self.graph.node("Reshape", [value, self._shape_of_rows()], name)

    def _shape_of_rows(self) -> str:
        return self.graph.integers(-1, self.encoder.hidden_size)

    def grid(self, value: str, name: str, width: int | None = None) -> str:
        """Turn (N, width) into (B, T, width); the width is H where none is given."""
        width = width or self.encoder.hidden_size
        shape = self.graph.node("Concat", [self._batch, self.graph.integers(width)], f"{name}.shape", axis=0)
        return self.graph.node("Reshape", [value, shape], name)

    def attend(self, index: int, parts: list[str]) -> str:
        """Add attention, whose operators want (B, T, K)."""
        projections = self.encoder.layers[index].projections
        grids = [
            self.grid(part, f"layer.{index}.{name}.grid", len(projection.weight))
            for part, (name, projection) in zip(parts, projections.items(), strict=True)
        ]
        width = self.encoder.heads * self.encoder.head_size
        context = super().attend(index, grids)
        return self.graph.node(
            "Reshape", [context, self.graph.integers(-1, width)], f"layer.{index}.context.rows"
        )

    def convolve(self, convolution: Convolution, embeddings: str, hidden: str) -> str:
        """Add the convolution in float32, over (B, T, H)."""
        grids = [self.grid(embeddings, "conv.embeddings"), self.grid(hidden, "conv.hidden")]
        return self.rows(super().convolve(convolution, *grids), "conv.rows")

    def mix(self, index: int, experts: Experts, value: str) -> str:
        """Add a mixture of experts over rows, (N, H), whose products are integer; its router is not."""
        name = f"layer.{index}.experts"
        return mix(self.graph, experts, value, name, partial(self._expert_products, index))

    def _expert_products(
        self, index: int, value: str, tokens: str | None, routes: Routes, stack: Stack, name: str
    ) -> str:
        """Quantise rows, each once, and multiply those of each expert with its weights.

        Products are scaled all at once, which is quicker than in each of so many operators.
        """
        graph = self.graph
        values, scales, point = self._quantize(value, name, "" if tokens is not None else routes.tokens)
        if tokens is not None:
            values = graph.node("Gather", [values, tokens], f"{name}.taken")
            scales = graph.node("Gather", [scales, tokens], f"{name}.taken_scales")
        factors = self._wide[index] if tokens is not None else None
        done, columns = [], []
        rows_of_all = split_rows(graph, values, routes, stack.shape[0], name)
        for expert, (rows, weight) in enumerate(zip(rows_of_all, stack.read(), strict=True)):
            whole, scale = quantize_columns(weight if factors is None else weight * factors)
            columns.append(scale)
            inputs = [rows, graph.constant(f"{name}.{expert}.weight", whole), point]
            done.append(graph.node("MatMulInteger", inputs, f"{name}.{expert}"))
        whole_sums = graph.node("Concat", done, f"{name}.whole", axis=0)
        sums = graph.node("Cast", [whole_sums], f"{name}.sums", to=TensorProto.FLOAT)
        sums = graph.node("Mul", [sums, scales], f"{name}.by_row")
        table = graph.constant(f"{name}.scales", np.stack(columns))  # (E, out)
        by_expert = graph.node("Gather", [table, routes.experts], f"{name}.scales_of_rows")
        return graph.node("Mul", [sums, by_expert], f"{name}.all")

    def skip(self, index: int, site: str, value: str) -> str:
        """Give back what smoothing has divided."""
        factors = self._factors[site][index]
        if factors is None:
            return value
        name = f"layer.{index}.{site}"
        return self.graph.node(
            "Mul", [value, self.graph.constant(f"{name}.factors", factors)], f"{name}.skip"
        )

    def products(self, index: int, site: str, value: str, layers: dict[str, Linear]) -> list[str]:
        """Quantise what is at a site once and multiply it with each layer, without the biases."""
        name = f"layer.{index}.{site}"
        block = self.encoder.layers[index].block
        one_sided = site == "inner" and isinstance(block, FeedForward) and block.gate is None
        floor = _FLOORS.get(self.encoder.activation) if one_sided else None
        quantised = (
            self._quantize(value, name) if floor is None else self._quantize_above(value, name, *floor)
        )
        return [self._matmul(quantised, layer, f"layer.{index}.{part}") for part, layer in layers.items()]

    def _quantize(self, value: str, name: str, of: str = "") -> tuple[str, str, str]:
        """Quantise rows symmetrically about 128; return values, scales (N, 1) and zero point.

        of: which rows, where they are not the tokens of the batch; with one name there are as many.
        """
        size = self.graph.node("Abs", [value], f"{name}.abs")
        return self._rows(value, size, name, zero=_ZERO, steps=127, floor=1e-9, of=of)

    def _quantize_above(self, value: str, name: str, lowest: float, zero: int) -> tuple[str, str, str]:
        """Quantise what is never below `-lowest`, with nearly all steps above zero."""
        floor = lowest / zero if zero else 1e-9
        return self._rows(value, value, name, zero=zero, steps=255 - zero, floor=floor)

    def _rows(
        self, value: str, size: str, name: str, zero: int, steps: int, floor: float, of: str = ""
    ) -> tuple[str, str, str]:
        graph = self.graph
        top = graph.node("ReduceMax", [size], f"{name}.top", axes=[1], keepdims=0)  # (N,)
        step = graph.node(
            "Mul", [top, graph.constant(f"one_in_{steps}", np.array(1 / steps, np.float32))], f"{name}.step"
        )
        scale = graph.node(
            "Max", [step, graph.constant(f"floor_{zero}", np.array(floor, np.float32))], f"{name}.scale"
        )
        point = graph.constant(f"zero_{zero}", np.array(zero, np.uint8))
        points = self._zero_points(zero, scale, of)
        quantised = graph.node("QuantizeLinear", [value, scale, points], f"{name}.q", axis=0)
        column = graph.node("Unsqueeze", [scale, graph.integers(1)], f"{name}.scale_column")
        return quantised, column, point

    def _zero_points(self, zero: int, rows: str, of: str) -> str:
        """Add the zero point of every row, uint8 (N,), once: `QuantizeLinear` wants one for each scale."""
        key = (zero, of)
        if key not in self._points:
            name = f"{of}zero_{zero}"
            shape = self.graph.node("Shape", [rows], f"{name}.n_rows")  # (1,)
            value = onnx.helper.make_tensor("v", TensorProto.UINT8, [1], [zero])
            self._points[key] = self.graph.node("ConstantOfShape", [shape], f"{name}_of_rows", value=value)
        return self._points[key]

    def _matmul(self, quantised: tuple[str, str, str], layer: Linear, name: str) -> str:
        """Multiply, without the bias, which the next operator adds."""
        graph = self.graph
        values, scales = quantize_columns(layer.weight)
        inputs = [
            quantised[0],
            graph.constant(f"{name}.weight", values),
            quantised[1],
            graph.constant(f"{name}.scales", scales),
            quantised[2],
        ]
        return graph.node("MatMulIntegerToFloat", inputs, name, fused=True)
