"""What the script for a card does to graphs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from bench.gpu.branches import without_branches
from bench.gpu.bring import cut
from nerve.config import Device, Precision
from nerve.graph import load_graph

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


@pytest.mark.parametrize("case", ["bert", "roberta", "mpnet"])
def test_a_graph_without_branches_computes_the_same(case: str, tmp_path: Path) -> None:
    """With padding and without; a CUDA graph can capture it, since no node chooses and none reads `lengths` only."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    source = load_graph(folder, Precision.FLOAT32, tmp_path / "cache").source
    assert isinstance(source, bytes)
    short = without_branches(onnx.load_from_string(source))
    operators = {node.op_type for node in short.graph.node}
    assert "If" in {node.op_type for node in onnx.load_from_string(source).graph.node}
    assert not operators & {"If", "ReduceMin", "Equal" if case == "bert" else "If"}
    sessions = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for graph in (source, short.SerializeToString())
    ]
    for lengths in ([9, 9], [9, 4]):
        ids = np.random.default_rng(0).integers(5, 60, (2, 9)).astype(np.int32)
        feeds = {"input_ids": ids, "lengths": np.array(lengths, np.int32)}
        before, after = (session.run(["logits"], feeds)[0] for session in sessions)
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(after[row, :length], before[row, :length], atol=1e-5)


def test_wheels_are_brought_in_pieces(tmp_path: Path) -> None:
    """None is larger than what can be carried; joined by their names, the parts are the file."""
    contents = {
        "a.whl": bytes(range(250)) * 10,
        "b.whl": b"b" * 900,
        "c.whl": b"c" * 90,
        "d.whl": b"d" * 1000,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    pieces = cut(sorted(tmp_path.iterdir()), 1000)
    assert all(sum(len(data) for _, data in piece) <= 1000 for piece in pieces)
    assert len(pieces) == 5
    chunks = dict(chunk for piece in pieces for chunk in piece)
    assert len(chunks) == sum(len(piece) for piece in pieces)
    parts = sorted(name for name in chunks if ".part-" in name)
    assert parts == ["a.whl.part-01", "a.whl.part-02", "a.whl.part-03"]
    assert b"".join(chunks[name] for name in parts) == contents["a.whl"]
    assert {name: chunks[name] for name in ("b.whl", "c.whl", "d.whl")} == {
        name: contents[name] for name in ("b.whl", "c.whl", "d.whl")
    }


@pytest.mark.parametrize(
    "part", ["steps", "kernels", "placement", "replays", "tails", "mapped", "quick_steps", "memory", "padded"]
)
def test_parts_of_the_script_run_without_a_card(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks the engine's inside goes with it: on the CPU the numbers mean nothing, but there are some."""
    from bench.gpu import engine  # noqa: PLC0415 - changes sys.path

    monkeypatch.setattr(engine, "IS_REHEARSAL", True)
    monkeypatch.setattr(engine, "default_cache_dir", lambda: tmp_path / "cache")
    folder = write_bert_for_bench(tmp_path / "model")
    found = engine.NAMES[part](folder, Device.CPU)
    assert json.loads(json.dumps(found)) or part == "kernels"
    if part == "replays":
        assert found["largest"] < 1e-3


def write_bert_for_bench(folder: Path) -> Path:
    """Write the small model of the rehearsal, smaller."""
    from bench.gpu.models import write_bert  # noqa: PLC0415

    write_bert(folder, layers=1, hidden=32, inner=64, words=1000)
    return folder
