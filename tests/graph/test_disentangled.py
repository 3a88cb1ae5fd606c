"""DeBERTa's attention at the sizes that people serve: the same bits whole and a few heads at a time."""

from __future__ import annotations

import numpy as np
import pytest

from nerve.graph.architectures.deberta import bucket_rows
from one_layer import attend, open_layer

BUCKETS, REACH = 256, 512


@pytest.mark.parametrize(("heads", "size"), [(12, 64), (5, 64), (6, 80)])
def test_a_text_has_the_same_bits_in_every_batch(heads: int, size: int) -> None:
    """Up to 320 tokens in a batch all heads are computed at once, beyond it a few."""
    random = np.random.default_rng(1)
    keys, queries = (
        (random.standard_normal((heads, 2 * BUCKETS, size)) * 0.3).astype(np.float32) for _ in range(2)
    )
    rows = bucket_rows(BUCKETS, REACH)
    session = open_layer(heads, size, rows, position_keys=keys, position_queries=queries)
    lengths = (1, 127, 257, 319, 320, 321, 402)
    texts = [random.standard_normal((3, length, heads * size), dtype=np.float32) for length in lengths]
    alone = [attend(session, [text], text.shape[1])[0] for text in texts]
    for width in (320, 321, 323, 402, 404):
        few = [text for text in texts if text.shape[1] <= width]
        for seen, expected in zip(attend(session, few, width), alone, strict=False):
            np.testing.assert_array_equal(seen, expected)
