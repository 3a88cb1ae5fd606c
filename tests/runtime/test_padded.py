from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders import LABELS, SURE, write_lookup_model
from nerve.config import Device
from nerve.errors import ModelError
from nerve.runtime.devices import CPU, choose_provider
from nerve.runtime.padded import Session, best_labels, collate
from nerve.runtime.sessions import _INT8_PRODUCT, create_session
from nerve.types import Window

TABLE = np.array([[9, 0, 0], [0, 2, 1], [1, 0, 3], [0, 0, 0]], np.float32)  # (V,L)
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def write_graph(
    path: Path,
    kind: int = TensorProto.INT64,
    inputs: tuple[str, ...] = ("input_ids",),
    n_labels: int | str = 3,
    output: str = "logits",
) -> Path:
    """Write a lookup graph whose logits have the attention mask, if it takes one, added."""
    shape = ["batch", "tokens"]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["looked_up"], axis=0)]
    last = "looked_up"
    for name in inputs[1:]:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{name}_float", "axis"], [f"{name}_column"]),
            helper.make_node("Add", [last, f"{name}_column"], [f"{name}_added"]),
        ]
        last = f"{name}_added"
    nodes.append(helper.make_node("Identity", [last], [output]))
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, [*shape, n_labels])
    stored = [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([2]), "axis")]
    graph = helper.make_graph(nodes, "lookup", values, [logits], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def open_session(path: Path, device: Device = Device.CPU) -> Session:
    """Open a graph as the model does."""
    return Session(path, device, device_id=0, pad_id=3, n_threads=1)


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Compute softmax the long way, in float64."""
    exponents = np.exp(logits.astype(np.float64))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize(
    "inputs",
    [
        ("input_ids",),
        ("input_ids", "attention_mask"),
        ("input_ids", "attention_mask", "token_type_ids"),
        ("input_ids", "token_type_ids"),
    ],
)
def test_every_kind_of_ready_graph_runs(tmp_path: Path, kind: int, inputs: tuple[str, ...]) -> None:
    """int32 and int64 graphs, with and without mask and types, give each window its own logits."""
    session = open_session(write_graph(tmp_path / "m.onnx", kind, inputs))
    rows = [[1, 2, 0], [2], [0, 1, 2, 1, 2]]
    results = session.run([Window(row, 0) for row in rows], needs_logits=True)
    for row, result in zip(rows, results, strict=True):
        # The mask is 1 on every real token, the types are 0: they show that both are fed as they must be.
        expected = TABLE[row] + (1 if "attention_mask" in inputs else 0)
        assert result.logits is not None
        np.testing.assert_array_equal(result.logits, expected)
        assert result.label_ids.tolist() == expected.argmax(-1).tolist()
        np.testing.assert_allclose(result.scores, softmax(expected).max(-1), rtol=1e-6)


def test_text_alone_equals_the_text_in_a_batch(rampart: Path) -> None:
    """Padding and neighbours change nothing of a window beyond the stated 1e-5 (Rampart's own graph)."""
    files = sorted(rampart.rglob("*.onnx"))
    session = Session(files[0], Device.CPU, 0, 0, 1)
    rng = np.random.default_rng(0)
    windows = [Window([101, *rng.integers(1000, 8000, n).tolist(), 102], 0) for n in (1, 7, 30, 64)]
    together = session.run(windows, needs_logits=True)
    for window, result in zip(windows, together, strict=True):
        (alone,) = session.run([window], needs_logits=True)
        assert alone.logits is not None
        assert result.logits is not None
        np.testing.assert_allclose(result.logits, alone.logits, atol=1e-5)


def test_logits_are_given_only_when_asked_for(tmp_path: Path) -> None:
    """Without need there is nothing to copy."""
    session = open_session(write_graph(tmp_path / "m.onnx"))
    (result,) = session.run([Window([1], 0)], needs_logits=False)
    assert result.logits is None
    assert result.label_ids.tolist() == [1]


def test_lookup_model_scores_as_worked_out_by_hand(tmp_path: Path) -> None:
    """The builders' model gives e^SURE / (e^SURE + L - 1) to the label of a word."""
    folder = write_lookup_model(tmp_path / "m")
    (result,) = open_session(folder / "model.onnx").run([Window([4, 7], 0)], needs_logits=False)
    expected = np.exp(SURE) / (np.exp(SURE) + len(LABELS) - 1)
    assert result.label_ids.tolist() == [1, 3]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-6)


def test_label_count_is_the_graphs(tmp_path: Path) -> None:
    """The last axis of the output, which onnxruntime works out even where the file leaves it open."""
    assert open_session(write_graph(tmp_path / "m.onnx", n_labels="labels")).n_labels == 3


def test_only_output_counts_as_logits(tmp_path: Path) -> None:
    """A graph whose single output has another name is read all the same."""
    session = open_session(write_graph(tmp_path / "m.onnx", output="output_0"))
    assert session.n_labels == 3
    assert session.run([Window([1], 0)], needs_logits=False)[0].label_ids.tolist() == [1]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.BOOL])
def test_inputs_that_are_not_integers_are_refused(tmp_path: Path, kind: int) -> None:
    """The message names the input and its type."""
    value = helper.make_tensor_value_info("input_ids", kind, ["batch", "tokens"])
    out = helper.make_tensor_value_info("logits", kind, ["batch", "tokens"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["logits"])], "g", [value], [out])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(tmp_path / "m.onnx"),
    )
    with pytest.raises(ModelError, match="input_ids is tensor"):
        open_session(tmp_path / "m.onnx")


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """What onnxruntime cannot load is a `ModelError`, not one of its own classes."""
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="onnxruntime cannot load the graph on cpu"):
        open_session(tmp_path / "m.onnx")


def write_int8_product(weight: np.ndarray[Any, Any] | None = None) -> bytes:
    """Return the graph c = MatMulInteger(a, b), with `weight` for b."""

    def value(name: str, kind: int, *shape: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    inputs = [value("a", TensorProto.UINT8, "m", "k"), value("b", TensorProto.INT8, "k", "n")]
    stored = [] if weight is None else [numpy_helper.from_array(weight, "b")]
    graph = helper.make_graph(
        [node], "g", inputs[: 2 - len(stored)], [value("c", TensorProto.INT32, "m", "n")], stored
    )
    opsets = [helper.make_opsetid("", 10)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=7).SerializeToString()
    return content


def test_the_stored_product_is_the_one_it_says() -> None:
    """The graph that shows how a CPU adds up stands in the code as bytes."""
    assert onnx.load_from_string(_INT8_PRODUCT) == onnx.load_from_string(write_int8_product())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_int8_products_are_exact_on_every_cpu(rows: int, sign: int) -> None:
    """Sums of the largest products do not fit in 16 bits, in which x86 CPUs without VNNI would add them."""
    weight = np.full((384, 48), sign * 127, np.int8)
    session = create_session(write_int8_product(weight), Device.CPU, 0, n_threads=1)
    (product,) = session.run(None, {"a": np.full((rows, 384), 255, np.uint8)})
    assert (product == sign * 384 * 255 * 127).all()


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has the CUDA provider")
def test_cuda_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    """A device that is asked for is proven: neither the choice nor the session falls back to the CPU."""
    with pytest.raises(ModelError, match=r"install nerve\[gpu\].* or set device: cpu"):
        choose_provider(Device.CUDA)
    with pytest.raises(ModelError, match="cuda"):
        open_session(write_graph(tmp_path / "m.onnx"), Device.CUDA)
    assert choose_provider(Device.AUTO) is CPU


def test_provider_is_named(tmp_path: Path) -> None:
    """/info prints what really runs."""
    assert open_session(write_graph(tmp_path / "m.onnx")).provider == "CPUExecutionProvider"


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_collate_then_split_is_the_identity(dtype: type[np.integer[Any]]) -> None:
    """Rows are padded on the right with the pad id, and their lengths give them back."""
    rows = [[5, 6, 7], [8], [9, 10]]
    ids, lengths = collate(rows, 3, dtype)
    assert ids.dtype == dtype
    assert ids.tolist() == [[5, 6, 7], [8, 3, 3], [9, 10, 3]]
    assert [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)] == rows


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_best_labels(dtype: type[np.floating[Any]]) -> None:
    """The smallest id wins a tie; large logits do not overflow; float16 is widened before softmax."""
    logits = np.array([[1, 1, 0], [-50000, 50000, 0], [0, 0, 0], [3, 1, 2]], dtype)
    label_ids, scores, values = best_labels(logits)
    assert label_ids.tolist() == [0, 1, 0, 0]
    assert scores.dtype == np.float32
    exact = softmax(logits[[0, 2, 3]])
    np.testing.assert_allclose(scores[[0, 2, 3]], exact.max(-1), rtol=1e-6)
    assert scores[1] == 1
    assert values.dtype == np.float32


@pytest.mark.parametrize("n_labels", [2, 9, 35, 300])
def test_best_labels_of_a_batch_are_those_of_each_window(n_labels: int) -> None:
    """To the bit: what shares a call does not change a score."""
    logits = np.random.default_rng(n_labels).normal(size=(5, 40, n_labels)).astype(np.float32) * 5
    label_ids, scores, _ = best_labels(logits)
    for b, n in enumerate((40, 1, 7, 36, 39)):
        alone_ids, alone_scores, _ = best_labels(logits[b, :n].copy())
        assert np.array_equal(label_ids[b, :n], alone_ids)
        assert np.array_equal(scores[b, :n], alone_scores)


def test_a_tie_after_softmax() -> None:
    """Logits that differ by less than softmax can show: the best logit wins, and both have its score."""
    label_ids, scores, _ = best_labels(np.array([[0, 1e-9]], np.float32))
    assert label_ids.tolist() == [1]
    assert scores.tolist() == [0.5]
