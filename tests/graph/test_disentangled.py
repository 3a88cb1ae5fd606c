"""DeBERTa's attention at the sizes that people serve: the same bits whole and a few heads at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper

from nerve.config import Device
from nerve.graph.architectures.deberta import bucket_rows
from nerve.graph.attention import PaddedAttention
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

PARTS = ("query", "key", "value")
BUCKETS, REACH = 256, 512


def open_attention(heads: int, size: int) -> Any:
    """Return a session of one layer's attention."""
    random = np.random.default_rng(0)
    keys, queries = (
        (random.standard_normal((heads, 2 * BUCKETS, size)) * 0.3).astype(np.float32) for _ in range(2)
    )
    layer = SimpleNamespace(
        window=None,
        sinks=None,
        rotary=None,
        projections={part: SimpleNamespace(bias=None) for part in PARTS},
        position_keys=keys,
        position_queries=queries,
    )
    encoder = SimpleNamespace(
        heads=heads,
        head_size=size,
        key_heads=None,
        n_positions=512,
        scale=None,
        relative_bias=None,
        distance_rows=bucket_rows(BUCKETS, REACH),
        layers=[layer],
    )
    graph = GraphWriter()
    result = PaddedAttention(graph, cast("Any", encoder)).attend(cast("Any", layer), list(PARTS), "layer")
    graph.node("Identity", [result], "leaves", output="out")
    graph.graph.name = "attention"
    info = helper.make_tensor_value_info
    graph.graph.input.extend(info(part, TensorProto.FLOAT, ["B", "T", heads * size]) for part in PARTS)
    graph.graph.input.append(info("input_ids", TensorProto.INT32, ["B", "T"]))
    graph.graph.input.append(info("lengths", TensorProto.INT32, ["B"]))
    graph.graph.output.append(info("out", TensorProto.FLOAT, None))
    return create_session(graph.model.SerializeToString(), Device.CPU, 0, n_threads=1)


def run(session: Any, texts: list[np.ndarray], width: int) -> list[np.ndarray]:
    """Return what each text's tokens attend to; a text is its queries, keys and values, (3, T, heads * D)."""
    values = np.full((3, len(texts), width, texts[0].shape[2]), 0.7, np.float32)
    for row, text in enumerate(texts):
        values[:, row, : text.shape[1]] = text
    lengths = np.array([text.shape[1] for text in texts], np.int32)
    feeds: dict[str, np.ndarray] = dict(zip(PARTS, values, strict=True))
    feeds |= {"input_ids": np.zeros((len(texts), width), np.int32), "lengths": lengths}
    (out,) = session.run(["out"], feeds)
    return [out[row, :length] for row, length in enumerate(lengths)]


@pytest.mark.parametrize(("heads", "size"), [(12, 64), (5, 64), (6, 80)])
def test_a_text_has_the_same_bits_in_every_batch(heads: int, size: int) -> None:
    """Up to 320 tokens in a batch all heads are computed at once, beyond it a few."""
    session = open_attention(heads, size)
    random = np.random.default_rng(1)
    lengths = (1, 127, 257, 319, 320, 321, 402)
    texts = [random.standard_normal((3, length, heads * size), dtype=np.float32) for length in lengths]
    alone = [run(session, [text], text.shape[1])[0] for text in texts]
    for width in (320, 321, 323, 402, 404):
        few = [text for text in texts if text.shape[1] <= width]
        for seen, expected in zip(run(session, few, width), alone, strict=False):
            np.testing.assert_array_equal(seen, expected)
