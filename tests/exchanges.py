"""Predictions over HTTP without a server: requests whose bodies come when a test says, and a model behind a gate."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from builders import PATIENCE, open_model
from nerve.endpoints import create_endpoints
from nerve.engine.engine import Engine
from nerve.errors import REASONS
from nerve.http.app import App, routes_of
from nerve.http.request import Response
from nerve.observability.metrics import Metrics
from nerve.runtime.backend import Backend
from nerve.types import TokenScores, Window


class Gate(Backend):
    """The backend of a real model, behind a gate. `entered` counts the calls that have come to it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.provider = backend.provider
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.n_windows = 0

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Wait for the gate, then compute."""
        self.entered.release()
        assert self.opened.wait(PATIENCE)
        self.n_windows += len(windows)
        return self._backend.run(windows, needs_logits)


class Probe:
    """A request without a server; its body arrives when `arrive` is called, or at once."""

    def __init__(self, body: bytes | None, **headers: str) -> None:
        self.method, self.path = "POST", "/predict_tokens"
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._body = body
        self._then: Callable[[bytes | None, Exception | None], None] | None = None
        self._gone: Callable[[], None] | None = None
        self.is_watched = threading.Event()
        self.answers: queue.SimpleQueue[Response] = queue.SimpleQueue()

    def header(self, name: str) -> str | None:
        """Return a header."""
        return self._headers.get(name)

    def read(self, limit: int, then: Callable[[bytes | None, Exception | None], None]) -> None:
        """Give the body, or keep who wants it."""
        self._then = then
        if self._body is not None:
            then(self._body, None)

    def arrive(self, body: bytes) -> None:
        """Give the body that was waited for."""
        assert self._then is not None
        self._then(body, None)

    def watch(self, gone: Callable[[], None]) -> None:
        """Keep who wants to know that the client left."""
        self._gone = gone
        self.is_watched.set()

    def leave(self) -> None:
        """Go, once that is watched for."""
        assert self.is_watched.wait(PATIENCE)
        assert self._gone is not None
        self._gone()

    def respond(self, response: Response) -> None:
        """Keep the answer."""
        self.answers.put(response)

    def answer(self) -> Response:
        """Wait for the answer."""
        return self.answers.get(timeout=PATIENCE)


@contextlib.contextmanager
def open_app(folder: Path, **sections: dict[str, Any]) -> Iterator[tuple[App, Gate]]:
    """Serve a model behind a gate, with one engine thread; the gate is opened at the end."""
    model, config = open_model(folder, **{"runtime": {"window_stride": 4}, **sections})
    gate = Gate(model.backend)
    endpoints = create_endpoints(config)
    app = App(config, None, Metrics(routes_of(endpoints), REASONS), endpoints)
    app.start(dataclasses.replace(model, backend=gate, n_threads=1), config)
    try:
        yield app, gate
    finally:
        gate.opened.set()
        app.close()


def engine_of(app: App) -> Engine:
    """Return the engine of an application that is ready."""
    assert app._service is not None
    return app._service.engine


def send(app: App, request: Probe) -> Probe:
    """Hand a request over, as the server does."""
    app.handle(request)
    return request


@contextlib.contextmanager
def busy_pool(engine: Engine) -> Iterator[None]:
    """Keep all threads of the pool busy, so that further work waits."""
    release = threading.Event()
    entered = threading.Semaphore(0)

    def wait() -> None:
        entered.release()
        assert release.wait(PATIENCE)

    for _ in range(2):
        engine.pool.run(wait, lambda _: None, print)
        assert entered.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        release.set()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
