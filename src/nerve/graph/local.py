"""Adds attention to the tokens nearby only, in time and memory that grow with the text and not with its square.

A text is cut into chunks of C tokens, C no less than the window. The tokens of a chunk attend to their own chunk and
to its two neighbours, each (C, 3C) scores, of which those beyond the window or the text are masked. Those of the first
chunk, which has none before it, attend to the keys of the second. Chunks are rows of a batch to the attention operator
(docs/decisions/0051).

B = sequences, T = longest of them, n = chunks of each, K = numbers of all heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray

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
            [graph.node("LessOrEqual", [self._time, integers(min(window + 1, chunk))], f"{name}.few")],
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
        zero, one = (graph.constant(f"long_{v}", np.array(v, np.int64)) for v in (0, 1))
        end = graph.node("Squeeze", [self._chunks], f"{name}.n")
        number = graph.node("Range", [zero, end, one], f"{name}.number")  # (n,)
        # The first of the three chunks that have a chunk's keys, and how many of them are before its own.
        first = graph.node("Max", [graph.node("Sub", [number, one], f"{name}.before"), zero], f"{name}.first")
        self._first = graph.node("Unsqueeze", [first, integers(1)], f"{name}.first_column")  # (n, 1)
        self._n_before = graph.node("Sub", [number, first], f"{name}.n_before")
        most = (3 if 3 * chunk + has_sinks <= _uncut(head_size) else 2) * chunk
        few = graph.node("LessOrEqual", [self._time, integers(most)], f"{name}.some")
        self.is_masked = graph.node("Squeeze", [few], f"{name}.is_masked")
        nothing = graph.constant("no_mask", np.zeros((1, 1, 1, 1), np.float32))
        self.band = graph.choose(
            self.is_masked,
            f"{name}.band",
            lambda: self._make_band(window, most),
            lambda: graph.node("Identity", [nothing], f"{name}.no_band"),
        )
        self._mask = graph.choose(
            self.is_masked,
            f"{name}.mask",
            lambda: graph.node("Identity", [nothing], f"{name}.no_mask"),
            lambda: self._make_mask(window),
        )

    def _make_band(self, window: int, most: int) -> str:
        """Return what is added to all scores of texts of up to so many tokens, (1, 1, T, T)."""
        graph, name = self._graph, self._name
        table = graph.constant(f"{name}.band_of_most", _band(np.arange(most), most, window)[None, None])
        ends = graph.node("Concat", [self._time, self._time], f"{name}.band_ends", axis=0)
        inputs = [table, graph.integers(0, 0), ends, graph.integers(2, 3)]
        return self._with_sink(graph.node("Slice", inputs, f"{name}.band_of_text"), f"{name}.band")

    def _make_mask(self, window: int) -> str:
        """Return what is added to the scores of chunks, (Bn, 1, C, 3C)."""
        graph, name, chunk = self._graph, self._name, self._chunk
        start = graph.node("Mul", [self._first, graph.integers(chunk)], f"{name}.start")
        offsets = graph.constant(f"{name}.offsets", np.arange(3 * chunk))
        place = graph.node("Add", [start, offsets], f"{name}.place")  # (n, 3C)
        lengths = graph.node("Cast", ["lengths"], f"{name}.lengths", to=TensorProto.INT64)
        lengths = graph.node("Reshape", [lengths, graph.integers(-1, 1, 1)], f"{name}.lengths_column")
        inside = graph.node("Less", [place, lengths], f"{name}.inside")  # (B, n, 3C)
        bounds = [
            graph.constant(f"mask_{number}", np.array(v, np.float32)) for number, v in enumerate((0, _MASKED))
        ]
        beyond = graph.node("Where", [inside, *bounds], f"{name}.beyond")
        rows = graph.node("Unsqueeze", [beyond, graph.integers(2)], f"{name}.rows")  # (B, n, 1, 3C)
        queries = (np.arange(chunk) + before * chunk for before in (0, 1))
        bands = np.stack([_band(query, 3 * chunk, window) for query in queries])
        bands_of_all = graph.constant(f"{name}.bands", bands)
        bands_of_chunks = graph.node("Gather", [bands_of_all, self._n_before], f"{name}.bands_of_chunks")
        masks = graph.node("Add", [rows, bands_of_chunks], f"{name}.masks_of_chunks")  # (B, n, C, 3C)
        masks = graph.node("Reshape", [masks, graph.integers(-1, 1, chunk, 3 * chunk)], f"{name}.masks")
        return self._with_sink(masks, f"{name}.masks")

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


def _band(queries: npt.NDArray[np.int64], n_keys: int, window: int) -> FloatArray:
    """Return what is added to the scores of queries, by their places, with the keys from 0 on."""
    far = np.abs(queries[:, None] - np.arange(n_keys)) > window
    return np.where(far, np.float32(_MASKED), np.float32(0))


def _uncut(head_size: int) -> int:
    """Return how many products of weights and values ONNX Runtime adds up before it begins another sum.

    By the strides of its product of matrices, for heads of so many numbers (MLAS, `sgemm.cpp`).
    """
    columns, products = 128, 128
    while columns > 16 and columns // 2 >= head_size:
        columns, products = columns // 2, products * 2
    return products
