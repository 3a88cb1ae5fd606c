"""Adds attention of long texts in blocks of queries, so that its memory grows with the text and not with its square.

ONNX Runtime's operator for the CPU holds the scores of all queries and keys at once. A query's scores and what becomes
of them do not depend on other queries, so that blocks give the same bits (docs/decisions/0053).

B = sequences, T = longest of them, Q = queries of a block, K = numbers of all heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.graph.writing import GraphWriter

# Texts up to here are computed whole: what people serve mostly has 512 positions, whose graphs stay as they are.
WHOLE_TOKENS = 1024
# Queries of a block, Q.
BLOCK_TOKENS = 256


def queries_at_once(n_tokens: int) -> int:
    """Return of how many queries a built graph holds the scores at once, for texts of so many tokens."""
    return n_tokens if n_tokens <= WHOLE_TOKENS else BLOCK_TOKENS


class Blocks:
    """How queries are cut, for all layers of a graph.

    width: K of values. are_needed: bool, by name: the batch has a text that is not computed whole.
    """

    def __init__(self, graph: GraphWriter, width: int) -> None:
        self._graph = graph
        self._width = width
        integers = graph.integers
        self._batch = graph.node("Shape", ["input_ids"], "blocks.batch", start=0, end=1)  # (1,)
        self._time = graph.node("Shape", ["input_ids"], "blocks.time", start=1, end=2)
        self.are_needed = graph.node(
            "Squeeze",
            [graph.node("Greater", [self._time, integers(WHOLE_TOKENS)], "blocks.many")],
            "blocks.are_needed",
        )
        rounded = graph.node("Add", [self._time, integers(BLOCK_TOKENS - 1)], "blocks.rounded")
        count = graph.node("Div", [rounded, integers(BLOCK_TOKENS)], "blocks.counts")
        self._count = graph.node("Squeeze", [count], "blocks.count")
        self._whole = graph.node("Mul", [count, integers(BLOCK_TOKENS)], "blocks.whole")
        tail = graph.node("Sub", [self._whole, self._time], "blocks.tail")
        self._pads = graph.node("Concat", [integers(0, 0, 0, 0), tail, integers(0)], "blocks.pads", axis=0)
        self._shape = graph.node(
            "Concat", [self._batch, self._whole, integers(width)], "blocks.shape", axis=0
        )  # (B, nQ, K)

    def attend(self, query: str, name: str, attention: Callable[[str], str]) -> str:
        """Add attention over queries (B, T, ...), block after block; returns (B, T, K).

        attention: adds it over a block, (B, Q, ...).
        """
        graph = self._graph
        padded = graph.node("Pad", [query, self._pads], f"{name}.query")
        size = graph.integers(BLOCK_TOKENS)

        def attend_block(number: str) -> str:
            start = graph.node("Mul", [number, size], f"{name}.start")
            end = graph.node("Add", [start, size], f"{name}.end")
            block = graph.node("Slice", [padded, start, end, graph.integers(1)], f"{name}.queries")
            return attention(block)

        contexts = graph.repeat(self._count, f"{name}.contexts", attend_block)  # (n, B, Q, K)
        context = graph.node("Transpose", [contexts], f"{name}.turned", perm=[1, 0, 2, 3])
        context = graph.node("Reshape", [context, self._shape], f"{name}.joined")
        return graph.node("Slice", [context, graph.integers(0), self._time, graph.integers(1)], f"{name}.cut")
