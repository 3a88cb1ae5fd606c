"""A model that stops to compute is noticed without a request, real calls are proof enough, and it may recover."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builders import open_engine, predict_blocking
from nerve.engine.canary import Canary
from nerve.engine.engine import Engine
from nerve.engine.in_process import collect, submit
from nerve.errors import DeviceFailed
from nerve.runtime.backend import Backend
from nerve.types import PredictOptions, TokenScores, Window

OPTIONS = PredictOptions()
PATIENCE = 20.0  # seconds after which a test gives up


class TroubledSession(Backend):
    """A real session that can be told to fail, to hang, or to give no numbers."""

    def __init__(self, session: Backend) -> None:
        self._session = session
        self.trouble = ""
        self.n_calls = 0
        self.released = threading.Event()
        self.provider, self.n_labels = session.provider, session.n_labels

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute, unless told otherwise."""
        self.n_calls += 1
        if self.trouble == "fails":
            raise RuntimeError("out of memory")
        if self.trouble == "hangs":
            self.released.wait(PATIENCE)
        results = self._session.run(windows, needs_logits, spread)
        if self.trouble == "not finite":
            return [TokenScores(one.label_ids, one.scores * float("nan"), one.logits) for one in results]
        return results


class Watched:
    """An engine over a troubled session, its canary, and what they told."""

    def __init__(self, folder: Path, interval: float, timeout: float) -> None:
        whole = open_engine(folder, runtime={"window_stride": 4})
        whole.close()
        self.session = TroubledSession(whole.model.backend)
        model = dataclasses.replace(whole.model, backend=self.session, n_threads=1)
        self.told: queue.SimpleQueue[bool | str] = queue.SimpleQueue()
        self.engine = Engine(model, 10_000, on_failure=lambda: self.told.put("failed"))
        self.canary = Canary(self.engine, interval, timeout, self.told.put)

    def next(self) -> bool | str:
        """Return what is told next."""
        return self.told.get(timeout=PATIENCE)


@pytest.fixture
def watch(lookup_model: Path) -> Iterator[Callable[..., Watched]]:
    """Start watched engines: `watch(interval=0.05, timeout=0.2)`; they end with the test."""
    started: list[Watched] = []

    def start(interval: float = 0.05, timeout: float = 0.4) -> Watched:
        started.append(Watched(lookup_model, interval, timeout))
        return started[-1]

    yield start
    for one in started:
        one.canary.stop()
        one.session.trouble = ""
        one.session.released.set()
        one.engine.close()


@pytest.mark.parametrize("trouble", ["fails", "hangs", "not finite"])
def test_trouble_is_told_and_ends_the_engine(watch: Callable[..., Watched], trouble: str) -> None:
    """Readiness goes first, and after the grace time the engine is given up: what waits and comes is refused."""
    grace = 3.0 if trouble == "hangs" else 0.4  # a request comes within it, however busy the machine is
    watched = watch(timeout=grace)
    watched.session.trouble = trouble
    started = time.monotonic()
    assert watched.next() is False
    waiting = submit(watched.engine, ["Anna"], OPTIONS) if trouble == "hangs" else None
    assert watched.next() == "failed"
    assert time.monotonic() - started >= grace
    assert watched.told.empty()
    with pytest.raises(DeviceFailed):
        submit(watched.engine, ["Anna"], OPTIONS)
    if waiting is not None:
        assert waiting.done.wait(PATIENCE)
        with pytest.raises(DeviceFailed):
            collect(watched.engine, waiting)


def test_model_that_recovers_is_told_of(watch: Callable[..., Watched]) -> None:
    """Trouble that passes within the grace time costs readiness for that time only."""
    watched = watch(timeout=5.0)
    watched.session.trouble = "fails"
    assert watched.next() is False
    watched.session.trouble = ""
    assert watched.next() is True
    assert predict_blocking(watched.engine, ["Anna"], OPTIONS).rows


def test_real_calls_spare_the_canary(watch: Callable[..., Watched]) -> None:
    """While requests are served the model is not asked; when none come, it is."""
    watched = watch(interval=0.3)
    for _ in range(10):
        before, n_own = watched.session.n_calls, 0
        begun = last = time.monotonic()
        longest = 0.0  # between two requests, on a busy machine
        while last < begun + 1.0:
            assert predict_blocking(watched.engine, ["Anna"], OPTIONS).rows
            n_own += 1
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        n_asked = watched.session.n_calls - before - n_own
        if longest < 0.2:
            break
    else:
        pytest.skip("this machine is too busy to send requests without a pause")
    assert n_asked == 0
    n_calls = watched.session.n_calls
    until = time.monotonic() + PATIENCE
    while watched.session.n_calls == n_calls:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert watched.told.empty()


def test_nothing_is_told_of_an_engine_that_is_closed(watch: Callable[..., Watched]) -> None:
    """A drain is no trouble."""
    watched = watch(interval=0.01)
    watched.canary.stop()
    watched.engine.close()
    time.sleep(0.2)
    assert watched.told.empty()
