"""Entries of the graph cache: found when whole, rebuilt when not, and never in the way."""

from __future__ import annotations

import json
import logging
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.graph.cache import load_or_build, make_key

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


class Builder:
    """Makes a graph of one table and counts how often it was asked to."""

    def __init__(self, rows: int = 500) -> None:
        self.calls = 0
        table = numpy_helper.from_array(np.arange(rows * 4, dtype=np.float32).reshape(rows, 4), "table")
        info = helper.make_tensor_value_info
        self._graph = helper.make_graph(
            [helper.make_node("Gather", ["table", "ids"], ["out"])],
            "lookup",
            [info("ids", TensorProto.INT64, ["n"])],
            [info("out", TensorProto.FLOAT, ["n", 4])],
            [table],
        )

    def __call__(self) -> onnx.ModelProto:
        """Return a new copy of the graph."""
        self.calls += 1
        return helper.make_model(self._graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_a_graph_is_built_once(tmp_path: Path) -> None:
    """The second load comes from the cache, with the same bytes."""
    build = Builder()
    first = load_or_build(tmp_path, "key", build)
    assert load_or_build(tmp_path, "key", build) == first == build().SerializeToString()
    assert build.calls == 2  # once by the cache, once just above
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["key"]


@pytest.mark.parametrize("name", ["model.onnx", "digest", "model.data"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_a_damaged_entry_is_built_again(
    name: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut, changed or missing files are noticed, replaced, and then served."""
    build = Builder()
    limit = 1000 if name == "model.data" else 10**9
    load_or_build(tmp_path, "key", build, limit)
    file = tmp_path / "graphs" / "key" / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"cut": content[:-3], "flip": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = load_or_build(tmp_path, "key", build, limit)
    assert build.calls == 2
    assert "damaged" in caplog.text
    assert file.read_bytes() == content
    assert load_or_build(tmp_path, "key", build, limit) == again
    assert build.calls == 2


def test_a_large_graph_is_a_file_with_its_weights_beside_it(tmp_path: Path) -> None:
    """Beyond the limit of protobuf the graph is a path, and it reads back as it was."""
    build = Builder()
    source = load_or_build(tmp_path, "key", build, limit=1000)
    assert isinstance(source, Path)
    loaded = onnx.load(source)
    np.testing.assert_array_equal(
        numpy_helper.to_array(loaded.graph.initializer[0]),
        numpy_helper.to_array(build().graph.initializer[0]),
    )
    assert load_or_build(tmp_path, "key", build, limit=1000) == source
    assert build.calls == 2


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place to write, the graph is built in memory at every start."""
    (tmp_path / "file").write_text("")
    build = Builder()
    for calls in (1, 2):
        content = load_or_build(tmp_path / "file", "key", build)
        assert isinstance(content, bytes)
        assert build.calls == calls
    assert "not cached" in caplog.text
    with pytest.raises(ModelError, match=r"model\.cache_dir"):
        load_or_build(tmp_path / "file", "key", build, limit=1000)


def test_an_interrupted_store_leaves_nothing(tmp_path: Path) -> None:
    """A build that fails leaves no entry and no draft."""

    def fail() -> onnx.ModelProto:
        raise ModelError("broken")

    with pytest.raises(ModelError):
        load_or_build(tmp_path, "key", fail)
    assert not list(tmp_path.rglob("*"))


def test_the_key_covers_everything_the_graph_is_made_from(tmp_path: Path) -> None:
    """Another byte of weights or config, another precision: another key; a new time stamp: the same."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    key = make_key([file], b"config", Precision.INT8)
    file.touch()
    assert make_key([file], b"config", Precision.INT8) == key
    assert make_key([file], b"confiG", Precision.INT8) != key
    assert make_key([file], b"config", Precision.FLOAT32) != key
    file.write_bytes(b"Weights")
    assert make_key([file], b"config", Precision.INT8) != key


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_changed_weights_are_never_answered_from_the_cache(tmp_path: Path, precision: Precision) -> None:
    """A graph is cached, and a checkpoint changed in place gets a new one."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    first = load_graph(folder, precision, tmp_path)
    assert load_graph(folder, precision, tmp_path) == first
    assert len(list((tmp_path / "graphs").iterdir())) == 1
    tensors: dict[str, Any] = tiny.make_tensors("bert")
    tensors["classifier.bias"][0] += 1
    save_file(tensors, folder / "model.safetensors")
    assert load_graph(folder, precision, tmp_path) != first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    load_graph(folder, precision, tmp_path)
    assert len(list((tmp_path / "graphs").iterdir())) == 3
