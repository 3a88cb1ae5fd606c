"""Adds attention to the tokens nearby only, in time and memory that grow with the text and not with its square.

A text is cut into chunks of C tokens, C no less than the window. The tokens of a chunk attend to their own chunk and
to its two neighbours, each (C, 3C) scores, of which those beyond the window or the text are masked. Those of the first
chunk, which has none before it, get the keys of the second and the third, and the third's are masked. Chunks are rows
of a batch to the attention operator (docs/decisions/0051).

B = sequences, T = longest of them, n = chunks of each, K = numbers of all heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.graph.writing import GraphWriter

# Chunks are multiples of so many tokens: then keys stand, in a row of scores, as far from a multiple of what vector
# instructions take at once as they do without chunks, and sums have the same bits.
_STEP = 16
# Added to scores that are masked. A sum with it has no weight in any softmax; two of them are still a number.
_MASKED = -1e30


class Windows:
    """Attention within one window, of all layers that have it.

    has_sinks: there is a key before those of tokens, which every token attends to. chunk: the least C.
    is_short: bool, by name: no two tokens of the batch are farther from each other than the window.
    is_masked: bool, by name: all scores, with a mask, are no more than those of chunks. band: that mask, (1, 1, T, T),
    with a column before it for a sink.

    The keys of the first two chunks stand in their rows where they do without chunks: a text of two chunks has the same
    bits either way. In the third they stand elsewhere, which makes no difference where no sum is cut (`_uncut`).
    """

    def __init__(
        self,
        graph: GraphWriter,
        window: int,
        head_size: int,
        has_sinks: bool = False,
        chunk: int = 0,
    ) -> None:
        self._graph = graph
        self._name = f"window_{window}" + ("_with_sinks" if has_sinks else "")
        self._has_sinks = has_sinks
        self._chunk = chunk = max(chunk, _STEP, -(-window // _STEP) * _STEP)
        integers, name = graph.integers, self._name
        self._batch = graph.node("Shape", ["input_ids"], f"{name}.batch", start=0, end=1)  # (1,)
        self._time = graph.node("Shape", ["input_ids"], f"{name}.time", start=1, end=2)
        self.is_short = graph.node(
            "Squeeze",
            [graph.node("LessOrEqual", [self._time, integers(window + 1)], f"{name}.few")],
            f"{name}.is_short",
        )
        rounded = graph.node("Add", [self._time, integers(chunk - 1)], f"{name}.rounded")
        self._chunks = graph.node("Div", [rounded, integers(chunk)], f"{name}.chunks")  # (1,), n
        whole = graph.node("Mul", [self._chunks, integers(chunk)], f"{name}.whole")
        tail = graph.node("Sub", [whole, self._time], f"{name}.tail")
        after = graph.node("Add", [tail, integers(2 * chunk)], f"{name}.after")
        self._query_pads = graph.node(
            "Concat", [integers(0, 0, 0, 0), tail, integers(0)], f"{name}.query_pads", axis=0
        )
        self._key_pads = graph.node(
            "Concat", [integers(0, 0, 0, 0), after, integers(0)], f"{name}.key_pads", axis=0
        )
        self._whole = whole
        self._zero, self._one = (graph.constant(f"long_{v}", np.array(v, np.int64)) for v in (0, 1))
        end = graph.node("Squeeze", [self._chunks], f"{name}.n")
        number = graph.node("Range", [self._zero, end, self._one], f"{name}.number")
        # The first of the three chunks that have a chunk's keys.
        before = graph.node("Sub", [number, self._one], f"{name}.before")
        first = graph.node("Max", [before, self._zero], f"{name}.first")
        self._number, self._first = (
            graph.node("Unsqueeze", [value, integers(1)], f"{value}_column") for value in (number, first)
        )  # (n, 1)
        most = (3 if 3 * chunk + has_sinks <= _uncut(head_size) else 2) * chunk
        few = graph.node("LessOrEqual", [self._time, integers(most)], f"{name}.some")
        self.is_masked = graph.node("Squeeze", [few], f"{name}.is_masked")
        nothing = graph.constant("no_mask", np.zeros((1, 1, 1, 1), np.float32))
        self.band = graph.choose(
            self.is_masked,
            f"{name}.band",
            lambda: self._make_band(window),
            lambda: graph.node("Identity", [nothing], f"{name}.no_band"),
        )
        self._mask = graph.choose(
            self.is_masked,
            f"{name}.mask",
            lambda: graph.node("Identity", [nothing], f"{name}.no_mask"),
            lambda: self._make_mask(window),
        )

    def _make_band(self, window: int) -> str:
        """Return what is added to all scores of a text, (1, 1, T, T)."""
        graph, name = self._graph, f"{self._name}.text"
        end = graph.node("Squeeze", [self._time], f"{name}.end")
        places = graph.node("Range", [self._zero, end, self._one], f"{name}.places")
        is_near = self._is_near(places, places, window, name)
        band = self._penalty(is_near, name)
        band = graph.node("Unsqueeze", [band, graph.integers(0, 1)], f"{name}.band")
        return self._with_sink(band, f"{name}.band")

    def _make_mask(self, window: int) -> str:
        """Return what is added to the scores of chunks, (Bn, 1, C, 3C)."""
        graph, chunk, name = self._graph, self._chunk, f"{self._name}.chunks_of_text"

        def places(first: str, count: int, kind: str) -> str:
            start = graph.node("Mul", [first, graph.integers(chunk)], f"{name}.{kind}_start")
            offsets = graph.constant(f"places_{count}", np.arange(count))
            return graph.node("Add", [start, offsets], f"{name}.{kind}_places")  # (n, count)

        keys = places(self._first, 3 * chunk, "key")
        is_near = self._is_near(places(self._number, chunk, "query"), keys, window, name)  # (n, C, 3C)
        lengths = graph.node("Cast", ["lengths"], f"{name}.lengths", to=TensorProto.INT64)
        lengths = graph.node("Reshape", [lengths, graph.integers(-1, 1, 1)], f"{name}.lengths_column")
        inside = graph.node("Less", [keys, lengths], f"{name}.inside")  # (B, n, 3C)
        inside = graph.node("Unsqueeze", [inside, graph.integers(2)], f"{name}.inside_row")
        both = graph.node("And", [inside, is_near], f"{name}.both")  # (B, n, C, 3C)
        masks = self._penalty(both, name)
        masks = graph.node("Reshape", [masks, graph.integers(-1, 1, chunk, 3 * chunk)], f"{name}.masks")
        return self._with_sink(masks, f"{name}.masks")

    def _is_near(self, queries: str, keys: str, window: int, name: str) -> str:
        """Tell of each query and key, by their places (..., Q) and (..., K), whether they are near: (..., Q, K).

        Made in the call, since a table of it grows with the square of the window.
        """
        graph = self._graph
        column = graph.node("Unsqueeze", [queries, graph.integers(-1)], f"{name}.column")
        row = graph.node("Unsqueeze", [keys, graph.integers(-2)], f"{name}.row")
        distance = graph.node("Abs", [graph.node("Sub", [column, row], f"{name}.apart")], f"{name}.distance")
        return graph.node("LessOrEqual", [distance, graph.integers(window)], f"{name}.is_near")

    def _penalty(self, is_kept: str, name: str) -> str:
        bounds = [
            self._graph.constant(f"mask_{number}", np.array(v, np.float32))
            for number, v in enumerate((0, _MASKED))
        ]
        return self._graph.node("Where", [is_kept, *bounds], f"{name}.penalty")

    def _with_sink(self, mask: str, name: str) -> str:
        """Put the sink's column before a mask."""
        if not self._has_sinks:
            return mask
        columns = self._graph.integers(0, 0, 0, 1, 0, 0, 0, 0)
        return self._graph.node("Pad", [mask, columns], f"{name}_with_sink")

    def attend(
        self,
        parts: list[str],
        widths: tuple[int, int],
        name: str,
        attention: Callable[[list[str], str], str],
    ) -> str:
        """Add attention over query, key and value, each (B, T, K), for texts that are not short; returns (B, T, K).

        widths: K of queries and keys, and of values.
        attention: adds the operator over (Bn, C, K) and twice (Bn, 3C, K), with a mask.
        """
        graph = self._graph
        query, key, value = parts
        query = graph.node("Pad", [query, self._query_pads], f"{name}.query.padded")
        query = graph.node(
            "Reshape", [query, graph.integers(-1, self._chunk, widths[0])], f"{name}.query.chunks"
        )
        chunks = [
            query,
            self._neighbours(key, widths[0], f"{name}.key"),
            self._neighbours(value, widths[1], f"{name}.value"),
        ]
        context = attention(chunks, self._mask)
        shape = graph.node(
            "Concat", [self._batch, self._whole, graph.integers(widths[1])], f"{name}.grid", axis=0
        )  # (B, nC, K)
        context = graph.node("Reshape", [context, shape], f"{name}.context.grid")
        return graph.node(
            "Slice", [context, graph.integers(0), self._time, graph.integers(1)], f"{name}.context.cut"
        )

    def _neighbours(self, value: str, width: int, name: str) -> str:
        """Put the three chunks of each chunk's keys side by side: (Bn, 3C, K)."""
        graph, chunk = self._graph, self._chunk
        padded = graph.node("Pad", [value, self._key_pads], f"{name}.padded")  # (B, (n + 2)C, K)
        chunks = graph.node("Reshape", [padded, graph.integers(0, -1, chunk, width)], f"{name}.chunks")
        three = graph.node("Add", [self._first, graph.integers(0, 1, 2)], f"{name}.three")  # (n, 3)
        beside = graph.node("Gather", [chunks, three], f"{name}.beside", axis=1)  # (B, n, 3, C, K)
        return graph.node("Reshape", [beside, graph.integers(-1, 3 * chunk, width)], f"{name}.neighbours")


def _uncut(head_size: int) -> int:
    """Return how many products of weights and values ONNX Runtime adds up before it begins another sum.

    By the strides of its product of matrices, for heads of so many numbers (MLAS, `sgemm.cpp`).
    """
    columns, products = 128, 128
    while columns > 16 and columns // 2 >= head_size:
        columns, products = columns // 2, products * 2
    return products
