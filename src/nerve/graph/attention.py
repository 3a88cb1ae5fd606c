"""Adds attention to graphs of padded batches, as `builder` and `int8` have them.

B = sequences, T = longest of them, D = numbers of a head, K = numbers of all heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from nerve.graph.local import Windows
from nerve.graph.relative import Disentangled, learned_bias
from nerve.graph.writing import add_bias

if TYPE_CHECKING:
    from typing import Any

    from nerve.graph.architectures.encoder import Encoder, Layer
    from nerve.graph.writing import GraphWriter


class PaddedAttention:
    """Attention of all layers of a graph; what they share is added once."""

    def __init__(self, graph: GraphWriter, encoder: Encoder) -> None:
        self._graph = graph
        self._encoder = encoder
        shortest = graph.node("ReduceMin", ["lengths"], "shortest", keepdims=0)
        time = graph.node("Shape", ["input_ids"], "longest_shape", start=1, end=2)  # (1,)
        longest = graph.node(
            "Cast", [graph.node("Squeeze", [time], "longest")], "longest_int", to=TensorProto.INT32
        )
        self._is_full = graph.node("Equal", [shortest, longest], "is_full")  # no row has padding
        self._bias = ""
        if encoder.relative_bias is not None:
            self._bias = learned_bias(graph, encoder.relative_bias, encoder.n_positions or 0)
        self._disentangled = None
        if encoder.distance_rows is not None:
            self._disentangled = Disentangled(graph, encoder.distance_rows, encoder.heads, encoder.head_size)
        windows = sorted({layer.window for layer in encoder.layers if layer.window is not None})
        width = encoder.heads * encoder.head_size
        self._windows = {window: Windows(graph, window, width) for window in windows}

    def attend(self, layer: Layer, parts: list[str], name: str) -> str:
        """Add attention over query, key and value without their biases, each (B, T, K); returns (B, T, K).

        Keys and values of fewer heads are narrower.
        """
        graph, bias = self._graph, self._bias
        is_plain = layer.rotary is None and self._disentangled is None and self._encoder.key_heads is None
        if is_plain and layer.window is None:
            inputs = [*parts, self._joined_biases(layer, name)]
        else:
            parts = [
                add_bias(graph, part, projection.bias, f"{name}.{kind}")
                for part, (kind, projection) in zip(parts, layer.projections.items(), strict=True)
            ]
            parts = repeat_heads(graph, self._encoder, rotate(graph, self._encoder, layer, parts, name), name)
            inputs = [*parts, ""]
        if self._disentangled is not None:
            bias = self._disentangled.bias(layer, parts[0], parts[1], name)
        if layer.window is None:
            return self._whole(inputs, bias, name)
        windows = self._windows[layer.window]
        return graph.choose(
            windows.is_short,
            f"{name}.local",
            lambda: self._whole(inputs, bias, name),
            lambda: windows.attend(
                parts,
                name,
                lambda chunks, mask: self._operator([*chunks, "", "", mask], f"{name}.attention.chunks"),
            ),
        )

    def _joined_biases(self, layer: Layer, name: str) -> str:
        if all(projection.bias is None for projection in layer.projections.values()):
            return ""
        biases = [
            np.zeros(len(projection.weight), np.float32) if projection.bias is None else projection.bias
            for projection in layer.projections.values()
        ]
        return self._graph.constant(f"{name}.qkv.bias", np.concatenate(biases))

    def _whole(self, inputs: list[str], bias: str, name: str) -> str:
        """Every token attends to every token of its row.

        Where no row has padding, the operator is called without lengths: what it does for them takes a fifth of its
        time. Zeros that are not added change no bit of the scores.
        """
        return self._graph.choose(
            self._is_full,
            f"{name}.attention",
            lambda: self._operator([*inputs, "", bias], f"{name}.attention.full"),
            lambda: self._operator([*inputs, "lengths", bias], f"{name}.attention.padded"),
        )

    def _operator(self, inputs: list[str], name: str) -> str:
        while not inputs[-1]:
            inputs.pop()
        options: dict[str, Any] = {} if self._encoder.scale is None else {"scale": self._encoder.scale}
        heads = self._encoder.heads
        return self._graph.node("MultiHeadAttention", inputs, name, fused=True, num_heads=heads, **options)


def rotate(
    graph: GraphWriter, encoder: Encoder, layer: Layer, parts: list[str], name: str, positions: str = ""
) -> list[str]:
    """Turn queries and keys, each (B, T, K), by the angles of their positions.

    positions: name of the position ids, int64 (B, T); "" where token t has position t.
    """
    if layer.rotary is None:
        return parts
    rotary = layer.rotary
    tables = [
        graph.constant(f"rotary.{rotary.name}.{kind}", table)
        for kind, table in (("cosines", rotary.cosines), ("sines", rotary.sines))
    ]
    places = positions or graph.integers(0)
    heads = {"query": encoder.heads, "key": encoder.key_heads or encoder.heads}
    turned = [
        graph.node(
            "RotaryEmbedding",
            [part, places, *tables],
            f"{name}.{kind}.turned",
            fused=True,
            num_heads=heads[kind],
        )
        for part, kind in zip(parts[:2], heads, strict=True)
    ]
    return [*turned, parts[2]]


def repeat_heads(graph: GraphWriter, encoder: Encoder, parts: list[str], name: str) -> list[str]:
    """Repeat each head of keys and values for the queries' heads that it serves (arXiv 2305.13245)."""
    if encoder.key_heads is None:
        return parts
    size, times = encoder.head_size, encoder.heads // encoder.key_heads
    apart = graph.integers(0, 0, encoder.key_heads, 1, size)
    often = graph.integers(1, 1, 1, times, 1)
    joined = graph.integers(0, 0, encoder.heads * size)
    repeated = []
    for part, kind in zip(parts[1:], ("key", "value"), strict=True):
        heads = graph.node("Reshape", [part, apart], f"{name}.{kind}.heads")
        copies = graph.node("Expand", [heads, often], f"{name}.{kind}.copies")
        repeated.append(graph.node("Reshape", [copies, joined], f"{name}.{kind}.repeated"))
    return [parts[0], *repeated]
