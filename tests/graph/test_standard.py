"""Graphs in standard operators compute what ONNX Runtime's fused ones do."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from nerve.config import Precision
from nerve.graph import load_graph
from nerve.graph.architectures import NotBuildable
from nerve.graph.standard import standardize

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
CPU = ["CPUExecutionProvider"]


@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_are_those_of_the_fused_operators(case: str, tmp_path: Path) -> None:
    """Every family, alone and with padding, to 1e-4; no operator is left that only ONNX Runtime has."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    source = load_graph(folder, Precision.FLOAT32, tmp_path / "cache").source
    assert isinstance(source, bytes)
    standard = standardize(onnx.load_from_string(source))
    onnx.checker.check_model(standard)
    assert {opset.domain for opset in standard.opset_import} == {""}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    fused = onnxruntime.InferenceSession(source, providers=CPU)
    plain = onnxruntime.InferenceSession(standard.SerializeToString(), options, providers=CPU)
    texts = tiny.make_texts(case)
    for chosen in ([texts[0]], texts):
        lengths = np.array([len(text) for text in chosen], np.int32)
        ids = np.zeros((len(chosen), lengths.max()), np.int32)
        for row, text in zip(ids, chosen, strict=True):
            row[: len(text)] = text
        feeds = {"input_ids": ids, "lengths": lengths}
        expected, found = (session.run(["logits"], feeds)[0] for session in (fused, plain))
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(found[row, :length], expected[row, :length], rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [20, 1300])
def test_a_text_that_the_built_graph_computes_in_blocks(length: int, tmp_path: Path) -> None:
    """Graphs for long texts have a branch for them; here all are computed whole."""
    folder = tiny.write_checkpoint(tmp_path / "model", "eurobert")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 2048}))
    source = load_graph(folder, Precision.FLOAT32, tmp_path / "cache").source
    assert isinstance(source, bytes)
    assert b"blocks.are_needed" in source
    ids = np.random.default_rng(0).integers(5, 90, (2, length)).astype(np.int32)
    feeds = {"input_ids": ids, "lengths": np.array([length, length - 3], np.int32)}
    plain = standardize(onnx.load_from_string(source)).SerializeToString()
    expected, found = (
        onnxruntime.InferenceSession(graph, providers=CPU).run(["logits"], feeds)[0]
        for graph in (source, plain)
    )
    for row, n in enumerate(feeds["lengths"]):
        np.testing.assert_allclose(found[row, :n], expected[row, :n], rtol=0, atol=1e-4)


def test_an_unknown_operator_is_refused() -> None:
    """A graph that cannot be written in standard operators is not written wrongly."""
    info = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    node = helper.make_node("BiasGelu", ["a", "b"], ["logits"], domain="com.microsoft")
    model = helper.make_model(helper.make_graph([node], "g", [], [info]))
    with pytest.raises(NotBuildable, match="no standard form of BiasGelu"):
        standardize(model)


def test_an_unknown_branch_is_refused() -> None:
    """Of a branch that is not known nobody can say which side is right for all texts."""
    info = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    sides = {
        name: helper.make_graph([helper.make_node("Identity", ["a"], ["logits"])], name, [], [info])
        for name in ("then_branch", "else_branch")
    }
    node = helper.make_node("If", ["window_x.is_short"], ["logits"], **sides)
    model = helper.make_model(helper.make_graph([node], "g", [], [info]))
    with pytest.raises(NotBuildable, match=r"no standard form of a branch by window_x\.is_short"):
        standardize(model)
