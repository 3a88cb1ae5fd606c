"""Adds what attention scores gain by the distance of two tokens: MPNet's table, and DeBERTa's two products.

B = sequences, T = longest of them, P = positions, D = numbers of a head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Layer
    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray

_MAX_DISTANCE = 128  # MPNet: farther tokens share a bucket (modeling_mpnet.py, relative_position_bucket)
_TO_THE_END = 2**40


def learned_bias(graph: GraphWriter, relative_bias: FloatArray, n_positions: int) -> str:
    """MPNet's bias by distance, (1, heads, T, T)."""
    table = graph.constant("relative_bias", bias_by_distance(relative_bias, n_positions))  # (heads, 2P - 1)
    zero, one, shift = (
        graph.constant(name, np.array(value, np.int32))
        for name, value in (("zero", 0), ("step", 1), ("farthest", n_positions - 1))
    )
    time = graph.node("Shape", ["input_ids"], "bias_time", start=1, end=2)  # (1,)
    n_tokens = graph.node(
        "Cast", [graph.node("Squeeze", [time], "time_scalar")], "n_tokens", to=TensorProto.INT32
    )
    at = graph.node("Range", [zero, n_tokens, one], "at")  # (T,)
    keys = graph.node("Unsqueeze", [at, graph.integers(0)], "keys")  # (1, T)
    queries = graph.node("Unsqueeze", [at, graph.integers(1)], "queries")
    columns = graph.node("Sub", [graph.node("Add", [queries, shift], "shifted"), keys], "distances")  # (T, T)
    bias = graph.node("Gather", [table, columns], "distance_bias", axis=1)  # (heads, T, T)
    return graph.node("Unsqueeze", [bias, graph.integers(0)], "attention_bias")


def bias_by_distance(relative_bias: FloatArray, positions: int) -> FloatArray:
    """Return the bias of every distance, query minus key, from -(P - 1) on: (heads, 2P - 1).

    One row for each distance, not for each pair of positions: of these there are billions where contexts are long.
    T5's scheme, in float32 as modeling_mpnet.py computes it.
    """
    distance = np.arange(1 - positions, positions)
    half = len(relative_bias) // 2
    exact = half // 2
    far = np.abs(distance)
    with np.errstate(divide="ignore"):
        growth = np.log(far.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(_MAX_DISTANCE / exact)
        )
        spread = np.where(far < exact, 0, growth * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(far < exact, far, np.minimum(exact + spread, half - 1))
    by_distance: FloatArray = relative_bias.T[:, bucket + np.where(distance < 0, half, 0)]
    return by_distance


class PackedDisentangled:
    """The same bias as `Disentangled` where sequences are packed in one row: looked up, without a node for a shape.

    Queries and keys are laid out by sequence first, since the bias of packed attention is by sequence, (B, heads, S, S)
    where there is room for S tokens. The products are with the rows of the buckets, (S, rows); which row a pair of
    tokens has is the same in every sequence and head, so one table of places, (S, S), serves all lookups. What lies
    behind a sequence's end is of another one, and attention does not look at it (docs/decisions/0054).
    """

    def __init__(
        self, graph: GraphWriter, rows: npt.NDArray[np.int64], n_positions: int, heads: int, head_size: int
    ) -> None:
        self._graph = graph
        self._places: dict[str, str] = {}
        farthest = len(rows) // 2
        distance = np.arange(1 - n_positions, n_positions)
        row = rows[np.clip(distance + farthest, 0, 2 * farthest)].astype(np.int32)
        self._rows = graph.node(
            "Gather", [graph.constant("distance_rows", row), "distances"], "row"
        )  # (S, S)
        self._split = graph.integers(0, 0, heads, head_size)
        self._flat = graph.integers(0, 0, -1)
        # `distances` holds query minus key plus P - 1: its first column counts the tokens of a sequence.
        zero, one, last = graph.integers(0), graph.integers(1), graph.integers(-1)
        column = graph.node("Slice", ["distances", zero, one, one], "first_distances")  # (S, 1)
        shift = graph.constant("first_distance", np.array(n_positions - 1, np.int32))
        self._place = graph.node("Sub", [column, shift], "place")  # (S, 1), 0 to S - 1
        begin = graph.node("Slice", ["cu_seqlens", zero, last, zero], "begin")  # (B,)
        begin = graph.node("Unsqueeze", [begin, one], "begin_column")
        step = graph.constant("token_step", np.array(1, np.int32))
        end = graph.node("Slice", ["cu_seqlens", last, graph.integers(_TO_THE_END), zero], "end")
        end = graph.node("Sub", [end, step], "last_token")  # (1,)
        places = graph.node("Reshape", [self._place, graph.integers(1, -1)], "place_row")
        tokens = graph.node("Add", [begin, places], "token_at")  # (B, S)
        self._tokens = graph.node("Min", [tokens, end], "token_in")

    def bias(self, layer: Layer, query: str, key: str, name: str) -> str:
        """Return what is added to the scores, (B, heads, S, S); query and key: (T, heads * D), biases added."""
        parts = []
        if layer.position_keys is not None:
            scores = self._product(query, layer.position_keys, f"{name}.content_to_position")
            parts.append(self._look_up(scores, len(layer.position_keys[0]), by_key=False))
        if layer.position_queries is not None:
            scores = self._product(key, layer.position_queries, f"{name}.position_to_content")
            parts.append(self._look_up(scores, len(layer.position_queries[0]), by_key=True))
        return parts[0] if len(parts) == 1 else self._graph.node("Add", parts, f"{name}.distance_bias")

    def _product(self, value: str, table: FloatArray, name: str) -> str:
        """Return the product of each token with each row of the table, flat: (B, heads, S * rows)."""
        graph = self._graph
        by_sequence = graph.node("Gather", [value, self._tokens], f"{name}.by_sequence")  # (B, S, heads * D)
        split = graph.node("Reshape", [by_sequence, self._split], f"{name}.split")
        heads = graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])  # (B, heads, S, D)
        turned = graph.constant(f"{name}.table", table.transpose(0, 2, 1))  # (heads, D, rows)
        scores = graph.node("MatMul", [heads, turned], f"{name}.scores")
        return graph.node("Reshape", [scores, self._flat], f"{name}.flat")

    def _look_up(self, flat: str, n_rows: int, *, by_key: bool) -> str:
        """Return the score of each pair's row, (B, heads, S, S); by_key: the products are the keys'."""
        graph = self._graph
        name = f"places_{n_rows}_{'key' if by_key else 'query'}"
        if name not in self._places:
            width = graph.constant(f"{name}.width", np.array(n_rows, np.int32))
            start = graph.node("Mul", [self._place, width], f"{name}.start")  # (S, 1)
            if by_key:
                start = graph.node("Reshape", [start, graph.integers(1, -1)], f"{name}.start_row")
            self._places[name] = graph.node("Add", [self._rows, start], name)  # (S, S)
        return graph.node("Gather", [flat, self._places[name]], f"{flat}.looked_up", axis=2)


class Disentangled:
    """Adds DeBERTa's two products by distance to the scores of each layer (docs/decisions/0050).

    For n tokens there are 2n distances, -n to n - 1. One product gives the score of a query with the key of each
    distance, (T, 2T); the scores of a query's row, begun one further left in every next row, are those of its keys.
    Such a shift is no lookup: read without the first T numbers, in rows of 2T - 1, the same numbers stand where they
    are wanted. So nothing is gathered number by number, for which ONNX Runtime is slow.
    """

    def __init__(self, graph: GraphWriter, rows: npt.NDArray[np.int64], heads: int, head_size: int) -> None:
        self._graph = graph
        farthest = len(rows) // 2
        integers = graph.integers
        self._time = graph.node("Shape", ["input_ids"], "relative_time", start=1, end=2)  # (1,)
        end = graph.node("Squeeze", [self._time], "relative_end")
        start = graph.node("Neg", [end], "relative_start")
        one = graph.constant("relative_step", np.array(1, np.int64))
        distances = graph.node("Range", [start, end, one], "relative_distances")  # (2T,), -T to T - 1
        opposite = graph.node("Neg", [distances], "relative_opposites")
        table = graph.constant("distance_rows", rows)
        bounds = [graph.constant(f"relative_{v}", np.array(v, np.int64)) for v in (0, 2 * farthest)]
        middle = graph.constant("relative_middle", np.array(farthest, np.int64))

        def rows_of(values: str, name: str) -> str:
            place = graph.node(
                "Clip", [graph.node("Add", [values, middle], f"{name}.at"), *bounds], f"{name}.in"
            )
            return graph.node("Gather", [table, place], name)

        # Column j of a query's row is distance T - j, of a key's row j - T.
        self._key_rows = rows_of(opposite, "key_rows")
        self._query_rows = rows_of(distances, "query_rows")
        self._split = integers(0, 0, heads, head_size)
        self._flat = integers(0, 0, -1)
        double = graph.node("Mul", [self._time, integers(2)], "relative_double")
        width = graph.node("Sub", [double, integers(1)], "relative_width")
        self._shifted = graph.node("Concat", [integers(0, 0), self._time, width], "relative_shape", axis=0)

    def bias(self, layer: Layer, query: str, key: str, name: str) -> str:
        """Return what is added to the scores, (B, heads, T, T); query and key: (B, T, heads * D), biases added."""
        parts = []
        if layer.position_keys is not None:
            parts.append(
                self._product(query, layer.position_keys, self._key_rows, f"{name}.content_to_position")
            )
        if layer.position_queries is not None:
            by_key = self._product(
                key, layer.position_queries, self._query_rows, f"{name}.position_to_content"
            )
            turned = self._graph.node(
                "Transpose", [by_key], f"{name}.position_to_content.turned", perm=[0, 1, 3, 2]
            )
            parts.append(turned)
        return parts[0] if len(parts) == 1 else self._graph.node("Add", parts, f"{name}.distance_bias")

    def _product(self, value: str, table: FloatArray, rows: str, name: str) -> str:
        """Return the product of each token with the row of its distance to each other one, (B, heads, T, T)."""
        graph = self._graph
        split = graph.node("Reshape", [value, self._split], f"{name}.split")
        heads = graph.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])  # (B, heads, T, D)
        by_row = graph.constant(f"{name}.table", table)  # (heads, rows, D)
        by_distance = graph.node("Gather", [by_row, rows], f"{name}.by_distance", axis=1)  # (heads, 2T, D)
        scores = graph.node("FusedMatMul", [heads, by_distance], f"{name}.scores", fused=True, transB=1)
        flat = graph.node("Reshape", [scores, self._flat], f"{name}.flat")  # (B, heads, 2TT)
        end, axis = graph.integers(_TO_THE_END), graph.integers(2)
        later = graph.node("Slice", [flat, self._time, end, axis], f"{name}.later")
        shifted = graph.node("Reshape", [later, self._shifted], f"{name}.shifted")  # (B, heads, T, 2T - 1)
        return graph.node("Slice", [shifted, graph.integers(0), self._time, graph.integers(3)], name)
