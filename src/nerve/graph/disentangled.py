"""Adds DeBERTa's attention to graphs of padded batches: scores gain two products by distance (arXiv 2006.03654).

B = sequences, T = longest of them, K = numbers of all heads, G = heads at once, D = numbers of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.graph.architectures.encoder import Encoder, Layer
    from nerve.graph.writing import GraphWriter

    # Adds the operator over queries, keys and values, each (B, T, heads * D), with a bias (B, heads, T, T). It gets
    # whether no row has padding, a name, and the number of heads; it returns (B, T, heads * D).
    Attention = Callable[[list[str], str, str, str, int], str]

# Texts up to here are computed with all heads at once; the scores of longer ones leave the processor's cache.
_WHOLE_TOKENS = 320
# Heads at once, of longer texts. With fewer, more threads than these idle in the attention operator.
_GROUP = 4
# Blocks that the tokens of longer texts are cut into.
_BLOCKS = 4


def heads_at_once(heads: int) -> int:
    """Return of how many heads a graph holds the scores at once where a text is long."""
    return next(n for n in range(min(_GROUP, heads), 0, -1) if heads % n == 0)


class DisentangledAttention:
    """DeBERTa's attention, for all layers of a graph (docs/decisions/0050).

    What the products by distance hold is several times the scores. So of long texts a few heads are computed after
    the other, in a `Loop`: their scores stay in the processor's cache. Tokens are cut into blocks, which need fewer
    distances. That changes no bit of an answer: each score is a sum over D in the same order.

    is_full: bool, by name: no row of the batch has padding.
    """

    def __init__(self, graph: GraphWriter, encoder: Encoder, is_full: str) -> None:
        self._graph, self._encoder, self._is_full = graph, encoder, is_full
        self._group = heads_at_once(encoder.heads)
        integers = graph.integers
        self._time = graph.node("Shape", ["input_ids"], "relative.time", start=1, end=2)  # (1,)
        many = graph.node("Greater", [self._time, integers(_WHOLE_TOKENS)], "relative.many")
        self._are_many = graph.node("Squeeze", [many], "relative.are_many")
        self._whole = ByDistance(graph, encoder, self._time, 1, "relative.whole")
        # Blocks are of one size: queries and keys are padded.
        rounded = graph.node("Add", [self._time, integers(_BLOCKS - 1)], "relative.rounded")
        rounded = graph.node("Div", [rounded, integers(_BLOCKS)], "relative.block")
        padded = graph.node("Mul", [rounded, integers(_BLOCKS)], "relative.padded")
        tail = graph.node("Sub", [padded, self._time], "relative.tail")
        self._pads = graph.node("Concat", [integers(0, 0, 0, 0), tail, integers(0)], "relative.pads", axis=0)
        is_even = graph.node(
            "Squeeze", [graph.node("Equal", [tail, integers(0)], "relative.even")], "relative.is_even"
        )
        self._is_full_in_blocks = graph.node("And", [is_full, is_even], "relative.is_full")
        self._blocks = ByDistance(graph, encoder, padded, _BLOCKS, "relative.blocks")
        n_groups = np.array(encoder.heads // self._group, np.int64)
        self._count = graph.constant("relative.groups", n_groups)

    def attend(self, layer: Layer, parts: list[str], name: str, attention: Attention) -> str:
        """Add attention over query, key and value with their biases, each (B, T, K); returns (B, T, K)."""
        return self._graph.choose(
            self._are_many,
            f"{name}.attention_by_size",
            lambda: self._attend_in_groups(layer, parts, f"{name}.group", attention),
            lambda: self._attend_whole(layer, parts, f"{name}.whole", attention),
        )

    def _attend_whole(self, layer: Layer, parts: list[str], name: str, attention: Attention) -> str:
        bias = self._bias(self._whole, layer, parts, name)
        return attention(parts, bias, self._is_full, f"{name}.attention", self._encoder.heads)

    def _attend_in_groups(self, layer: Layer, parts: list[str], name: str, attention: Attention) -> str:
        graph, size = self._graph, self._encoder.head_size
        kinds = ("query", "key", "value")
        padded = [
            graph.node("Pad", [part, self._pads], f"{name}.{kind}.padded")
            for part, kind in zip(parts, kinds, strict=True)
        ]

        def attend_group(number: str) -> str:
            heads = self._range(number, self._group, f"{name}.heads")
            columns = self._range(number, self._group * size, f"{name}.columns")
            few = [
                graph.node("Slice", [part, *columns, graph.integers(2)], f"{name}.{kind}")
                for part, kind in zip(padded, kinds, strict=True)
            ]
            bias = self._bias(self._blocks, layer, few, name, heads)
            return attention(few, bias, self._is_full_in_blocks, f"{name}.attention", self._group)

        contexts = graph.repeat(self._count, f"{name}.contexts", attend_group)  # (heads / G, B, T, G * D)
        context = graph.node("Transpose", [contexts], f"{name}.turned", perm=[1, 2, 0, 3])
        width = self._encoder.heads * size
        context = graph.node("Reshape", [context, graph.integers(0, 0, width)], f"{name}.joined")
        return graph.node("Slice", [context, graph.integers(0), self._time, graph.integers(1)], f"{name}.cut")

    def _range(self, number: str, size: int, name: str) -> tuple[str, str]:
        """Return where a group's part of an axis starts and ends."""
        step = self._graph.integers(size)
        start = self._graph.node("Mul", [number, step], f"{name}.start")
        return start, self._graph.node("Add", [start, step], f"{name}.end")

    def _bias(
        self,
        by_distance: ByDistance,
        layer: Layer,
        parts: list[str],
        name: str,
        heads: tuple[str, str] | None = None,
    ) -> str:
        """Return what is added to the scores, (B, heads, T, T)."""
        graph, sums = self._graph, []
        if layer.position_keys is not None:
            table = graph.weight(f"{name}.position_keys", layer.position_keys)
            sums.append(
                by_distance.scores(parts[0], table, f"{name}.content_to_position", heads, of_keys=False)
            )
        if layer.position_queries is not None:
            table = graph.weight(f"{name}.position_queries", layer.position_queries)
            by_key = by_distance.scores(parts[1], table, f"{name}.position_to_content", heads, of_keys=True)
            sums.append(graph.node("Transpose", [by_key], f"{name}.turned_scores", perm=[0, 1, 3, 2]))
        return sums[0] if len(sums) == 1 else graph.node("Add", sums, f"{name}.distance_bias")


class ByDistance:
    """Products of tokens with the rows of their distances to all others, of batches of one T.

    Tokens are cut into n blocks of R = T / n. One product gives the scores of a block's tokens with each distance that
    they have, W = T + R + 1 numbers a token. The row of a token, begun one further left than that of the token before,
    holds its scores with all tokens. Such a shift is no lookup: in the flat numbers of a block, those of token i begin
    at R + i (W - 1). W - 1 is T + R, so R divides every beginning, and T. So pieces of R numbers are copied; nothing is
    gathered number by number, for which ONNX Runtime is slow.

    time: T, int64 (1,), by name; a multiple of n_blocks, padding included.
    """

    def __init__(self, graph: GraphWriter, encoder: Encoder, time: str, n_blocks: int, name: str) -> None:
        self._graph = graph
        integers = graph.integers
        zero, one, count = (
            graph.constant(f"relative.number_{v}", np.array(v, np.int64)) for v in (0, 1, n_blocks)
        )
        size = graph.node("Div", [time, integers(n_blocks)], f"{name}.size")  # (1,), R
        reach = graph.node("Add", [time, size], f"{name}.reach")
        width = graph.node("Add", [reach, integers(1)], f"{name}.width")  # W

        def column(value: str, axis: int, label: str) -> str:
            return graph.node("Unsqueeze", [value, integers(axis)], f"{name}.{label}")

        blocks = column(graph.node("Range", [zero, count, one], f"{name}.numbers"), 1, "blocks")  # (n, 1)
        ends = graph.node("Add", [blocks, integers(1)], f"{name}.next")
        ends = graph.node("Mul", [ends, size], f"{name}.ends")
        width_scalar = graph.node("Squeeze", [width], f"{name}.width_scalar")
        columns = graph.node("Range", [zero, width_scalar, one], f"{name}.columns")  # (W,)
        # Column c of a query's row in block b is distance (b + 1) R - c, query minus key; of a key's row the opposite.
        distances = graph.node("Sub", [ends, columns], f"{name}.distances")  # (n, W)
        opposite = graph.node("Neg", [distances], f"{name}.opposites")
        rows = encoder.distance_rows
        if rows is None:
            raise ValueError("an encoder without rows of distances")
        table = graph.constant("distance_rows", rows)
        farthest = len(rows) // 2
        bounds = [graph.constant(f"relative.place_{v}", np.array(v, np.int64)) for v in (0, 2 * farthest)]

        def rows_of(values: str, label: str) -> str:
            place = graph.node("Add", [values, integers(farthest)], f"{name}.{label}.at")
            place = graph.node("Clip", [place, *bounds], f"{name}.{label}.in")
            return graph.node("Gather", [table, place], f"{name}.{label}")

        self._rows = {False: rows_of(distances, "key_rows"), True: rows_of(opposite, "query_rows")}
        self._split = graph.node(
            "Concat", [integers(0, n_blocks), size, integers(-1, encoder.head_size)], f"{name}.split", axis=0
        )
        self._pieces = graph.node("Concat", [integers(0, 0, -1), size], f"{name}.pieces", axis=0)
        self._square = graph.node("Concat", [integers(0, 0), time, time], f"{name}.square", axis=0)
        # A block has W pieces of R numbers; those of its token i are n from i (n + 1) + 1 on.
        size_scalar = graph.node("Squeeze", [size], f"{name}.size_scalar")
        tokens = column(graph.node("Range", [zero, size_scalar, one], f"{name}.in_block"), 1, "tokens")
        tokens = graph.node("Mul", [tokens, integers(n_blocks + 1)], f"{name}.starts")  # (R, 1)
        wanted = graph.constant(f"{name}.wanted", np.arange(1, n_blocks + 1))
        places = graph.node("Add", [tokens, wanted], f"{name}.of_token")  # (R, n)
        begin = column(graph.node("Mul", [blocks, width], f"{name}.begin"), 2, "begins")  # (n, 1, 1)
        places = graph.node("Add", [begin, places], f"{name}.of_block")  # (n, R, n)
        self._places = graph.node("Reshape", [places, integers(-1)], f"{name}.places")

    def scores(
        self, value: str, table: str, name: str, heads: tuple[str, str] | None, *, of_keys: bool
    ) -> str:
        """Return the scores of each token with each other one, (B, G, T, T).

        value: (B, T, G * D). table: (all heads, rows, D). heads: the first, and the one after the last, by name; None
        for all. of_keys: tokens are keys, and the table has queries.
        """
        graph = self._graph
        split = graph.node("Reshape", [value, self._split], f"{name}.split")  # (B, n, R, G, D)
        tokens = graph.node("Transpose", [split], f"{name}.tokens", perm=[0, 3, 1, 2, 4])  # (B, G, n, R, D)
        if heads is not None:
            table = graph.node("Slice", [table, *heads, graph.integers(0)], f"{name}.table")
        by_distance = graph.node("Gather", [table, self._rows[of_keys]], f"{name}.by_distance", axis=1)
        product = graph.node("FusedMatMul", [tokens, by_distance], f"{name}.product", fused=True, transB=1)
        pieces = graph.node("Reshape", [product, self._pieces], f"{name}.pieces")  # (B, G, n W, R)
        shifted = graph.node("Gather", [pieces, self._places], f"{name}.shifted", axis=2)
        return graph.node("Reshape", [shifted, self._square], f"{name}.square")
