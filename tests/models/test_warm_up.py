"""How windows of a ready graph may share a call: what a text gets must not depend on the texts beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from builders import open_engine, open_model, write_lookup_model
from nerve.engine.in_process import collect, submit
from nerve.models.model import Model
from nerve.types import PredictOptions, Window

STRIDE = {"window_stride": 4}
SIZE = 16


def rewrite(folder: Path, nodes: list[onnx.NodeProto], mask: bool = False) -> Path:
    """Put `nodes` between the rows `found` of a random table and the output `logits`."""
    write_lookup_model(folder)
    gather = onnx.load(str(folder / "model.onnx")).graph
    table = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    inputs = list(gather.input)
    if mask:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["found"], axis=0), *nodes],
        "mixing",
        inputs,
        list(gather.output),
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    return folder


def mean(axes: list[int]) -> list[onnx.NodeProto]:
    """Add the mean over some axes of (batch, token, label)."""
    return [
        helper.make_node("ReduceMean", ["found"], ["mean"], axes=axes, keepdims=1),
        helper.make_node("Add", ["found", "mean"], ["logits"]),
    ]


MASKED_MEAN = [
    helper.make_node("Cast", ["attention_mask"], ["cast"], to=TensorProto.FLOAT),
    helper.make_node("Unsqueeze", ["cast", "last"], ["mask"]),
    helper.make_node("Mul", ["found", "mask"], ["kept"]),
    helper.make_node("ReduceMean", ["kept"], ["all"], axes=[1], keepdims=1),
    helper.make_node("ReduceMean", ["mask"], ["share"], axes=[1], keepdims=1),
    helper.make_node("Div", ["all", "share"], ["mean"]),
    helper.make_node("Add", ["found", "mean"], ["logits"]),
]


def quantised(folder: Path) -> Path:
    """Write a model of two products and quantise it as users do: dynamically, by onnxruntime's own tool."""
    write_lookup_model(folder)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, SIZE)) * np.exp(rng.standard_normal((40, 1)) * 1.2)  # of many sizes
    weights = {
        "table": rows.astype(np.float32),
        "w1": rng.standard_normal((SIZE, SIZE)).astype(np.float32),
        "w2": rng.standard_normal((SIZE, 5)).astype(np.float32),
    }
    gather = onnx.load(str(folder / "model.onnx")).graph
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], axis=0),
        helper.make_node("MatMul", ["x", "w1"], ["y"]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("MatMul", ["z", "w2"], ["logits"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", list(gather.input), list(gather.output), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "float.onnx"))
    quantize_dynamic(folder / "float.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    (folder / "float.onnx").unlink()
    return folder


def limits(model: Model) -> tuple[int, float]:
    """Return what may share a call."""
    return model.policy.max_batch_size, model.policy.max_padding


@pytest.mark.parametrize(
    ("nodes", "mask", "expected", "said"),
    [
        (mean([2]), False, (32, 0.05), None),
        (MASKED_MEAN, True, (32, 0.05), None),
        (mean([1]), False, (32, 0.0), "depends on its padding, so only windows of one length share a call"),
        (mean([0]), False, (1, 0.05), "depends on the others of its batch, so each window runs alone"),
        (mean([0, 1]), False, (1, 0.05), "depends on the others of its batch"),
    ],
    ids=["of a token", "of a text, masked", "of a text, unmasked", "of a batch", "of all"],
)
def test_dependence_on_a_batch_is_found_out(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    nodes: list[onnx.NodeProto],
    mask: bool,
    expected: tuple[int, float],
    said: str | None,
) -> None:
    """A graph of somebody else's is given the same windows alone and together before it serves."""
    model, _ = open_model(rewrite(tmp_path / "model", nodes, mask), runtime=STRIDE)
    assert limits(model) == expected
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and record.name.startswith("nerve")
    ]
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_dynamically_quantised_graph_runs_each_window_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One scale for a whole batch: what a text gets would depend on the others; the log says what it costs."""
    engine = open_engine(quantised(tmp_path / "model"), runtime=STRIDE)
    try:
        assert limits(engine.model)[0] == 1
        (said,) = [
            record.getMessage()
            for record in caplog.records
            if record.levelname == "WARNING" and record.name.startswith("nerve")
        ]
        assert "quantises with one scale for a whole batch (DynamicQuantizeLinear)" in said
        windows = [Window([2, index, 5 + index, 3], 0) for index in range(4, 12)]
        alone = [engine.model.backend.run([window], True)[0].logits for window in windows]
        beside = [scores.logits for scores in engine.model.backend.run(windows, True)]
        assert not np.array_equal(alone, beside)  # the fault is real
        texts = ["anna in paris", "bob sees a york", "new the maria", "lives x y in"] * 8
        options = PredictOptions(raw_scores=True)
        answers = [submit(engine, [text], options) for text in texts]
        for text, answer in zip(texts, answers, strict=True):
            assert collect(engine, answer).rows == collect(engine, submit(engine, [text], options)).rows
    finally:
        engine.close()


def test_quantised_branch_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Operators inside a branch or a loop count as those outside."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        out: Any = helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [out])

    dynamic = branch(
        "dynamic",
        helper.make_node("DynamicQuantizeLinear", ["found"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["out_dynamic"]),
    )
    plain = branch("plain", helper.make_node("Identity", ["found"], ["out_plain"]))
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["logits"], then_branch=dynamic, else_branch=plain),
    ]
    model, _ = open_model(rewrite(tmp_path / "model", nodes), runtime=STRIDE)
    assert limits(model)[0] == 1
    assert "DynamicQuantizeLinear" in caplog.text
