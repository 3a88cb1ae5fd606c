"""The default model: read back from its 4-bit graph, it answers as that graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve.config import Device, Precision
from nerve.graph import GraphKind, load_graph
from nerve.runtime.sessions import create_session

N_WORDS = 19730


def open_session(source: bytes | Path, threads: int = 1) -> Any:
    """Return a CPU session."""
    return create_session(source, Device.CPU, 0, n_threads=threads)


def run(session: Any, ids: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Return label ids, scores and logits (B, T, ...)."""
    feed = {"input_ids": ids.astype(np.int32), "lengths": lengths.astype(np.int32)}
    answer: list[np.ndarray] = session.run(["label_ids", "scores", "logits"], feed)
    return answer


@pytest.fixture(scope="module", params=[Precision.FLOAT32, Precision.INT8], ids=lambda p: p.value)
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rampart: Path
) -> bytes | Path:
    """Build the graph from the 4-bit file."""
    graph = load_graph(rampart, request.param, tmp_path_factory.mktemp("cache"))
    assert (graph.kind, graph.precision) == (GraphKind.BUILT, request.param)
    return graph.source


def test_the_weights_read_back_answer_as_the_4_bit_graph(tmp_path: Path, rampart: Path) -> None:
    """Logits within 1e-4 and the same labels, alone and in padded batches."""
    built = open_session(load_graph(rampart, Precision.AUTO, tmp_path).source)
    file = "onnx/model_q4.onnx"
    graph = load_graph(rampart, Precision.AUTO, tmp_path, graph_file=file)
    assert (graph.source, graph.kind, graph.precision) == (rampart / file, GraphKind.READY, Precision.FLOAT32)
    ready = open_session(graph.source)
    rng = np.random.default_rng(0)
    for count, width in ((1, 2), (1, 36), (1, 300), (4, 60)):
        ids = rng.integers(5, N_WORDS, (count, width))
        lengths = rng.integers(2, width + 1, count)
        lengths[0] = width
        mask = np.arange(width) < lengths[:, None]
        inputs = {
            "input_ids": ids,
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": np.zeros_like(ids),
        }
        (expected,) = ready.run(None, inputs)
        labels, _, logits = run(built, ids, lengths)
        np.testing.assert_allclose(logits[mask], expected[mask], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(labels[mask], expected.argmax(-1)[mask])


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_mates_change_no_bit(source: bytes | Path, threads: int) -> None:
    """At the real size too, for short texts and up to the last position."""
    session = open_session(source, threads)
    rng = np.random.default_rng(threads)
    for length, width, count in (
        (1, 7, 3),
        (2, 512, 1),
        (17, 33, 4),
        (36, 90, 4),
        (63, 64, 2),
        (129, 260, 2),
        (257, 512, 2),
    ):
        text = rng.integers(5, N_WORDS, (1, length))
        alone = run(session, text, np.array([length]))
        ids = rng.integers(5, N_WORDS, (count, width))
        lengths = rng.integers(1, width + 1, count)
        ids[-1, :length], lengths[-1] = text, length
        for one, other in zip(alone, run(session, ids, lengths), strict=True):
            np.testing.assert_array_equal(one[0], other[-1, :length])
