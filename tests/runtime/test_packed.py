"""`PackedSession` on the CPU: the packed graph with attention in standard operators, all else for real."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.runtime.devices import CUDA
from nerve.runtime.packed import WITHOUT, PackedSession
from nerve.runtime.packing import StepLimits
from nerve.runtime.padded import Session
from nerve.types import TokenScores, Window
from packed_reference import on_cpu

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
LIMITS = StepLimits(max_length=40, max_sequences=4, max_tokens=96)


def open_packed(folder: Path, change: Callable[[bytes], bytes] = on_cpu) -> PackedSession:
    """Open the packed graph of a checkpoint on the CPU."""
    graph = load_graph(folder, Precision.FLOAT32, folder / "cache", provider=CUDA)
    assert isinstance(graph.source, bytes)
    return PackedSession(change(graph.source), Device.CPU, 0, LIMITS)


def open_padded(folder: Path) -> Session:
    """Open the graph of a checkpoint that the CPU is served with."""
    return Session(load_graph(folder, Precision.FLOAT32, folder / "cache").source, Device.CPU, 0, pad_id=0)


def assert_near(ours: list[TokenScores], theirs: list[TokenScores]) -> None:
    """Check that two sessions gave the same answers."""
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.label_ids, other.label_ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        assert (one.logits is None) is (other.logits is None)
        if one.logits is not None and other.logits is not None:
            np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_steps_give_what_the_padded_session_gives(case: str, tmp_path: Path) -> None:
    """Steps of any number and length of windows, one after the other, with logits and without."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    packed, padded = open_packed(folder), open_padded(folder)
    assert (packed.n_labels, packed.provider) == (tiny.N_LABELS, "CPUExecutionProvider")
    rng = np.random.default_rng(3)
    for n_windows in (1, 4, 2, 1, 3):
        windows = [Window(rng.integers(0, 100, rng.integers(1, 25)).tolist(), 0) for _ in range(n_windows)]
        for needs_logits in (True, False):
            expected = padded.run(windows, needs_logits)
            assert_near(packed.run(windows, needs_logits), expected)
            assert_near(packed.run_uncaptured(windows, needs_logits), expected)


def test_results_of_a_step_survive_the_next_one(tmp_path: Path) -> None:
    """Answers do not lie in buffers that are used again."""
    session = open_packed(tiny.write_checkpoint(tmp_path / "model"))
    (first,) = session.run([Window([5, 6, 7], 0)], needs_logits=True)
    assert first.logits is not None
    before = first.label_ids.copy(), first.scores.copy(), first.logits.copy()
    session.run([Window([50, 60, 70], 0)], needs_logits=True)
    for kept, now in zip(before, (first.label_ids, first.scores, first.logits), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_scores_of_attention_that_would_be_too_many_are_computed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 a step whose scores have no room is split, and answers are the same."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    padded = open_padded(folder)
    heads = 4 * tiny.N_HEADS  # bytes of a score of each head
    monkeypatch.setattr("nerve.runtime.packed._SCORE_BYTES", 2 * 40 * 40 * heads)
    packed = open_packed(folder)
    assert {bucket.longest for bucket in packed.buckets} == {32}
    ran: list[int] = []
    eagerly = packed._run_eagerly
    monkeypatch.setattr(packed, "_run_eagerly", lambda w, n: ran.append(len(w)) or eagerly(w, n))
    windows = [Window(list(range(5, 5 + n)), 0) for n in (38, 3, 39, 37)]
    assert_near(packed.run(windows, needs_logits=True), padded.run(windows, needs_logits=True))
    assert ran == [1, 1, 1]  # the window of three tokens has a captured step


def test_shapes_beyond_the_buckets_run_uncaptured(tmp_path: Path) -> None:
    """More tokens or windows than any bucket holds are computed all the same."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    session, padded = open_packed(folder), open_padded(folder)
    for windows in ([Window([9] * 40, 0)] * 7, [Window([9, 8], 0)] * 30):
        assert max(bucket.tokens for bucket in session.buckets) < sum(len(w.ids) for w in windows) or len(
            windows
        ) > max(bucket.sequences for bucket in session.buckets)
        assert_near(session.run(windows, needs_logits=True), padded.run(windows, needs_logits=True))


def test_another_thread_is_refused(tmp_path: Path) -> None:
    """Captured graphs belong to the thread that made them; a call from elsewhere is a defect."""
    session = open_packed(tiny.write_checkpoint(tmp_path / "model"))
    errors: list[Exception] = []

    def run() -> None:
        try:
            session.run([Window([5], 0)], needs_logits=False)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "thread" in str(errors[0])


@pytest.mark.parametrize("case", ["bert", "electra"])
def test_no_product_is_fused_with_its_bias(case: str, tmp_path: Path) -> None:
    """On CUDA a Gemm reads memory that a longer step frees; captured graphs must hold none."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    graph = load_graph(folder, Precision.FLOAT16, folder / "cache", provider=CUDA)
    assert isinstance(graph.source, bytes)
    counts = []
    for without in ([], list(WITHOUT)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(
            on_cpu(graph.source), options, ["CPUExecutionProvider"], disabled_optimizers=without
        )
        nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
        counts.append(sum(node.op_type == "Gemm" for node in nodes))
    assert counts[0] > counts[1] == 0


def test_every_bucket_is_timed(tmp_path: Path) -> None:
    """The measured time of each number of tokens is there for choosing the budget."""
    session = open_packed(tiny.write_checkpoint(tmp_path / "model"))
    assert set(session.step_seconds) == {bucket.tokens for bucket in session.buckets}
    assert all(0 < seconds < 60 for seconds in session.step_seconds.values())


def test_cuda_graph_on_cpu_is_refused(tmp_path: Path) -> None:
    """`PackedAttention` has no kernel on the CPU: the session says so instead of failing later."""
    with pytest.raises(ModelError, match="cannot load the graph on cpu"):
        open_packed(tiny.write_checkpoint(tmp_path / "model"), change=lambda source: source)


def with_large_steps_failing(source: bytes) -> bytes:
    """Make a graph on the CPU ask for 16 TiB when two or more of its tokens are 99.

    onnxruntime's allocator refuses in earnest, with the text that it has for a full device as well.
    """
    model = onnx.load_from_string(on_cpu(source))
    stored = {
        "oom.id": np.array(99, np.int32),
        "oom.one": np.array(1, np.int64),
        "oom.none": np.array(0, np.int64),
        "oom.huge": np.array(2**42, np.int64),
        "oom.axis": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Equal", ["input_ids", "oom.id"], ["oom.is"]),
        helper.make_node("Cast", ["oom.is"], ["oom.is_n"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["oom.is_n"], ["oom.n"], keepdims=0),
        helper.make_node("Greater", ["oom.n", "oom.one"], ["oom.many"]),
        helper.make_node("Where", ["oom.many", "oom.huge", "oom.none"], ["oom.size"]),
        helper.make_node("Unsqueeze", ["oom.size", "oom.axis"], ["oom.shape"]),
        helper.make_node("ConstantOfShape", ["oom.shape"], ["oom.block"]),
        helper.make_node("ReduceSum", ["oom.block"], ["oom.sum"], keepdims=0),
    ]
    for node in model.graph.node:
        if node.output[0] == "logits":
            node.output[0] = "oom.logits"
    nodes.append(helper.make_node("Add", ["oom.logits", "oom.sum"], ["logits"]))
    last = [
        node for node in model.graph.node if node.op_type in ("Softmax", "TopK") and "logits" in str(node)
    ]
    first = min(list(model.graph.node).index(node) for node in last if "logits" in node.input)
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:first], *nodes, *kept[first:]])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return model.SerializeToString()


def test_step_without_memory_is_split_once(tmp_path: Path) -> None:
    """Two windows that together have no room are computed one by one; one alone fails."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    session = open_packed(folder, with_large_steps_failing)
    padded = open_padded(folder)
    windows = [Window([99, 5, 6], 0), Window([7, 99], 0)]
    assert_near(session.run(windows, needs_logits=True), padded.run(windows, needs_logits=True))
    for too_large in ([Window([99, 99], 0)], [Window([99, 99], 0), Window([5], 0)]):
        with pytest.raises(Exception, match="allocate"):
            session.run(too_large, needs_logits=False)
    assert session.run([Window([5], 0)], needs_logits=False)


def test_failing_capture_is_a_startup_error(tmp_path: Path) -> None:
    """A step that cannot be prepared ends the start and names the step."""

    def empty_table(source: bytes) -> bytes:
        model = onnx.load_from_string(on_cpu(source))
        table = next(i for i in model.graph.initializer if i.name == "words")
        table.dims[0], table.raw_data = 0, b""
        return model.SerializeToString()

    with pytest.raises(ModelError, match=r"the step of \d+ tokens cannot be prepared"):
        open_packed(tiny.write_checkpoint(tmp_path / "model"), empty_table)


def test_steps_that_do_not_repeat_end_the_start(tmp_path: Path) -> None:
    """A replay that gives other scores than an eager run is found before anything is served."""

    def with_noise(source: bytes) -> bytes:
        model = onnx.load_from_string(on_cpu(source))
        first = next(index for index, node in enumerate(model.graph.node) if "logits" in node.input)
        last = next(node for node in model.graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "noise.before"
        model.graph.node.insert(first, helper.make_node("Add", ["noise.before", "noise"], ["logits"]))
        model.graph.node.insert(
            first, helper.make_node("RandomNormalLike", ["noise.before"], ["noise"], scale=2.0)
        )
        return model.SerializeToString()

    with pytest.raises(ModelError, match=r"differ by [\d.]+ from those of an eager run"):
        open_packed(tiny.write_checkpoint(tmp_path / "model"), with_noise)


def test_unknown_token_id_fails_its_step_only(tmp_path: Path) -> None:
    """An id that the model does not have never reaches the device."""
    session = open_packed(tiny.write_checkpoint(tmp_path / "model"))
    with pytest.raises(ValueError, match="table of words"):
        session.run([Window([tiny.N_WORDS], 0)], needs_logits=False)
    assert session.run([Window([tiny.N_WORDS - 1], 0)], needs_logits=False)
