"""bfloat16 on the CPU. `make test-openvino` runs what needs OpenVINO; where it is not installed, that is skipped."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders import write_lookup_model
from nerve.cli.checkup import _worth_of_bfloat16
from nerve.config import CpuMode, Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.runtime import openvino as module
from nerve.runtime.backend import Backend, GraphKind, OpenOptions
from nerve.runtime.devices import CPU, CPU_BFLOAT16, choose_provider
from nerve.scheduling.batching import BatchPolicy
from nerve.types import TokenScores, Window

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))


CASES = sorted(tiny.CASES)


def has_bfloat16() -> bool:
    """Tell whether OpenVINO is there, and has instructions for bfloat16 to use."""
    try:
        from openvino import Core  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(),
    reason="openvino is not installed here (make test-openvino), or this CPU has no bfloat16",
)


def open_in(precision: Precision, folder: Path, mode: CpuMode = CpuMode.AUTO) -> Backend:
    """Open a checkpoint on the CPU, with two threads."""
    provider = CPU_BFLOAT16 if precision is Precision.BFLOAT16 else CPU
    graph = load_graph(folder, precision, folder / "cache", provider=provider)
    policy = BatchPolicy(token_budget=512, max_batch_size=8, max_padding=0.05)
    return provider.open(OpenOptions(graph.source, graph.kind, 0, 0, 64, policy, None, 2, mode))


def largest_difference(ours: list[TokenScores], theirs: list[TokenScores]) -> float:
    """Return the largest difference of logits."""
    return max(
        float(np.abs(one.logits - other.logits).max())
        for one, other in zip(ours, theirs, strict=True)
        if one.logits is not None and other.logits is not None
    )


@needs_bfloat16
@pytest.mark.parametrize("case", CASES)
def test_openvino_computes_what_the_graph_says(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every family, with nothing rounded: logits are those of ONNX Runtime."""
    monkeypatch.setattr(module, "PRECISION", "f32")
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    windows = [Window(text, 0) for text in tiny.make_texts(case)]
    found, expected = (
        open_in(precision, folder).run(windows, needs_logits=True)
        for precision in (Precision.BFLOAT16, Precision.FLOAT32)
    )
    assert largest_difference(found, expected) < 1e-4


@needs_bfloat16
@pytest.mark.parametrize("case", ["bert", "roberta", "deberta-v2", "eurobert", "modernbert"])
def test_answers_are_near_those_of_float32(case: str, tmp_path: Path) -> None:
    """Alone and in a batch; scores are those of the logits, in float32."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    rounded, exact = open_in(Precision.BFLOAT16, folder), open_in(Precision.FLOAT32, folder)
    assert (rounded.provider, rounded.n_labels) == ("OpenVINO", exact.n_labels)
    windows = [Window(text, 0) for text in tiny.make_texts(case)]
    expected = exact.run(windows, needs_logits=True)
    spread = max(float(np.ptp(scores.logits)) for scores in expected if scores.logits is not None)
    for found in (
        rounded.run(windows, needs_logits=True),
        [rounded.run([w], True, True)[0] for w in windows],
    ):
        assert largest_difference(found, expected) < 0.1 * spread
        for scores in found:
            assert scores.logits is not None
            assert scores.logits.dtype == scores.scores.dtype == np.float32
            powers = np.exp(scores.logits - scores.logits.max(axis=-1, keepdims=True))
            np.testing.assert_allclose(
                scores.scores, (powers / powers.sum(-1, keepdims=True)).max(-1), rtol=1e-5
            )
            np.testing.assert_array_equal(scores.label_ids, scores.logits.argmax(-1))


@needs_bfloat16
def test_threads_and_modes_give_the_same(tmp_path: Path) -> None:
    """Calls at the same time do not mix, and a mode changes the speed only."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    windows = [Window(list(range(5, 5 + n)), 0) for n in (3, 9, 17, 30)]
    backends = [open_in(Precision.BFLOAT16, folder, mode) for mode in CpuMode]
    assert [backend.n_threads for backend in backends] == [
        1 if mode is CpuMode.LATENCY else 2 for mode in CpuMode
    ]
    expected = [backends[0].run([window], needs_logits=True)[0] for window in windows]
    for backend in backends:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(5):
                found = pool.map(lambda window, b=backend: b.run([window], needs_logits=True)[0], windows)
                assert largest_difference(list(found), expected) < 0.02
    assert all(scores.logits is None for scores in backends[0].run(windows, needs_logits=False))


@needs_bfloat16
def test_the_repositorys_own_graph_is_rounded_too(tmp_path: Path) -> None:
    """A graph in float32 that lies in the checkpoint is computed in bfloat16."""
    folder = write_lookup_model(tmp_path / "model")
    graph = load_graph(folder, Precision.BFLOAT16, tmp_path / "cache", provider=CPU_BFLOAT16)
    assert (graph.kind, graph.precision) == (GraphKind.READY, Precision.BFLOAT16)
    found = open_in(Precision.BFLOAT16, folder).run([Window([5, 6, 7], 0), Window([], 0)], needs_logits=True)
    expected = open_in(Precision.FLOAT32, folder).run(
        [Window([5, 6, 7], 0), Window([], 0)], needs_logits=True
    )
    np.testing.assert_array_equal(found[0].label_ids, expected[0].label_ids)
    assert len(found[1].scores) == 0


@needs_bfloat16
def test_bfloat16_is_refused_where_it_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason has both times; where it is faster the provider is the one for it."""
    monkeypatch.setattr(module, "compare_products", lambda: (0.012, 0.004))
    with pytest.raises(
        ModelError, match=r"bfloat16 is slower than float32 on this CPU: 12\.0 against 4\.0 ms"
    ):
        choose_provider("cpu", precision=Precision.BFLOAT16)
    monkeypatch.setattr(module, "compare_products", lambda: (0.004, 0.012))
    assert choose_provider("auto", precision=Precision.BFLOAT16) is CPU_BFLOAT16
    assert choose_provider("cpu", precision=Precision.FLOAT32) is CPU


@needs_bfloat16
def test_the_probe_compares_the_same_product() -> None:
    """Both times are of this machine, and differ by what bfloat16 brings, not by orders of magnitude."""
    ours, theirs = module.compare_products()
    assert 0.01 < ours / theirs < 100


@needs_bfloat16
def test_the_probe_is_not_misled_by_what_else_runs() -> None:
    """Else a server on a busy machine is refused its precision at one start, and given it at the next."""
    quiet = np.divide(*module.compare_products.__wrapped__())
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        busy = np.divide(*module.compare_products.__wrapped__())
    finally:
        for one in spinning:
            one.kill()
            one.wait()
    assert 0.6 < busy / quiet < 1.7


@needs_bfloat16
def test_doctor_says_what_bfloat16_brings() -> None:
    """With the figure of this machine."""
    assert re.search(r"computes a product \d+\.\d times as fast|is not faster here", _worth_of_bfloat16())


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends with what to install."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    module.compare_products.cache_clear()
    assert "nerve[openvino]" in _worth_of_bfloat16()
    with pytest.raises(ModelError, match=r"bfloat16, but .* install nerve\[openvino\]; use auto, float32"):
        choose_provider("cpu", precision=Precision.BFLOAT16)
