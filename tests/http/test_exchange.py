"""Predictions under way, by the requests and answers that a server's interface sees; the model is real."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from builders import PATIENCE, Gate, hold, write_config
from exchanges import BODY, Probe, make_app, send
from nerve.checkpoint import ModelFolder
from nerve.config import Config, load_config
from nerve.errors import MalformedRequest
from nerve.http.app import App
from nerve.http.request import Response
from nerve.models.loader import load_model

# Long enough for the thread pool, and for many model calls.
LARGE_BODY = json.dumps({"inputs": "anna lives in paris " * 1_000, "aggregation_strategy": "simple"}).encode()


@pytest.fixture
def config(lookup_model: Path, tmp_path: Path) -> Config:
    """Make a configuration for the lookup model."""
    return load_config(
        write_config(
            tmp_path / "config.yaml",
            lookup_model,
            cpu={"threads": 1},
            batching={"max_queue_ms": None, "max_batch_tokens": 64},
        )
    )


@pytest.fixture
def gated(config: Config, lookup_model: Path, tmp_path: Path) -> Iterator[tuple[App, Gate]]:
    """Serve the lookup model behind a gate, with one engine thread."""
    model = load_model(config, ModelFolder(lookup_model, "test", ""), tmp_path)
    held, gate = hold(model)
    app = make_app(config)
    app.start(held, config)
    yield app, gate
    gate.opened.set()
    app.close()


def tokens(response: Response) -> list[str]:
    """Return the entities of an answer to one text."""
    assert response.status == 200, response.body
    return [row["token"] for row in json.loads(response.body)[0]]


def test_no_worker_is_ready_before_all_were(config: Config, lookup_model: Path, tmp_path: Path) -> None:
    """The next request may reach the worker that still loads; what was complete once need not stay so."""
    app = make_app(config)
    answers = [False, True, False]
    model = load_model(config, ModelFolder(lookup_model, "test", ""), tmp_path)
    app.start(model, config, is_complete=lambda: answers.pop(0))

    def ask() -> Response:
        probe = Probe()
        probe.method, probe.path = "GET", "/health/ready"
        return send(app, probe).answer()

    try:
        first = ask()
        assert (first.status, b"starting" in first.body) == (503, True)
        assert [ask().status, ask().status] == [200, 200]
    finally:
        app.close()


def test_request_of_a_client_that_left_is_dropped(gated: tuple[App, Gate]) -> None:
    """A request that waits is noticed when its client goes: it never runs, and is counted as 499."""
    app, gate = gated
    first = send(app)
    assert gate.entered.acquire(timeout=PATIENCE)
    second = send(app)
    second.leave()
    assert second.answer().status == 499
    gate.opened.set()
    assert tokens(first.answer()) == ["anna", "paris"]
    assert tokens(send(app).answer()) == ["anna", "paris"]
    assert gate.n_windows == 2
    assert second.answers.empty()


def test_large_request_of_a_client_that_left_is_dropped(
    gated: tuple[App, Gate], caplog: pytest.LogCaptureFixture
) -> None:
    """The windows that run end unseen, those that wait never run, and nothing is made of the scores of some."""
    app, gate = gated
    left = send(app, Probe(LARGE_BODY))
    assert gate.entered.acquire(timeout=PATIENCE)
    left.leave()
    assert left.answer().status == 499
    gate.opened.set()
    app.close()
    assert 0 < gate.n_windows < 100
    assert not [record.message for record in caplog.records if record.levelno >= logging.ERROR]


def hold_pool(app: App) -> threading.Event:
    """Keep all threads of the pool busy until the event is set."""
    assert app._service is not None
    release = threading.Event()
    for _ in range(2):
        app._service.engine.pool.run(lambda: release.wait(PATIENCE), lambda _: None, pytest.fail)
    return release


def test_client_that_leaves_while_its_text_waits_to_be_tokenized(gated: tuple[App, Gate]) -> None:
    """It is not tokenized any more, and its windows never run."""
    app, gate = gated
    gate.opened.set()
    assert len(tokens(send(app, Probe(LARGE_BODY)).answer())) == 2_000
    n_windows = gate.n_windows
    release = hold_pool(app)
    left = send(app, Probe(LARGE_BODY))
    left.leave()
    assert left.answer().status == 499
    release.set()
    app.close()
    assert gate.n_windows == n_windows


def test_large_body_is_not_read_on_the_servers_thread(gated: tuple[App, Gate]) -> None:
    """A body of a million lists is dear to read; others are answered meanwhile."""
    app, gate = gated
    gate.opened.set()
    release = hold_pool(app)
    lists = send(app, Probe(b'{"inputs":[' + b"[]," * 30_000 + b"[]]}"))
    assert tokens(send(app).answer()) == ["anna", "paris"]
    assert lists.answers.empty()
    release.set()
    assert lists.answer().status == 422


def test_client_that_leaves_before_its_answer_is_made(
    gated: tuple[App, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made of scores that nobody wants any more."""
    app, gate = gated
    left = send(app, Probe(LARGE_BODY))
    assert gate.entered.acquire(timeout=PATIENCE)
    assert left.is_watched.wait(PATIENCE)
    assert left.gone is not None
    assert app._service is not None
    pool = app._service.engine.pool
    monkeypatch.setattr(app._service.engine, "make_rows", lambda *_: pytest.fail("nobody wants this"))
    release = hold_pool(app)
    gate.opened.set()
    deadline = time.monotonic() + PATIENCE
    while pool._n_waiting < 3 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    left.gone()
    assert left.answer().status == 499
    assert pool._n_waiting == 2
    release.set()


def test_deadline_is_kept_while_the_request_waits(gated: tuple[App, Gate]) -> None:
    """504 within a few hundredths of a second of the deadline, once, and the window never runs."""
    app, gate = gated
    first = send(app)
    assert gate.entered.acquire(timeout=PATIENCE)
    started = time.monotonic()
    late = send(app, Probe(request_timeout_ms="50"))
    answer = late.answer()
    assert answer.status == 504
    assert 0.05 <= time.monotonic() - started < 5
    assert b"before the answer was ready" in answer.body
    gate.opened.set()
    assert tokens(first.answer()) == ["anna", "paris"]
    assert tokens(send(app).answer()) == ["anna", "paris"]
    assert gate.n_windows == 2
    assert late.answers.empty()


def test_a_client_may_wait_longer_than_the_default(
    config: Config, lookup_model: Path, tmp_path: Path
) -> None:
    """As long as it asks for, up to a limit; whoever asks for nothing has the default. 504 says what to do."""
    limits = msgspec.structs.replace(config.limits, request_timeout_ms=50, max_request_timeout_ms=400)
    config = msgspec.structs.replace(config, limits=limits)
    held, gate = hold(load_model(config, ModelFolder(lookup_model, "test", ""), tmp_path))
    app = make_app(config)
    app.start(held, config)
    started = time.monotonic()
    usual, patient = send(app), send(app, Probe(request_timeout_ms="60000"))
    answer = usual.answer()
    assert answer.status == 504
    assert b"more time with the header Request-Timeout-Ms" in answer.body
    assert patient.answer().status == 504
    assert 0.4 <= time.monotonic() - started < 30
    waiting = send(app, Probe(request_deadline_ms=str(int(time.time() * 1000) + 390)))
    gate.opened.set()
    assert tokens(waiting.answer()) == ["anna", "paris"]
    app.close()


def test_deadline_is_kept_while_the_body_arrives(gated: tuple[App, Gate]) -> None:
    """504 says so; a body that comes afterwards is not answered again."""
    app, gate = gated
    gate.opened.set()
    request = send(app, Probe(body=None, request_timeout_ms="30"))
    answer = request.answer()
    assert answer.status == 504
    assert b"whole body" in answer.body
    request.arrive(BODY)
    request.arrive(None, MalformedRequest("cut"))
    assert tokens(send(app).answer()) == ["anna", "paris"]
    assert request.answers.empty()


def test_defect_of_the_interface_is_answered_once(gated: tuple[App, Gate]) -> None:
    """A request whose body cannot even be asked for gets its 500, and no second answer at its deadline."""

    class Broken(Probe):
        def read(self, limit: int, then: Callable[[bytes | None, Exception | None], None]) -> None:
            raise RuntimeError("no body")

    app, _ = gated
    request = send(app, Broken(request_timeout_ms="30"))
    assert request.answer().status == 500
    assert send(app, Probe(body=None, request_timeout_ms="100")).answer().status == 504
    assert request.answers.empty()


def test_watch_sleeps_and_wakes(gated: tuple[App, Gate]) -> None:
    """After a second without requests, deadlines are kept as before."""
    app, gate = gated
    gate.opened.set()
    assert tokens(send(app).answer()) == ["anna", "paris"]
    in_flight = app._in_flight
    deadline = time.monotonic() + PATIENCE
    while in_flight._is_awake and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not in_flight._is_awake
    assert send(app, Probe(body=None, request_timeout_ms="30")).answer().status == 504
    assert in_flight._is_awake


@pytest.mark.parametrize(
    ("body", "error", "status"), [(None, None, 413), (b"", MalformedRequest("cut"), 400)]
)
def test_body_that_cannot_be_read(
    gated: tuple[App, Gate], body: bytes | None, error: Exception | None, status: int
) -> None:
    """Too large a body and one that is cut short get their statuses, and cost nothing."""
    app, gate = gated
    request = send(app, Probe(body=None))
    request.arrive(None if error is not None else body, error)
    assert request.answer().status == status
    assert gate.n_windows == 0


@pytest.mark.parametrize("others_wait", [False, True])
def test_answered_request_is_let_go_of(gated: tuple[App, Gate], others_wait: bool) -> None:
    """No thread that looked at it keeps it, its text and the connection's objects, until the next one comes.

    On a server that is never idle it is not kept until its deadline either.
    """
    app, gate = gated
    other = send(app, Probe(body=None)) if others_wait else None
    request = send(app)
    assert request.is_watched.wait(PATIENCE)
    gate.opened.set()
    assert tokens(request.answer()) == ["anna", "paris"]
    request.gone = request._then = None  # the stand-in's own way back to what holds it
    gone = weakref.ref(request)
    gc.disable()
    try:
        del request
        deadline = time.monotonic() + 30
        while gone() is not None and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert gone() is None
    finally:
        gc.enable()
    if other is not None:
        other.arrive(BODY)
        assert tokens(other.answer()) == ["anna", "paris"]


def test_requests_from_many_threads_get_their_own_answers(gated: tuple[App, Gate]) -> None:
    """Any thread may hand requests over; each is answered once, with its own entities, and all are counted."""
    app, gate = gated
    gate.opened.set()
    names = ["anna", "paris", "new york", "bob"]
    sent: list[tuple[str, Probe]] = []

    def client(name: str) -> None:
        for _ in range(50):
            body = json.dumps({"inputs": f"x {name} x", "aggregation_strategy": "simple"}).encode()
            sent.append((name, send(app, Probe(body))))

    threads = [threading.Thread(target=client, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, request in sent:
        assert tokens(request.answer()) == [name]
    counted = app._metrics.render(0, 0).decode()
    assert 'route="/predict_tokens",status="200"} 200.0' in counted
    assert "nerve_texts_total 200.0" in counted
