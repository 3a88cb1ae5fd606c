"""Opens the attention of one layer as a session of its own, at the sizes that people serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from onnx import TensorProto, helper

from nerve.config import Device
from nerve.graph.attention import PaddedAttention
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

PARTS = ("query", "key", "value")


def open_layer(heads: int, size: int, distance_rows: np.ndarray | None = None, **layer: Any) -> Any:
    """Return a session from queries, keys and values, (B, T, heads * size) each, to `out`; layer: what it has."""
    nothing: dict[str, Any] = {"window": None, "sinks": None, "rotary": None}
    projections = {part: SimpleNamespace(bias=None) for part in PARTS}
    one = cast("Any", SimpleNamespace(**{**nothing, "projections": projections, **layer}))
    encoder = SimpleNamespace(
        heads=heads,
        head_size=size,
        key_heads=None,
        n_positions=512,
        scale=None,
        relative_bias=None,
        distance_rows=distance_rows,
        layers=[one],
    )
    graph = GraphWriter()
    result = PaddedAttention(graph, cast("Any", encoder)).attend(one, list(PARTS), "layer")
    graph.node("Identity", [result], "leaves", output="out")
    graph.graph.name = "attention"
    info = helper.make_tensor_value_info
    graph.graph.input.extend(info(part, TensorProto.FLOAT, ["B", "T", heads * size]) for part in PARTS)
    graph.graph.input.append(info("input_ids", TensorProto.INT32, ["B", "T"]))
    graph.graph.input.append(info("lengths", TensorProto.INT32, ["B"]))
    graph.graph.output.append(info("out", TensorProto.FLOAT, None))
    return create_session(graph.model.SerializeToString(), Device.CPU, 0, n_threads=1)


def attend(session: Any, texts: list[np.ndarray], width: int) -> list[np.ndarray]:
    """Return what each text's tokens attend to, from one batch of so many columns.

    A text is its queries, keys and values, (3, T, heads * size).
    """
    values = np.full((3, len(texts), width, texts[0].shape[2]), 0.7, np.float32)
    for row, text in enumerate(texts):
        values[:, row, : text.shape[1]] = text
    lengths = np.array([text.shape[1] for text in texts], np.int32)
    feeds: dict[str, np.ndarray] = dict(zip(PARTS, values, strict=True))
    feeds |= {"input_ids": np.zeros((len(texts), width), np.int32), "lengths": lengths}
    (out,) = session.run(["out"], feeds)
    return [out[row, :length] for row, length in enumerate(lengths)]
