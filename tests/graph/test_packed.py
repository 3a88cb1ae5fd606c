"""The packed CUDA graph, evaluated without a GPU, against the graph that the CPU runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import save_file

from nerve.config import Precision
from nerve.errors import ModelError
from nerve.graph import GraphKind, is_buildable, load_graph
from nerve.graph.architectures import FAMILIES
from nerve.runtime.devices import CPU, CUDA
from nerve.runtime.packing import Bucket, PackingRules, StepInputs, split_results
from nerve.types import TokenScores, Window
from packed_reference import ReferenceGraph, on_cpu

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
TOLERANCE = 1e-4
NOT_PACKED = frozenset({"openai_privacy_filter"})
CASES = [
    case
    for case, (model_type, changes) in tiny.CASES.items()
    if model_type not in NOT_PACKED and "conv_kernel_size" not in changes
]
PACKED = sorted(set(FAMILIES) - NOT_PACKED)
BUCKETS = [Bucket(64, 4, 32), Bucket(96, 8, 64)]


def load_packed(folder: Path, precision: Precision = Precision.FLOAT32) -> bytes:
    """Return the serialised packed graph of `folder`."""
    graph = load_graph(folder, precision, folder / "cache", provider=CUDA)
    assert graph.kind is GraphKind.PACKED
    assert isinstance(graph.source, bytes)
    return graph.source


def read_rules(source: bytes) -> PackingRules:
    """Return what the graph says of its inputs, as `PackedSession` reads it."""
    model = onnx.load_from_string(source)
    facts = {p.key: p.value for p in model.metadata_props}
    return PackingRules(
        n_words=int(facts["n_words"]),
        padding_id=int(facts["padding_id"]) if "padding_id" in facts else None,
        n_positions=int(facts["n_positions"]),
        has_distances=any(i.name == "distances" for i in model.graph.input),
    )


def run_packed(evaluate: Any, source: bytes, texts: list[list[int]], bucket: Bucket) -> list[TokenScores]:
    """Pack texts into a step of shape `bucket`, evaluate, and take the results apart."""
    inputs = StepInputs(bucket, read_rules(source))
    windows = [Window(text, 0) for text in texts]
    inputs.fill([Window([7] * (bucket.longest - 1), 0)])  # what an earlier step left must not matter
    inputs.fill(windows)
    label_ids, scores, logits = evaluate(dict(inputs.views))
    return split_results(windows, label_ids[:, 0], scores[:, 0], logits)


def run_built(folder: Path, text: list[int]) -> list[np.ndarray[Any, Any]]:
    """Return label ids, scores and logits of one text from the graph for the CPU."""
    graph = load_graph(folder, Precision.FLOAT32, folder / "cache")
    session = onnxruntime.InferenceSession(graph.source, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([text], np.int32), "lengths": np.array([len(text)], np.int32)}
    return [output[0] for output in session.run(["label_ids", "scores", "logits"], feeds)]


@pytest.mark.parametrize("case", CASES)
def test_packed_graph_gives_the_logits_of_the_built_one(case: str, tmp_path: Path) -> None:
    """In float32, whatever stands beside a text in its step, logits are equal within 1e-4."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    source = load_packed(folder)
    reference = ReferenceGraph(source)
    texts = tiny.make_texts(case)
    built = [run_built(folder, text) for text in texts]
    for bucket in BUCKETS:
        for chosen in ([0, 1, 2], [2, 0], [1]):
            answers = run_packed(reference.run, source, [texts[k] for k in chosen], bucket)
            for k, answer in zip(chosen, answers, strict=True):
                label_ids, scores, logits = built[k]
                assert answer.logits is not None
                np.testing.assert_allclose(answer.logits, logits, rtol=0, atol=TOLERANCE)
                np.testing.assert_array_equal(answer.label_ids, label_ids)
                np.testing.assert_allclose(answer.scores, scores, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", PACKED)
def test_float16_graph_is_near_float32(case: str, tmp_path: Path) -> None:
    """Weights and activations in float16 move logits by little; answers stay float32."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    source = load_packed(folder, Precision.AUTO)
    graph = onnx.load_from_string(source).graph
    assert onnx.TensorProto.FLOAT not in {i.data_type for i in graph.initializer}
    # It adds up in float16, where 1e-12 is 0 (docs/explanation/gpu.md).
    assert "EmbedLayerNormalization" not in {node.op_type for node in graph.node}
    session = onnxruntime.InferenceSession(on_cpu(source), providers=["CPUExecutionProvider"])

    def evaluate(inputs: dict[str, Any]) -> Any:
        return session.run(["label_ids", "scores", "logits"], inputs)

    texts = tiny.make_texts(case)
    for text, answer in zip(texts, run_packed(evaluate, source, texts, BUCKETS[0]), strict=True):
        assert answer.logits is not None
        assert answer.logits.dtype == answer.scores.dtype == np.float32
        np.testing.assert_allclose(answer.logits, run_built(folder, text)[2], rtol=0, atol=0.1)


@pytest.mark.parametrize("case", PACKED)
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.FLOAT32])
def test_graph_has_no_node_for_the_cpu(case: str, precision: Precision, tmp_path: Path) -> None:
    """No node computes a shape or depends on values for its shape: such nodes cannot be captured."""
    source = load_packed(tiny.write_checkpoint(tmp_path / "model", case), precision)
    operators = {node.op_type for node in onnx.load_from_string(source).graph.node}
    assert operators <= {
        *("EmbedLayerNormalization", "PackedAttention", "SkipLayerNormalization", "BiasGelu", "MatMul"),
        *("Add", "Reshape", "Softmax", "TopK", "Cast", "Gather", "Unsqueeze"),
        *(
            "PackedMultiHeadAttention",
            "RotaryEmbedding",
            "LayerNormalization",
            "SimplifiedLayerNormalization",
        ),
        *("Mul", "FastGelu", "Gelu", "QuickGelu", "Expand"),
        *("Slice", "Sub", "Min", "Transpose"),
    }


@pytest.mark.parametrize("case", sorted(NOT_PACKED))
def test_a_family_without_a_packed_form_says_so(case: str, tmp_path: Path) -> None:
    """On a GPU the message names what is missing and the way out."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    with pytest.raises(ModelError, match=r"no packed form for a GPU.*nerve export"):
        load_packed(folder)


@pytest.mark.parametrize("case", tiny.CASES)
def test_weights_without_a_packed_form_are_not_fetched_for_a_gpu(case: str, tmp_path: Path) -> None:
    """What is said of a config before anything is downloaded is what building its weights shows."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    config = tiny.make_config(case)
    try:
        load_packed(folder)
        has_form = True
    except ModelError:
        has_form = False
    assert bool(is_buildable(config, None, lambda: CUDA)) == has_form
    assert bool(is_buildable(config, folder, lambda: CUDA)) == has_form
    assert is_buildable(config, folder)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.BFLOAT16])
def test_unknown_precision_is_refused_on_cuda(precision: Precision, tmp_path: Path) -> None:
    """What the GPU cannot compute in is refused with what it can."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    with pytest.raises(ModelError, match="not available on cuda; use auto, float16 or float32"):
        load_graph(folder, precision, tmp_path, provider=CUDA)


def test_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    """A weight that would become infinite is an error that names the way out."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    tensors = tiny.make_tensors("bert")
    tensors["classifier.bias"][0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="float32"):
        load_packed(folder, Precision.FLOAT16)
    load_packed(folder, Precision.FLOAT32)


def test_precision_and_form_have_their_own_cache_entries(tmp_path: Path) -> None:
    """Graphs for CPU and GPU of one checkpoint do not stand in for each other."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    graphs = [
        load_graph(folder, precision, tmp_path, provider=provider).source
        for provider, precision in (
            (CPU, Precision.FLOAT32),
            (CUDA, Precision.FLOAT32),
            (CUDA, Precision.FLOAT16),
        )
    ]
    assert len(set(graphs)) == 3
