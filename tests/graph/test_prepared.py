"""Graphs that are prepared once: found when whole, made again when not, and never in the way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from nerve.config import CpuMode, Device, Precision
from nerve.errors import ModelError
from nerve.graph import cache, load_graph
from nerve.graph.prepared import load_or_prepare
from nerve.runtime.backend import Preparation
from nerve.runtime.padded import Session
from nerve.runtime.prepared import name_cpu
from nerve.types import Window
from tests.graph.test_cache import tiny


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGE_BYTES", 1)


def folder_of(tmp_path: Path) -> Path:
    """Return a checkpoint."""
    folder: Path = tiny.write_checkpoint(tmp_path / "model")
    return folder


def scores_of(source: bytes | Path) -> np.ndarray:
    """Return the logits of a few windows, alone and beside each other, of both sessions."""
    session = Session(source, Device.CPU, 0, 0, n_threads=2, mode=CpuMode.AUTO)
    windows = [Window(list(range(3, 3 + n)), 0) for n in (5, 9, 2)]
    found = [session.run([window], True, spread) for window in windows for spread in (False, True)]
    return np.concatenate(
        [scores.logits for batch in [*found, session.run(windows, True)] for scores in batch]
    )  # type: ignore[misc]


@pytest.mark.usefixtures("_small_is_large")
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_a_prepared_graph_gives_the_same_bits(
    tmp_path: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sessions share is what each would make of the graph itself."""
    folder = folder_of(tmp_path)
    found = load_graph(folder, precision, tmp_path)
    assert found.is_shared
    assert isinstance(found.source, Path)
    assert found.source.parent.name == f"prepared-{name_cpu()}"
    assert load_graph(folder, precision, tmp_path) == found
    monkeypatch.setattr(cache, "LARGE_BYTES", 10**9)
    plain = load_graph(folder, precision, tmp_path / "other")
    assert isinstance(plain.source, bytes)
    np.testing.assert_array_equal(scores_of(found.source), scores_of(plain.source))


@pytest.mark.usefixtures("_small_is_large")
@pytest.mark.parametrize("name", ["model.onnx", "model.data", "digest"])
def test_a_damaged_file_is_prepared_again(tmp_path: Path, name: str) -> None:
    """A changed byte is noticed before a session maps it."""
    folder = folder_of(tmp_path)
    source = load_graph(folder, Precision.FLOAT32, tmp_path).source
    assert isinstance(source, Path)
    content = source.with_name(name).read_bytes()
    source.with_name(name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert load_graph(folder, Precision.FLOAT32, tmp_path).source == source
    scores_of(source)


def test_another_cpu_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """Kernels of one CPU do not read what those of another laid out."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("processor: 0\nflags: avx2 avx512f\ncpu MHz: 2000\n")
    other.write_text("processor: 0\nflags: avx2\ncpu MHz: 2000\n")
    assert name_cpu(one) != name_cpu(other)
    other.write_text("processor: 7\nflags: avx2 avx512f\ncpu MHz: 3000\n")
    assert name_cpu(one) == name_cpu(other)
    other.write_text("nothing that tells\n")
    assert name_cpu(other) is None
    assert name_cpu(tmp_path / "absent") is None


def test_a_graph_that_computes_something_else_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The graph itself serves, and the log says so."""
    graph = tmp_path / "entry" / "model.onnx"
    with caplog.at_level(logging.WARNING):
        found = load_or_prepare(graph.parent, Preparation(lambda: "cpu", lambda *_: False), lambda: graph)
    assert found == (graph, False)
    assert "something else" in caplog.text
    assert not list(graph.parent.glob("*prepared*"))


@pytest.mark.usefixtures("_small_is_large")
@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), ModelError("onnxruntime cannot write: no space left")]
)
def test_a_cache_that_cannot_be_written_costs_a_warning(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions then make their own, as before; a full disk is met by the runtime, which raises an error of its own."""

    def refuse(_graph: Path, _folder: Path) -> bool:
        raise error

    graph = tmp_path / "entry" / "model.onnx"
    with caplog.at_level(logging.WARNING):
        found = load_or_prepare(graph.parent, Preparation(lambda: "cpu", refuse), lambda: graph)
    assert found == (graph, False)
    assert "cannot be prepared" in caplog.text
