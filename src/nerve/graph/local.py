"""Adds attention to the tokens nearby only, in time and memory that grow with the text and not with its square.

A text is cut into chunks of C tokens, C no less than the window. The tokens of a chunk attend to their own chunk and
to its two neighbours, each (C, 3C) scores, of which those beyond the window or the text are masked. Chunks are rows of
a batch to the attention operator (docs/decisions/0051).

B = sequences, T = longest of them, n = chunks of each, K = numbers of all heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.graph.writing import GraphWriter

# Chunks are multiples of so many tokens: then the keys of a text's first chunk stand, in a row of scores, as far from
# a multiple of what vector instructions take at once as they do without chunks, and sums have the same bits.
_STEP = 16
# Added to scores that are masked. A sum with it has no weight in any softmax; two of them are still a number.
_MASKED = -1e30
_TO_THE_END = 2**40


class Windows:
    """Attention within one window, of all layers that have it.

    has_sinks: there is a key before those of tokens, which every token attends to. chunk: the least C.
    is_short: bool, by name: no two tokens of the batch are farther from each other than the window.
    is_masked: bool, by name: no text is longer than a chunk and its neighbours, so that all scores, with a mask, are
    fewer than those of chunks. None where that is not offered. band: that mask, (1, 1, T, T).

    A text is computed in either way only where its sums are cut nowhere in chunks (`_uncut`): cut at other keys than
    without chunks, they would have other bits, and an answer would depend on the batch.
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
        uncut = _uncut(head_size) - has_sinks
        short = min(window + 1, chunk, uncut - chunk)
        self._batch = graph.node("Shape", ["input_ids"], f"{name}.batch", start=0, end=1)  # (1,)
        self._time = graph.node("Shape", ["input_ids"], f"{name}.time", start=1, end=2)
        self.is_short = graph.node(
            "Squeeze",
            [graph.node("LessOrEqual", [self._time, integers(short)], f"{name}.few")],
            f"{name}.is_short",
        )
        rounded = graph.node("Add", [self._time, integers(chunk - 1)], f"{name}.rounded")
        self._chunks = graph.node("Div", [rounded, integers(chunk)], f"{name}.chunks")  # (1,), n
        whole = graph.node("Mul", [self._chunks, integers(chunk)], f"{name}.whole")
        tail = graph.node("Sub", [whole, self._time], f"{name}.tail")
        after = graph.node("Add", [tail, integers(chunk)], f"{name}.after")
        self._query_pads = graph.node(
            "Concat", [integers(0, 0, 0, 0), tail, integers(0)], f"{name}.query_pads", axis=0
        )
        self._key_pads = graph.node(
            "Concat", [integers(0, chunk, 0, 0), after, integers(0)], f"{name}.key_pads", axis=0
        )
        self._whole = whole
        nothing = graph.constant("no_mask", np.zeros((1, 1, 1, 1), np.float32))
        self.is_masked = None
        if 3 * chunk <= uncut and not has_sinks:
            few = graph.node("LessOrEqual", [self._time, integers(3 * chunk)], f"{name}.some")
            self.is_masked = graph.node("Squeeze", [few], f"{name}.is_masked")
            self.band = graph.choose(
                self.is_masked,
                f"{name}.band_of_text",
                lambda: self._make_band(window),
                lambda: graph.node("Identity", [nothing], f"{name}.no_band"),
            )
        self._mask = graph.choose(
            self.is_short,
            f"{name}.mask",
            lambda: graph.node("Identity", [nothing], f"{name}.no_mask"),
            lambda: self._make_mask(window),
        )

    def _make_mask(self, window: int) -> str:
        """Return what is added to the scores, (Bn, 1, C, 3C)."""
        graph, name, chunk = self._graph, self._name, self._chunk
        query, key = np.arange(chunk)[:, None] + chunk, np.arange(3 * chunk)
        band = np.where(np.abs(query - key) <= window, 0, _MASKED).astype(np.float32)
        zero = graph.constant("long_zero", np.array(0, np.int64))
        one = graph.constant("long_one", np.array(1, np.int64))
        number = graph.node(
            "Range", [zero, graph.node("Squeeze", [self._chunks], f"{name}.n"), one], f"{name}.number"
        )
        start = graph.node("Mul", [number, graph.integers(chunk)], f"{name}.start")  # (n,)
        column = graph.node("Unsqueeze", [start, graph.integers(1)], f"{name}.start_column")
        offsets = graph.constant(f"{name}.offsets", key - chunk)  # (3C,)
        place = graph.node("Add", [column, offsets], f"{name}.place")  # (n, 3C)
        begun = graph.node("GreaterOrEqual", [place, zero], f"{name}.begun")
        lengths = graph.node("Cast", ["lengths"], f"{name}.lengths", to=TensorProto.INT64)
        lengths = graph.node("Reshape", [lengths, graph.integers(-1, 1, 1)], f"{name}.lengths_column")
        ended = graph.node("Less", [place, lengths], f"{name}.not_ended")  # (B, n, 3C)
        inside = graph.node("And", [begun, ended], f"{name}.inside")
        bounds = [
            graph.constant(f"mask_{number}", np.array(v, np.float32)) for number, v in enumerate((0, _MASKED))
        ]
        beyond = graph.node("Where", [inside, *bounds], f"{name}.beyond")
        rows = graph.node("Reshape", [beyond, graph.integers(-1, 1, 1, 3 * chunk)], f"{name}.rows")
        masks = graph.node(
            "Add", [rows, graph.constant(f"{name}.band", band[None, None])], f"{name}.all_masks"
        )
        if not self._has_sinks:
            return masks
        return graph.node("Pad", [masks, graph.integers(0, 0, 0, 1, 0, 0, 0, 0)], f"{name}.masks_with_sink")

    def _make_band(self, window: int) -> str:
        """Return what is added to all scores of texts that are not longer than three chunks, (1, 1, T, T)."""
        graph, name = self._graph, self._name
        at = np.arange(3 * self._chunk)
        band = np.where(np.abs(at[:, None] - at) <= window, 0, _MASKED).astype(np.float32)
        table = graph.constant(f"{name}.band_of_chunks", band[None, None])
        ends = graph.node("Concat", [self._time, self._time], f"{name}.band_ends", axis=0)
        return graph.node(
            "Slice", [table, graph.integers(0, 0), ends, graph.integers(2, 3)], f"{name}.band_cut"
        )

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
        """Put each chunk between its two neighbours: (Bn, 3C, K)."""
        graph, chunk = self._graph, self._chunk
        padded = graph.node("Pad", [value, self._key_pads], f"{name}.padded")  # (B, (n + 2)C, K)
        chunks = graph.node("Reshape", [padded, graph.integers(0, -1, chunk, width)], f"{name}.chunks")
        bounds = [(0, -2), (1, -1), (2, _TO_THE_END)]
        three = [
            graph.node(
                "Slice",
                [chunks, graph.integers(start), graph.integers(end), graph.integers(1)],
                f"{name}.from_{start}",
            )
            for start, end in bounds
        ]
        beside = graph.node("Concat", three, f"{name}.beside", axis=2)  # (B, n, 3C, K)
        return graph.node("Reshape", [beside, graph.integers(-1, 3 * chunk, width)], f"{name}.neighbours")


def _uncut(head_size: int) -> int:
    """Return how many products of weights and values ONNX Runtime adds up before it begins another sum.

    By the strides of its product of matrices, for heads of so many numbers (MLAS, `sgemm.cpp`).
    """
    columns, products = 128, 128
    while columns > 16 and columns // 2 >= head_size:
        columns, products = columns // 2, products * 2
    return products
