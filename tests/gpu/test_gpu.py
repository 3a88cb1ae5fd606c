"""The CUDA path on a card: answers, captured graphs, shapes without one, lack of memory, the server."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builders import ServerProcess, open_engine, predict_blocking
from nerve.config import Device, Precision
from nerve.graph import load_graph
from nerve.runtime.devices import CUDA
from nerve.runtime.faults import is_out_of_memory
from nerve.runtime.packed import PackedSession
from nerve.runtime.packing import StepLimits, round_up
from nerve.runtime.padded import Session
from nerve.types import PredictOptions, TokenScores, Window

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
TINY_LIMITS = StepLimits(max_length=40, max_sequences=8, max_tokens=256)
LIMITS = StepLimits(max_length=256, max_sequences=16, max_tokens=1024)
N_WORDS, N_HIDDEN, N_INNER, N_LAYERS, N_LABELS = 1000, 768, 3072, 4, 9


def open_on_gpu(folder: Path, precision: Precision, limits: StepLimits) -> PackedSession:
    """Open the packed graph of a checkpoint on the GPU."""
    graph = load_graph(folder, precision, folder / "cache", provider=CUDA)
    return PackedSession(graph.source, Device.CUDA, 0, limits)


def open_on_cpu(folder: Path) -> Session:
    """Open the reference: float32 on the CPU."""
    return Session(load_graph(folder, Precision.FLOAT32, folder / "cache").source, Device.CPU, 0, pad_id=0)


def random_windows(rng: np.random.Generator, n_windows: int, longest: int, n_words: int) -> list[Window]:
    """Make windows of random ids and lengths; each window is within the limits of the model."""
    lengths = rng.integers(3, longest, n_windows)
    return [Window(rng.integers(0, n_words, length).tolist(), 0) for length in lengths]


def assert_near(ours: list[TokenScores], theirs: list[TokenScores], tolerance: float) -> None:
    """Logits agree within `tolerance`, and labels wherever the reference is sure by twice that."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.logits is not None
        assert other.logits is not None
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=tolerance)
        best = np.sort(other.logits, axis=1)
        is_sure = best[:, -1] - best[:, -2] > 2 * tolerance
        np.testing.assert_array_equal(one.label_ids[is_sure], other.label_ids[is_sure])


def assert_same_bits(ours: list[TokenScores], theirs: list[TokenScores]) -> None:
    """Two runs of the same step gave the same numbers."""
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.label_ids, other.label_ids)
        np.testing.assert_array_equal(one.scores, other.scores)
        if one.logits is not None and other.logits is not None:
            np.testing.assert_array_equal(one.logits, other.logits)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT with the layers of BERT-base, whose heads of 64 take the fused kernels."""
    folder = tmp_path_factory.mktemp("bert")
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) * 0.03).astype(np.float32)

    tensors = {
        "bert.embeddings.word_embeddings.weight": draw(N_WORDS, N_HIDDEN),
        "bert.embeddings.position_embeddings.weight": draw(512, N_HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": draw(2, N_HIDDEN),
        "classifier.weight": draw(N_LABELS, N_HIDDEN),
        "classifier.bias": draw(N_LABELS),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for index in range(N_LAYERS):
        layer = f"bert.encoder.layer.{index}."
        sizes = {f"attention.self.{name}": (N_HIDDEN, N_HIDDEN) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (N_HIDDEN, N_HIDDEN)}
        sizes |= {"intermediate.dense": (N_INNER, N_HIDDEN), "output.dense": (N_HIDDEN, N_INNER)}
        for name, (out, into) in sizes.items():
            tensors |= {f"{layer}{name}.weight": draw(out, into), f"{layer}{name}.bias": draw(out)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    for norm in norms:
        tensors |= {f"{norm}.weight": 1 + draw(N_HIDDEN), f"{norm}.bias": draw(N_HIDDEN)}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 12,
        "hidden_size": N_HIDDEN,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "id2label": {str(index): f"L{index}" for index in range(N_LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def half(bert: Path) -> PackedSession:
    """Open the BERT in float16, captured."""
    return open_on_gpu(bert, Precision.FLOAT16, LIMITS)


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.FLOAT32, 1e-3), (Precision.FLOAT16, 0.15)], ids=["f32", "f16"]
)
def test_every_architecture_answers_as_on_the_cpu(
    case: str, precision: Precision, tolerance: float, tmp_path: Path
) -> None:
    """Steps of many shapes on small heads give the CPU's logits, captured and not."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    gpu, cpu = open_on_gpu(folder, precision, TINY_LIMITS), open_on_cpu(folder)
    assert gpu.provider == "CUDAExecutionProvider"
    rng = np.random.default_rng(1)
    for n_windows in (1, 2, 5, 8):
        windows = random_windows(rng, n_windows, 30, tiny.N_WORDS)
        expected = cpu.run(windows, needs_logits=True)
        assert_near(gpu.run(windows, needs_logits=True), expected, tolerance)
        assert_near(gpu.run_uncaptured(windows, needs_logits=True), expected, tolerance)


def test_fused_kernels_answer_as_the_cpu(bert: Path, half: PackedSession) -> None:
    """With heads of 64 in float16, from one token to full windows, logits are the CPU's within 0.05."""
    cpu = open_on_cpu(bert)
    rng = np.random.default_rng(2)
    for n_windows, longest in ((1, 5), (1, 40), (3, 40), (1, 256), (4, 200), (16, 40)):
        windows = random_windows(rng, n_windows, longest, N_WORDS)
        expected = cpu.run(windows, needs_logits=True)
        assert_near(half.run(windows, needs_logits=True), expected, 0.05)


def test_every_captured_step_replays_what_an_eager_run_gives(half: PackedSession) -> None:
    """In every bucket: a replay equals a run without capture, and itself when other steps came between."""
    rng = np.random.default_rng(3)
    for bucket in half.buckets:
        n_windows = max(1, bucket.sequences // 2)
        room = min(bucket.longest, LIMITS.max_length, (bucket.tokens - bucket.sequences) // n_windows)
        if room < 4:
            n_windows, room = 1, min(bucket.longest, bucket.tokens - bucket.sequences)
        windows = [Window(rng.integers(0, N_WORDS, room).tolist(), 0) for _ in range(n_windows)]
        first = half.run(windows, needs_logits=True)
        half.run(random_windows(rng, 3, 50, N_WORDS), needs_logits=False)
        assert_same_bits(half.run(windows, needs_logits=True), first)
        assert_same_bits(half.run(windows, needs_logits=False), first)
        assert_near(half.run_uncaptured(windows, needs_logits=True), first, 0.02)


def test_shapes_beyond_the_buckets(bert: Path, half: PackedSession) -> None:
    """More tokens, or more windows, than any captured step holds."""
    cpu = open_on_cpu(bert)
    rng = np.random.default_rng(4)
    for windows in (random_windows(rng, 20, 200, N_WORDS), random_windows(rng, 60, 6, N_WORDS)):
        expected = cpu.run(windows, needs_logits=True)
        assert_near(half.run(windows, needs_logits=True), expected, 0.05)
    # Captured steps are as they were before.
    windows = random_windows(rng, 2, 30, N_WORDS)
    assert_near(half.run(windows, needs_logits=True), cpu.run(windows, needs_logits=True), 0.05)


def has_memory_for(session: PackedSession, windows: list[Window]) -> bool:
    """Tell whether a step runs in one piece; any other failure is raised."""
    try:
        session.run_uncaptured(windows, needs_logits=False)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def test_step_without_memory_runs_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest step that the arena has no room for is computed in two, and the session goes on."""
    # A patch, since filling a real card would disturb whoever else uses it.
    limit = {"gpu_mem_limit": str(256 * 2**20)}
    settings = __import__("nerve.runtime.packed", fromlist=["_CUDA_SETTINGS"])._CUDA_SETTINGS
    monkeypatch.setattr("nerve.runtime.packed._CUDA_SETTINGS", settings | limit)
    session = open_on_gpu(tiny.write_checkpoint(tmp_path / "model"), Precision.FLOAT16, TINY_LIMITS)
    window = Window([7] * 40, 0)
    (expected,) = session.run([window], needs_logits=False)
    for power in range(6, 18):
        windows = [window] * 2**power
        if not has_memory_for(session, windows):
            break
    else:
        pytest.fail("256 MiB were enough for 5 million tokens")
    results = session.run(windows, needs_logits=False)
    assert len(results) == len(windows)
    for result in (results[0], results[-1]):
        np.testing.assert_array_equal(result.label_ids, expected.label_ids)


def test_steps_are_timed(half: PackedSession) -> None:
    """Every number of tokens has its time, and none takes longer than a second."""
    assert set(half.step_seconds) == {bucket.tokens for bucket in half.buckets}
    assert all(0 < seconds < 1 for seconds in half.step_seconds.values())
    assert round_up(max(half.step_seconds), 16) == max(half.step_seconds)


def test_token_agreement_of_the_default_model(rampart: Path) -> None:
    """The default model in float16 gives at least 99.9 % of tokens the label that float32 on the CPU gives."""
    texts = [
        f"{name} moved from {city} to {other} on 12 March {year}; call +1 555 {year} or write to x{year}@y.org."
        for year, (name, city, other) in enumerate(
            [("Anna Schmidt", "Berlin", "Rome"), ("Bob O'Neil", "Cork", "New York"), ("李雷", "北京", "上海")]
            * 40,
            1900,
        )
    ]
    gpu = open_engine(rampart, model={"device": "cuda", **_local(rampart)})
    cpu = open_engine(rampart, model={"device": "cpu", "precision": "float32", **_local(rampart)})
    try:
        assert gpu.model.precision is Precision.FLOAT16
        pairs = [
            (ours.results.keys(), theirs.results.keys())
            for text in texts
            for ours, theirs in zip(
                predict_blocking(gpu, [text], PredictOptions()).rows[0],
                predict_blocking(cpu, [text], PredictOptions()).rows[0],
                strict=True,
            )
        ]
    finally:
        gpu.close()
        cpu.close()
    assert sum(ours == theirs for ours, theirs in pairs) / len(pairs) >= 0.999


def _local(folder: Path) -> dict[str, Any]:
    return {"checkpoint_repository": {"source": "LOCAL", "path": str(folder)}}


def test_ready_graph_runs_padded_on_the_gpu(lookup_model: Path) -> None:
    """A graph that is not built from weights is served by the same session as on the CPU."""
    engine = open_engine(
        lookup_model, model={"device": "cuda", **_local(lookup_model)}, runtime={"window_stride": 4}
    )
    try:
        assert isinstance(engine.model.backend, Session)
        assert engine.model.backend.provider == "CUDAExecutionProvider"
        rows = predict_blocking(engine, ["Anna sees Paris"], PredictOptions()).rows[0]
        assert [list(row.results) for row in rows if row.token in ("Anna", "Paris")] == [["B-PER"], ["B-LOC"]]
    finally:
        engine.close()


def test_server_on_the_gpu(serve: Callable[..., ServerProcess], tmp_path: Path, lookup_model: Path) -> None:
    """A real server on the GPU gives the answers of the CPU, and says where they were computed."""
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup_model / name, folder / name)
    answers = []
    for device in ("cuda", "cpu"):
        server = serve(folder=folder, model={**_local(folder), "device": device, "precision": "float32"})
        info = server.client.get("/info").json()
        assert info["provider"] == ("CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider")
        answer = server.predict(["Anna lives in Paris", "x " * 100, "y"])
        assert answer.status_code == 200
        rows = [row for text in answer.json() for row in text]
        answers.append([(row["start"], row["end"], list(row["results"])) for row in rows])
    assert answers[0] == answers[1]
