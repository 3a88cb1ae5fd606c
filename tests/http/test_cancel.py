"""The client that left, or whose deadline has passed, at each step of an exchange: nothing more is done for it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import PATIENCE, Gate
from exchanges import Probe, engine_of, open_app, send, wait_until
from nerve.endpoints.predict_tokens import PredictTokensCodec
from nerve.http.app import App

LARGE = json.dumps({"inputs": "anna lives in paris " * 1_000, "aggregation_strategy": "simple"}).encode()


@pytest.fixture
def gated(lookup_model: Path) -> Iterator[tuple[App, Gate]]:
    """Serve the lookup model behind a gate."""
    with open_app(lookup_model, batching={"max_queue_ms": None}) as opened:
        yield opened


@pytest.mark.parametrize("why", ["it leaves", "its deadline passes"])
def test_answer_that_waits_to_be_encoded_is_dropped(
    gated: tuple[App, Gate], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """Nobody wants its bytes any more."""
    app, gate = gated
    engine = engine_of(app)
    make_rows, run, release = engine.make_rows, engine.pool.run, threading.Event()
    steps: list[object] = []  # tokens, rows, bytes

    def hold_the_pool(*arguments: Any) -> Any:
        for _ in range(2):  # all of its threads, before the bytes are asked for
            run(lambda: release.wait(PATIENCE), lambda _: None, pytest.fail)
        return make_rows(*arguments)

    def note(*arguments: Any) -> Any:
        steps.append(run(*arguments))
        return steps[-1]

    monkeypatch.setattr(engine, "make_rows", hold_the_pool)
    monkeypatch.setattr(engine.pool, "run", note)
    monkeypatch.setattr(PredictTokensCodec, "encode", lambda *_: pytest.fail("nobody wants this"))
    headers = {"request_timeout_ms": "4000"} if why == "its deadline passes" else {}
    request = send(app, Probe(LARGE, **headers))
    assert gate.entered.acquire(timeout=PATIENCE)
    assert request.is_watched.wait(PATIENCE)
    gate.opened.set()
    wait_until(lambda: len(steps) == 3 and engine.pool._n_waiting == 3)
    if why == "it leaves":
        request.leave()
    assert request.answer().status == (499 if why == "it leaves" else 504)
    wait_until(lambda: engine.pool._n_waiting == 2)
    release.set()
    wait_until(lambda: engine.pool._n_waiting == 0)
    assert request.answers.empty()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_body_that_comes_after_the_deadline_is_not_worked_on(gated: tuple[App, Gate]) -> None:
    """It was answered before; nothing is queued for it."""
    app, gate = gated
    gate.opened.set()
    for body in (LARGE, b'{"inputs": "anna"}'):
        request = send(app, Probe(None, request_timeout_ms="30"))
        assert request.answer().status == 504
        request.arrive(body)
    app.close()
    assert gate.n_windows == 0
