"""Predictions over HTTP without a server: requests whose bodies come when a test says, and a model behind a gate."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders import PATIENCE, Gate, hold, open_model
from nerve.config import Config
from nerve.endpoints import create_endpoints
from nerve.engine.engine import Engine
from nerve.errors import REASONS
from nerve.http.app import App
from nerve.http.request import Response
from nerve.http.routing import routes_of
from nerve.observability.metrics import Metrics

BODY = b'{"inputs": "anna lives in paris", "aggregation_strategy": "simple"}'


@dataclass(frozen=True)
class Answer:
    """One answer, in this process or over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)


class Probe:
    """A request without a server; its body arrives when `arrive` is called, or at once."""

    def __init__(self, body: bytes | None = BODY, **headers: str) -> None:
        self.method, self.path = "POST", "/predict_tokens"
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._body = body
        self._then: Callable[[bytes | None, Exception | None], None] | None = None
        self.gone: Callable[[], None] | None = None
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

    def arrive(self, body: bytes | None, error: Exception | None = None) -> None:
        """Give the body that was waited for."""
        assert self._then is not None
        self._then(body, error)

    def watch(self, gone: Callable[[], None]) -> None:
        """Keep who wants to know that the client left."""
        self.gone = gone
        self.is_watched.set()

    def leave(self) -> None:
        """Go, once that is watched for."""
        assert self.is_watched.wait(PATIENCE)
        assert self.gone is not None
        self.gone()

    def respond(self, response: Response) -> None:
        """Keep the answer."""
        self.answers.put(response)

    def answer(self) -> Response:
        """Wait for the answer."""
        return self.answers.get(timeout=PATIENCE)


def make_app(config: Config) -> App:
    """Make an application that has no model yet."""
    endpoints = create_endpoints(config)
    return App(config, None, Metrics(routes_of(endpoints), REASONS), endpoints)


@contextlib.contextmanager
def open_app(folder: Path, **sections: dict[str, Any]) -> Iterator[tuple[App, Gate]]:
    """Serve a model behind a gate, with one engine thread; the gate is opened at the end."""
    model, config = open_model(folder, **{"runtime": {"window_stride": 4}, **sections})
    held, gate = hold(model)
    app = make_app(config)
    app.start(held, config)
    try:
        yield app, gate
    finally:
        gate.opened.set()
        app.close()


def engine_of(app: App) -> Engine:
    """Return the engine of an application that is ready."""
    assert app._service is not None
    return app._service.engine


def send(app: App, request: Probe | None = None) -> Probe:
    """Hand a request over, as the server does."""
    request = request or Probe()
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
