"""A request that nobody waits for is dropped at whatever step it is: one handle, which no step overwrites."""

from __future__ import annotations

import math
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import PATIENCE, Gate
from exchanges import busy_pool, engine_of, open_app, wait_until
from nerve.engine.engine import Cancel, Engine
from nerve.engine.pool import Pool
from nerve.types import AggregationStrategy, PredictOptions

OPTIONS = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)
LARGE = ["anna lives in paris " * 1_000]  # for the pool, before the model and after it


@pytest.fixture
def gated(lookup_model: Path) -> Iterator[tuple[Engine, Gate]]:
    """Serve the lookup model behind a gate; what waits is not refused for its wait."""
    with open_app(lookup_model, batching={"max_queue_ms": None}) as (app, gate):
        yield engine_of(app), gate


def test_the_step_under_way_is_dropped() -> None:
    """Not the one before; once, and nothing begins any more."""
    told: list[int] = []
    cancel = Cancel()
    assert cancel.begin(lambda: told.append(1))
    assert cancel.begin(lambda: told.append(2))
    cancel.set()
    cancel.set()
    assert told == [2]
    assert not cancel.begin(lambda: told.append(3))
    cancel.set()
    assert told == [2]


def test_a_step_that_begins_while_the_request_is_dropped_is_not_missed() -> None:
    """Whichever of the two threads is first: the step is dropped, or it does not begin."""
    for _ in range(300):
        cancel, dropped, begun = Cancel(), threading.Event(), []
        ready = threading.Barrier(2)

        def begin(
            cancel: Cancel = cancel,
            ready: threading.Barrier = ready,
            begun: list[bool] = begun,
            dropped: threading.Event = dropped,
        ) -> None:
            ready.wait()
            begun.append(cancel.begin(dropped.set))

        thread = threading.Thread(target=begin)
        thread.start()
        ready.wait()
        cancel.set()
        thread.join()
        assert dropped.is_set() or begun == [False]


def test_dropped_work_of_the_pool_holds_nothing() -> None:
    """It waits for its turn as before, but the texts it had are free at once, and others may come."""

    class Held:
        """What the work holds."""

    pool = Pool()
    release = threading.Event()
    for _ in range(2):
        pool.run(lambda: release.wait(PATIENCE), lambda _: None, pytest.fail)
    cancel = Cancel()
    held = Held()
    gone = weakref.ref(held)
    pool.run(lambda held=held: pytest.fail(str(held)), pytest.fail, pytest.fail, cancel.begin)
    del held
    assert pool._n_waiting == 3
    cancel.set()
    assert gone() is None
    assert pool._n_waiting == 2
    assert pool.run(pytest.fail, pytest.fail, pytest.fail, cancel.begin) is None  # nothing begins any more
    release.set()
    pool.close()
    assert pool._n_waiting == 0


def test_dropped_before_it_is_tokenized(gated: tuple[Engine, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that waits for a thread is not tokenized."""
    engine, _ = gated
    with busy_pool(engine):
        call = engine.start(LARGE, OPTIONS, math.inf, pytest.fail)
        monkeypatch.setattr(engine, "tokenize", lambda *_: pytest.fail("nobody wants this"))
        assert engine.pool._n_waiting == 3
        call.cancel()
        assert engine.pool._n_waiting == 2
    wait_until(lambda: engine.pool._n_waiting == 0)
    assert engine.queued_tokens == 0


@pytest.mark.parametrize("texts", [LARGE, ["anna"]])
def test_dropped_while_it_is_tokenized(
    gated: tuple[Engine, Gate], monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """What came of it is not queued, on the pool and where the request came in."""
    engine, gate = gated
    gate.opened.set()
    cancel = Cancel()
    tokenize = engine.tokenize
    ended = threading.Event()

    def drop_meanwhile(*arguments: Any, **named: Any) -> Any:
        cancel.set()
        try:
            return tokenize(*arguments, **named)
        finally:
            ended.set()

    monkeypatch.setattr(engine, "tokenize", drop_meanwhile)
    engine.start(texts, OPTIONS, math.inf, lambda _: None, cancel)
    assert ended.wait(PATIENCE)
    wait_until(lambda: engine.pool._n_waiting == 0)
    assert (engine.queued_tokens, gate.n_windows) == (0, 0)


def test_dropped_while_it_is_queued(gated: tuple[Engine, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between the last look and the queue is not missed."""
    engine, gate = gated
    first: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.start(["anna"], OPTIONS, math.inf, first.put)
    assert gate.entered.acquire(timeout=PATIENCE)
    cancel = Cancel()
    lane = engine._lane
    submit = lane.submit

    def drop_before(job: Any) -> None:
        cancel.set()
        submit(job)

    monkeypatch.setattr(lane, "submit", drop_before)
    engine.start(["bob"], OPTIONS, math.inf, pytest.fail, cancel)
    assert engine.queued_tokens == 0
    gate.opened.set()
    first.get(timeout=PATIENCE)
    assert gate.n_windows == 1


def test_dropped_while_it_waits_for_the_model(gated: tuple[Engine, Gate]) -> None:
    """Its windows never run."""
    engine, gate = gated
    first: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.start(["anna"], OPTIONS, math.inf, first.put)
    assert gate.entered.acquire(timeout=PATIENCE)
    call = engine.start(["bob"], OPTIONS, math.inf, pytest.fail)
    assert engine.queued_tokens == 3
    call.cancel()
    assert engine.queued_tokens == 0
    gate.opened.set()
    first.get(timeout=PATIENCE)
    assert gate.n_windows == 1


def test_dropped_before_its_rows_are_made(
    gated: tuple[Engine, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the thread that queued the text notes its handle late: it must not hide that of the rows."""
    engine, gate = gated
    gate.opened.set()
    monkeypatch.setattr(engine, "make_rows", lambda *_: pytest.fail("nobody wants this"))
    run, rows_wait = engine.pool.run, threading.Event()

    def run_and_linger(work: Callable[[], Any], *rest: Any) -> Any:
        task = run(work, *rest)
        if threading.current_thread() is threading.main_thread():
            assert rows_wait.wait(PATIENCE)  # all later steps have begun before this call returns
        else:
            rows_wait.set()
        return task

    release = threading.Event()

    def hold_the_pool(*arguments: Any, **named: Any) -> Any:
        for _ in range(2):
            run(lambda: release.wait(PATIENCE), lambda _: None, pytest.fail)
        return tokenize(*arguments, **named)

    tokenize = engine.tokenize
    monkeypatch.setattr(engine, "tokenize", hold_the_pool)
    monkeypatch.setattr(engine.pool, "run", run_and_linger)
    call = engine.start(LARGE, OPTIONS, math.inf, pytest.fail)
    n_waiting = engine.pool._n_waiting
    call.cancel()
    assert engine.pool._n_waiting == n_waiting - 1
    release.set()
    wait_until(lambda: engine.pool._n_waiting == 0)
