"""Adds what a token is before the first layer: its word's vector, its position's, a norm and a projection.

B = sequences, T = longest of them, V = vocabulary, P = positions, E = embedding size, H = hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from nerve.graph.writing import linear, normalize

if TYPE_CHECKING:
    from nerve.graph.architectures.encoder import Encoder
    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray


def embed(graph: GraphWriter, encoder: Encoder) -> str:
    """Add the embeddings of `input_ids` (B, T) of a padded graph: (B, T, H)."""
    positions = "" if encoder.padding_id is None else _count_positions(graph, encoder.padding_id)
    return add_embeddings(graph, encoder, positions)


def add_embeddings(graph: GraphWriter, encoder: Encoder, positions: str) -> str:
    """Add the embeddings, of the shape of `input_ids` and H.

    positions: name of the position ids; "" where token t has position t.
    """
    norm, table = encoder.embedding_norm, encoder.positions
    if table is not None and norm is not None and norm.bias is not None and not encoder.projects_first:
        add = _sum_and_norm if graph.half else _fused
        value = add(graph, encoder, table, [norm.weight, norm.bias], positions)
    else:
        value = _sum(graph, encoder, positions)
        if norm is not None and not encoder.projects_first:
            value = normalize(graph, value, norm, encoder.epsilon, "embeddings")
    if encoder.projection is not None:
        value = linear(graph, value, encoder.projection, "projection")
    if norm is not None and encoder.projects_first:
        value = normalize(graph, value, norm, encoder.epsilon, "embeddings")
    return value


def _fused(
    graph: GraphWriter, encoder: Encoder, table: FloatArray, norm: list[FloatArray], positions: str
) -> str:
    """Word and position vectors, added and normalised by one operator."""
    inputs = [
        "input_ids",
        "",  # token types: all 0, and their vector is part of the positions
        graph.constant("words", encoder.words),  # (V, E)
        graph.constant("positions", table),  # (P, E)
        "",
        graph.constant("embedding_norm.weight", norm[0]),
        graph.constant("embedding_norm.bias", norm[1]),
    ]
    if positions:
        inputs += ["", positions]
    outputs = ["embeddings", "unused_mask_index"]
    return graph.node(
        "EmbedLayerNormalization",
        inputs,
        "embeddings",
        fused=True,
        outputs=outputs,
        epsilon=encoder.epsilon,
    )


def _sum_and_norm(
    graph: GraphWriter, encoder: Encoder, table: FloatArray, norm: list[FloatArray], positions: str
) -> str:
    """Word and position vectors of float16, added and normalised in float32.

    EmbedLayerNormalization adds up in the type of its tables, and rounds epsilon to it: 1e-12 is 0 in float16
    (embed_layer_norm_impl.cu of ONNX Runtime). positions: there are some, as in every graph for a GPU.
    """
    words = graph.node("Gather", [graph.constant("words", encoder.words), "input_ids"], "word_vectors")
    vectors = graph.node("Gather", [graph.constant("positions", table), positions], "position_vectors")
    inputs = [
        words,
        vectors,
        graph.constant("embedding_norm.weight", norm[0]),
        graph.constant("embedding_norm.bias", norm[1]),
    ]
    return graph.node("SkipLayerNormalization", inputs, "embeddings", fused=True, epsilon=encoder.epsilon)


def _sum(graph: GraphWriter, encoder: Encoder, positions: str) -> str:
    value = graph.node("Gather", [graph.constant("words", encoder.words), "input_ids"], "word_vectors")
    if encoder.positions is None:
        return value
    table = graph.constant("positions", encoder.positions)
    if positions:
        vectors = graph.node("Gather", [table, positions], "position_vectors")
    else:
        time = graph.node("Shape", ["input_ids"], "embedded_time", start=1, end=2)  # (1,)
        bounds = [graph.integers(0), time, graph.integers(0)]
        vectors = graph.node("Slice", [table, *bounds], "position_vectors")  # (T, E)
    return graph.node("Add", [value, vectors], "vectors")


def _count_positions(graph: GraphWriter, padding_id: int) -> str:
    """Positions of the RoBERTa family, int32 (B, T).

    cumsum(id != pad) * (id != pad) + pad (modeling_roberta.py, create_position_ids_from_input_ids). It
    matters inside a text too, where the tokenizer found the padding token written out.
    """
    pad = graph.constant("padding_id", np.array(padding_id, np.int32))
    is_pad = graph.node("Equal", ["input_ids", pad], "is_padding")
    is_real = graph.node("Not", [is_pad], "is_not_padding")
    real = graph.node("Cast", [is_real], "counts", to=TensorProto.INT32)
    count = graph.node("CumSum", [real, graph.constant("time_axis", np.array(1, np.int64))], "count")
    return graph.node("Add", [graph.node("Mul", [count, real], "counted"), pad], "position_ids")
