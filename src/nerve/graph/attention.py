"""Adds attention to graphs of padded batches, as `builder` and `int8` have them.

B = sequences, T = longest of them, D = numbers of a head, K = numbers of all heads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from nerve.graph.blocks import WHOLE_TOKENS, Blocks
from nerve.graph.disentangled import DisentangledAttention
from nerve.graph.local import Windows
from nerve.graph.relative import learned_bias
from nerve.graph.writing import add_bias

if TYPE_CHECKING:
    from typing import Any

    from nerve.graph.architectures.encoder import Encoder, Layer
    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray


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
            self._disentangled = DisentangledAttention(graph, encoder, self._is_full)
        self._blocks = None
        if encoder.n_positions is None or encoder.n_positions > WHOLE_TOKENS:
            self._blocks = Blocks(graph, encoder.heads * encoder.head_size)
        self._has_sinks = any(layer.sinks is not None for layer in encoder.layers)
        self._windows: dict[tuple[int, bool], Windows] = {}
        for layer in encoder.layers:
            key = (layer.window or 0, layer.sinks is not None)
            if layer.window is not None and key not in self._windows:
                self._windows[key] = Windows(graph, layer.window, encoder.head_size, layer.sinks is not None)

    def attend(self, layer: Layer, parts: list[str], name: str) -> str:
        """Add attention over query, key and value without their biases, each (B, T, K); returns (B, T, K).

        Keys and values of fewer heads are narrower.
        """
        graph, bias = self._graph, self._bias
        is_plain = layer.rotary is None and self._disentangled is None and self._encoder.key_heads is None
        is_plain = is_plain and layer.sinks is None
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
            return self._disentangled.attend(layer, parts, name, self._attend_by_score)
        sink = None
        if layer.sinks is not None:
            sink = Sink(graph, self._encoder, layer.sinks, name)
            parts = sink.widen(parts)

        def attend_whole(mask: str, name: str) -> str:
            if sink is None:
                return self._whole(inputs, mask or bias, name)
            return self._whole_with(sink, parts, mask, name)

        if layer.window is None:
            return attend_whole("", name)
        windows = self._windows[layer.window, sink is not None]
        size = self._encoder.head_size
        widths = (self._encoder.heads * (size + (sink is not None)), self._encoder.heads * size)

        def attend_chunks(chunks: list[str], mask: str) -> str:
            if sink is not None:
                chunks = sink.prepend(chunks, f"{name}.chunks")
            return self._operator([*chunks, "", "", mask], f"{name}.attention.chunks")

        return graph.choose(
            windows.is_short,
            f"{name}.local",
            lambda: attend_whole("", name),
            lambda: graph.choose(
                windows.is_masked,
                f"{name}.local_by_length",
                lambda: attend_whole(windows.band, f"{name}.masked"),
                lambda: windows.attend(parts, widths, name, attend_chunks),
            ),
        )

    def _whole_with(self, sink: Sink, parts: list[str], mask: str, name: str) -> str:
        """Every token attends to every token of its row and to the sink, which stands before them."""
        parts = sink.prepend(parts, name)
        one = self._graph.constant("int_one", np.array(1, np.int32))
        lengths = self._graph.node("Add", ["lengths", one], f"{name}.lengths_with_sink")
        return self._whole([*parts, ""], mask, name, lengths)

    def _joined_biases(self, layer: Layer, name: str) -> str:
        if all(projection.bias is None for projection in layer.projections.values()):
            return ""
        biases = [
            np.zeros(len(projection.weight), np.float32) if projection.bias is None else projection.bias
            for projection in layer.projections.values()
        ]
        return self._graph.constant(f"{name}.qkv.bias", np.concatenate(biases))

    def _whole(self, inputs: list[str], bias: str, name: str, lengths: str = "lengths") -> str:
        """Every token attends to every token of its row.

        The operator holds all scores at once, so that long texts are computed in blocks of queries.
        """
        if self._blocks is None or bias:
            return self._padded_or_not(inputs, bias, f"{name}.attention", lengths)
        blocks = self._blocks
        return self._graph.choose(
            blocks.are_needed,
            f"{name}.attention_by_length",
            lambda: blocks.attend(
                inputs[0],
                f"{name}.blocks",
                lambda block: self._padded_or_not([block, *inputs[1:]], "", f"{name}.block", lengths),
            ),
            lambda: self._padded_or_not(inputs, "", f"{name}.attention", lengths),
        )

    def _padded_or_not(
        self,
        inputs: list[str],
        bias: str,
        name: str,
        lengths: str,
        *,
        is_full: str = "",
        heads: int | None = None,
    ) -> str:
        """Add the operator over all heads, or so many.

        Where no row has padding, it is called without lengths: what it does for them takes a fifth of its time. Zeros
        that are not added change no bit of the scores.
        """
        return self._graph.choose(
            is_full or self._is_full,
            name,
            lambda: self._operator([*inputs, "", bias], f"{name}.full", heads),
            lambda: self._operator([*inputs, lengths, bias], f"{name}.padded", heads),
        )

    def _attend_by_score(self, parts: list[str], bias: str, is_full: str, name: str, heads: int) -> str:
        """Add the operator with a number for each score, over some of the heads."""
        return self._padded_or_not([*parts, ""], bias, name, "lengths", is_full=is_full, heads=heads)

    def _operator(self, inputs: list[str], name: str, heads: int | None = None) -> str:
        while not inputs[-1]:
            inputs.pop()
        options: dict[str, Any] = {"num_heads": heads or self._encoder.heads}
        if self._encoder.scale is not None or self._has_sinks:
            options["scale"] = attention_scale(self._encoder)
        return self._graph.node("MultiHeadAttention", inputs, name, fused=True, **options)


def attention_scale(encoder: Encoder) -> float:
    """Return the factor of attention scores."""
    return 1 / math.sqrt(encoder.head_size) if encoder.scale is None else encoder.scale


class Sink:
    """The sinks of a layer, as a key before those of a text.

    Queries and keys get one number more: 1 in each query, 0 in the keys of tokens, and in the sink's key, which has
    nothing else, its score. Its value is 0. So the attention operator need not know of it.
    """

    def __init__(self, graph: GraphWriter, encoder: Encoder, scores: FloatArray, name: str) -> None:
        self._graph, self._name = graph, name
        heads, size = encoder.heads, encoder.head_size
        self._apart = graph.integers(0, 0, heads, size)
        self._joined = graph.integers(0, 0, heads * (size + 1))
        key = np.zeros((1, 1, heads, size + 1), np.float32)
        key[..., -1] = scores / attention_scale(encoder)
        self._key = graph.constant(f"{name}.sink", key.reshape(1, 1, -1))

    def widen(self, parts: list[str]) -> list[str]:
        """Give queries and keys, each (B, T, heads * D), the number more."""
        graph, widened = self._graph, []
        for part, kind, number in zip(parts[:2], ("query", "key"), (1, 0), strict=True):
            name = f"{self._name}.{kind}"
            heads = graph.node("Reshape", [part, self._apart], f"{name}.apart")
            last = graph.constant(f"sink_{kind}", np.array(number, np.float32))
            wide = graph.node("Pad", [heads, graph.integers(0, 0, 0, 0, 0, 0, 0, 1), last], f"{name}.wide")
            widened.append(graph.node("Reshape", [wide, self._joined], f"{name}.widened"))
        return [*widened, parts[2]]

    def prepend(self, parts: list[str], name: str) -> list[str]:
        """Put the sink before keys and values, each (B, T, K)."""
        graph = self._graph
        query, key, value = parts
        rows = graph.node("Shape", [key], f"{name}.sink_rows", start=0, end=1)
        shape = graph.node("Concat", [rows, graph.integers(1, 1)], f"{name}.sink_shape", axis=0)
        sinks = graph.node("Expand", [self._key, shape], f"{name}.sinks")
        keys = graph.node("Concat", [sinks, key], f"{name}.key_with_sink", axis=1)
        values = graph.node("Pad", [value, graph.integers(0, 1, 0, 0, 0, 0)], f"{name}.value_with_sink")
        return [query, keys, values]


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
