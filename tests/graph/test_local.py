"""Attention to the tokens nearby: against its definition, and against itself in other batches."""

from __future__ import annotations

import numpy as np
import pytest

from one_layer import attend, open_layer

HEADS = 2
SINK = 0.3


def by_definition(text: np.ndarray, window: int, size: int, *, has_sinks: bool) -> np.ndarray:
    """Return softmax(q k / sqrt(size)) v over the keys within the window, in float64; a sink has no value."""
    query, key, value = text.astype(np.float64).reshape(3, -1, HEADS, size)
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
    sinks = np.full(HEADS, SINK, np.float32) if has_sinks else None
    session = open_layer(HEADS, size, window=window, sinks=sinks)
    random = np.random.default_rng(window * 100 + size)
    chunk = -(-window // 16) * 16
    near = {window - 1, window, window + 1, window + 2}
    ends = {1, *near, *(n * chunk + more for n in (1, 2, 3) for more in (-1, 0, 1)), 4 * chunk + 5} - {0}
    texts = [random.standard_normal((3, length, HEADS * size), dtype=np.float32) for length in sorted(ends)]
    alone = [attend(session, [text], text.shape[1])[0] for text in texts]
    for text, seen in zip(texts, alone, strict=True):
        expected = by_definition(text, window, size, has_sinks=has_sinks)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    for width in (*sorted(ends), 5 * chunk):
        few = [text for text in texts if text.shape[1] <= width]
        for seen, expected in zip(attend(session, few, width), alone, strict=False):
            np.testing.assert_array_equal(seen, expected)
