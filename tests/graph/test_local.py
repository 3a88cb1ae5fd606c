"""Attention to the tokens nearby: against its definition, and against itself in other batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper

from nerve.config import Device
from nerve.graph.attention import PaddedAttention
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

HEADS = 2
SINK = 0.3
PARTS = ("query", "key", "value")
Texts = dict[str, np.ndarray]


def open_attention(window: int, size: int, *, has_sinks: bool) -> Any:
    """Return a session of one layer's attention, heads of `size` numbers."""
    layer = SimpleNamespace(
        window=window,
        sinks=np.full(HEADS, SINK, np.float32) if has_sinks else None,
        rotary=None,
        projections={part: SimpleNamespace(bias=None, weight=np.zeros(1)) for part in PARTS},
    )
    encoder = SimpleNamespace(
        heads=HEADS,
        head_size=size,
        key_heads=None,
        n_positions=512,
        scale=None,
        relative_bias=None,
        distance_rows=None,
        layers=[layer],
    )
    graph = GraphWriter()
    result = PaddedAttention(graph, cast("Any", encoder)).attend(cast("Any", layer), list(PARTS), "layer")
    graph.node("Identity", [result], "leaves", output="out")
    graph.graph.name = "attention"
    info = helper.make_tensor_value_info
    graph.graph.input.extend(info(part, TensorProto.FLOAT, ["B", "T", HEADS * size]) for part in PARTS)
    graph.graph.input.append(info("input_ids", TensorProto.INT32, ["B", "T"]))
    graph.graph.input.append(info("lengths", TensorProto.INT32, ["B"]))
    graph.graph.output.append(info("out", TensorProto.FLOAT, None))
    return create_session(graph.model.SerializeToString(), Device.CPU, 0, n_threads=1)


def run(session: Any, texts: list[Texts], width: int) -> list[np.ndarray]:
    """Return what each text's tokens attend to, from one batch of so many columns."""
    lengths = [len(text["query"]) for text in texts]
    feeds: dict[str, np.ndarray] = {
        part: np.full((len(texts), width, texts[0][part].shape[1]), 0.7, np.float32) for part in PARTS
    }
    for row, text in enumerate(texts):
        for part in PARTS:
            feeds[part][row, : lengths[row]] = text[part]
    ids = np.zeros((len(texts), width), np.int32)
    feeds |= {"input_ids": ids, "lengths": np.array(lengths, np.int32)}
    (out,) = session.run(["out"], feeds)
    return [out[row, :length] for row, length in enumerate(lengths)]


def attend(text: Texts, window: int, size: int, *, has_sinks: bool) -> np.ndarray:
    """Return softmax(q k / sqrt(size)) v over the keys within the window, in float64; a sink has no value."""
    query, key, value = (text[part].astype(np.float64).reshape(-1, HEADS, size) for part in PARTS)
    at = np.arange(len(query))
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(size)
    scores[:, np.abs(at[:, None] - at) > window] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True) + (np.exp(SINK) if has_sinks else 0)
    attended: np.ndarray = np.einsum("hqk,khd->qhd", weights, value).reshape(len(query), -1)
    return attended


@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("size", [4, 32, 64, 80, 128])
@pytest.mark.parametrize("window", [1, 16, 50, 64, 80, 90, 128, 200])
def test_a_text_has_the_same_bits_in_every_batch(window: int, size: int, has_sinks: bool) -> None:
    """Whole without a mask, whole with one, and in chunks: which one it is, is a matter of the batch's longest text."""
    session = open_attention(window, size, has_sinks=has_sinks)
    random = np.random.default_rng(window * 100 + size)
    chunk = -(-window // 16) * 16
    near = {window - 1, window, window + 1, window + 2}
    ends = {1, *near, *(n * chunk + more for n in (1, 2, 3) for more in (-1, 0, 1)), 4 * chunk + 5} - {0}
    texts = [
        {part: random.standard_normal((length, HEADS * size), dtype=np.float32) for part in PARTS}
        for length in sorted(ends)
    ]
    lengths = [len(text["query"]) for text in texts]
    alone = [run(session, [text], length)[0] for text, length in zip(texts, lengths, strict=True)]
    for text, seen in zip(texts, alone, strict=True):
        np.testing.assert_allclose(seen, attend(text, window, size, has_sinks=has_sinks), atol=1e-5)
    for width in (*lengths, 5 * chunk):
        few = [text for text, length in zip(texts, lengths, strict=True) if length <= width]
        for seen, expected in zip(run(session, few, width), alone, strict=False):
            np.testing.assert_array_equal(seen, expected)
