"""Adds what attention scores gain by the distance of two tokens: for MPNet, and for DeBERTa in packed graphs.

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
    """The bias of `disentangled` where sequences are packed in one row: looked up, without a node for a shape.

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
