"""The life of a session that belongs to one thread, and of a device that fails, above the session."""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builders import open_engine, write_config
from nerve.config import Device, Precision
from nerve.engine.engine import Engine
from nerve.engine.in_process import collect, predict, submit
from nerve.errors import DeviceFailed, ModelError
from nerve.http.app import App
from nerve.http.request import Response
from nerve.runtime.backend import Backend, GraphKind, OpenOptions
from nerve.runtime.devices import CUDA
from nerve.runtime.packed import PackedSession
from nerve.scheduling.batching import BatchPolicy
from nerve.types import Prediction, PredictOptions, TokenScores, Window
from packed_reference import on_cpu

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
OPTIONS = PredictOptions()
STRIDE = {"window_stride": 4}


@pytest.fixture
def checkpoint(tmp_path: Path, lookup_model: Path) -> Path:
    """Folder of a tiny BERT with the words of the lookup model."""
    folder: Path = tiny.write_checkpoint(tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup_model / name, folder / name)
    return folder


@pytest.fixture
def open_packed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Load checkpoints as for a GPU: the row of CUDA, but with attention that the CPU has, on the CPU."""

    def open_twin(options: OpenOptions) -> PackedSession:
        assert options.kind is GraphKind.PACKED
        assert isinstance(options.source, bytes)
        return PackedSession.open(dataclasses.replace(options, source=on_cpu(options.source)), Device.CPU)

    twin = dataclasses.replace(CUDA, open=open_twin)

    def open_engine_over_it(folder: Path, **sections: dict[str, Any]) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr("nerve.models.loader.choose_provider", lambda *_: twin)
            return open_engine(folder, runtime=STRIDE, **sections)

    return open_engine_over_it


def test_packed_engine_answers_as_the_padded_one(
    checkpoint: Path, open_packed: Callable[..., Engine]
) -> None:
    """Texts of all lengths, many at once, with and without logits, get the rows of the CPU's engine."""
    texts = ["Anna", "Anna lives in Rome", "in " * 70, "Bob " * 9, "x y"] * 4
    padded = open_engine(checkpoint, runtime=STRIDE)
    packed = open_packed(checkpoint, batching={"max_batch_tokens": 128})
    assert packed.model.precision is Precision.FLOAT16

    async def ask_all(engine: Engine, options: PredictOptions) -> list[list[tuple[int, int, float]]]:
        answers = await asyncio.gather(*(predict(engine, [text], options) for text in texts))
        return [
            [(row.start, row.end, max(row.results.values())) for row in rows]
            for answer in answers
            for rows in answer.rows
        ]

    try:
        for options in (OPTIONS, PredictOptions(raw_scores=True)):
            pairs = zip(
                asyncio.run(ask_all(packed, options)), asyncio.run(ask_all(padded, options)), strict=True
            )
            for ours, theirs in pairs:
                assert np.array(ours) == pytest.approx(np.array(theirs), abs=0.02)
    finally:
        padded.close()
        packed.close()


def test_results_of_a_step_are_handed_over_at_once(
    checkpoint: Path, open_packed: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load the engine thread does nothing but steps, and answers are as alone."""
    packed = open_packed(checkpoint, batching={"max_batch_tokens": 48, "max_batch_size": 4})
    steps: list[int] = []
    run = packed._lane._run
    monkeypatch.setattr(
        packed._lane, "_run", lambda windows, *rest: steps.append(len(windows)) or run(windows, *rest)
    )
    texts = ["Anna lives in Rome", "Bob", "x y Anna in", "in " * 9] * 10

    handed: list[Any] = []
    answering = packed._answering
    assert answering is not None
    post = answering.post
    monkeypatch.setattr(answering, "post", lambda work: handed.append(work) or post(work))

    async def ask_all() -> list[Any]:
        return list(await asyncio.gather(*(predict(packed, [text], OPTIONS) for text in texts)))

    try:
        lone = {text: ask(packed, text).rows for text in texts[:4]}
        for text, answer in zip(texts, asyncio.run(ask_all()), strict=True):
            for ours, theirs in zip(answer.rows[0], lone[text][0], strict=True):
                assert (ours.start, ours.end) == (theirs.start, theirs.end)
                assert max(ours.results.values()) == pytest.approx(max(theirs.results.values()), abs=0.01)
        assert len(handed) <= len(steps) < 4 + len(texts)
    finally:
        packed.close()


def ask(engine: Engine, text: str) -> Prediction:
    """Answer one text."""
    return collect(engine, submit(engine, [text], OPTIONS))


def engine_threads() -> int:
    """Count the engine threads of this process; a test before this one may have left some."""
    return sum(thread.name.startswith("nerve-engine") for thread in threading.enumerate())


def test_packed_model_belongs_to_one_engine_thread(
    checkpoint: Path, open_packed: Callable[..., Engine]
) -> None:
    """It is opened and warmed up on the thread that serves it; that thread ends with the engine."""
    before = engine_threads()
    engine = open_packed(checkpoint, batching={"max_batch_tokens": 96, "max_batch_size": 4})
    model = engine.model
    assert isinstance(model.backend, PackedSession)
    assert model.policy == BatchPolicy(token_budget=96, max_batch_size=4, max_padding=1.0, is_packed=True)
    assert (model.n_threads, model.shares_cores) == (1, False)
    assert ask(engine, "Anna").rows
    with pytest.raises(RuntimeError, match="thread"):
        model.backend.run([Window([5], 0)], needs_logits=False)
    engine.close()
    assert engine_threads() == before


def test_budget_is_measured_unless_it_is_given(checkpoint: Path, open_packed: Callable[..., Engine]) -> None:
    """Without `max_batch_tokens` a step holds no more than was timed, and longer windows run all the same."""
    engine = open_packed(checkpoint, batching={"max_batch_size": 2})
    try:
        assert isinstance(engine.model.backend, PackedSession)
        assert 1 <= engine.model.policy.token_budget < max(engine.model.backend.step_seconds)
        assert len(ask(engine, "in " * 70).rows[0]) == 72
    finally:
        engine.close()


def test_engine_thread_ends_when_the_model_cannot_be_opened(
    checkpoint: Path, open_packed: Callable[..., Engine]
) -> None:
    """A refusal at start leaves no thread behind."""
    before = engine_threads()
    tensors = tiny.make_tensors("bert")
    tensors["classifier.bias"][0] = np.nan
    save_file(tensors, checkpoint / "model.safetensors")
    model = {"precision": "float32", "checkpoint_repository": {"source": "LOCAL", "path": str(checkpoint)}}
    with pytest.raises(ModelError, match="not finite"):
        open_packed(checkpoint, model=model, batching={"max_batch_tokens": 48})
    assert engine_threads() == before


class FailingSession(Backend):
    """A real session until its device is told to fail."""

    def __init__(self, session: Backend) -> None:
        self._session = session
        self.has_failed = False
        self.provider, self.n_labels = session.provider, session.n_labels

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute, or raise what a session raises after a sticky error."""
        if self.has_failed:
            raise DeviceFailed("the GPU has failed; this process ends")
        return self._session.run(windows, needs_logits, spread)


def test_failed_device_is_reported_once(lookup_model: Path) -> None:
    """Every request gets `DeviceFailed`; who runs the engine is told one time."""
    whole = open_engine(lookup_model, runtime=STRIDE)
    whole.close()
    session = FailingSession(whole.model.backend)
    told: list[int] = []
    model = dataclasses.replace(whole.model, backend=session, n_threads=1)
    engine = Engine(model, 10_000, on_failure=lambda: told.append(threading.get_ident()))
    assert ask(engine, "Anna").rows
    session.has_failed = True
    for _ in range(3):
        with pytest.raises(DeviceFailed):
            ask(engine, "Anna")
    engine.close()
    assert len(told) == 1
    assert told != [threading.get_ident()]


WORKER = """
import asyncio, dataclasses, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_device import FailingSession, ask_app
from nerve.checkpoint import ModelFolder
from nerve.config import cache_dir_of, load_config
from nerve.models.loader import load_model
from nerve.server.worker import Worker

config = load_config(Path(sys.argv[1]))
folder = ModelFolder(Path(config.model.checkpoint_repository.path), "lookup", "")
worker = Worker(config, None, folder)
model = load_model(config, folder, cache_dir_of(config))
session = FailingSession(model.backend)
worker._become_ready(dataclasses.replace(model, backend=session))

async def main():
    async def ask(method, path, body=b""):
        answer = await asyncio.to_thread(ask_app, worker.app, method, path, body)
        print(answer.status, answer.body.decode(), flush=True)
    await ask("POST", "/predict_tokens", b'{"inputs": "Anna"}')
    await ask("GET", "/health/ready")
    session.has_failed = True
    await ask("POST", "/predict_tokens", b'{"inputs": "Anna"}')
    await ask("GET", "/health/ready")
    await ask("GET", "/health/live")
    await asyncio.sleep(60)

asyncio.run(main())
"""


class Probe:
    """A request without a server."""

    def __init__(self, method: str, path: str, body: bytes) -> None:
        self.method, self.path, self._body = method, path, body
        self.answers: queue.SimpleQueue[Response] = queue.SimpleQueue()

    def header(self, name: str) -> str | None:
        """Send none."""
        return None

    def read(self, limit: int, then: Callable[[bytes | None, Exception | None], None]) -> None:
        """Give the body."""
        then(self._body, None)

    def watch(self, gone: Callable[[], None]) -> None:
        """Never leave."""

    def respond(self, response: Response) -> None:
        """Keep the answer."""
        self.answers.put(response)


def ask_app(app: App, method: str, path: str, body: bytes) -> Response:
    """Hand a request to the application and wait for its answer."""
    request = Probe(method, path, body)
    app.handle(request)
    return request.answers.get(timeout=20)


def test_failed_device_turns_readiness_off_and_ends_the_process(tmp_path: Path, lookup_model: Path) -> None:
    """The request gets 503 Unhealthy, readiness is off at once, and the worker ends with a failure."""
    config = write_config(tmp_path / "config.yaml", lookup_model, cpu={"threads": 1})
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", WORKER, config, tests, tests / "runtime", tests / "parity"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    answers = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [status for status, _ in answers] == ["200", "200", "503", "503", "200"], done.stderr
    assert "Unhealthy" in answers[2][1]
    assert "device has failed" in answers[3][1]
    assert "Anna" not in done.stderr + answers[2][1]
    assert done.returncode == 1
    assert "this worker ends" in done.stderr
