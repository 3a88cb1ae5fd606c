"""How many modules a reader must open to follow one request from the bytes of its body to those of its answer."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from builders import PATIENCE, write_config, write_lookup_model
from nerve.checkpoint import ModelFolder
from nerve.config import load_config
from nerve.endpoints import create_endpoints
from nerve.errors import REASONS
from nerve.http.app import App
from nerve.http.routing import routes_of
from nerve.http.rsgi import receive_with
from nerve.models.loader import load_model
from nerve.observability.metrics import Metrics

MOST_MODULES = 16
N_TOKENS = 36  # as a text of the benchmark has, the two special ones among them
TEXT = "Anna Maria lives in Paris and Bob sees the New York . " * 3
BODY = json.dumps({"inputs": TEXT.removesuffix("York . "), "aggregation_strategy": "simple"}).encode()


class Walk:
    """Notes every module of nerve of which a function is entered, on whichever thread, while it is told to."""

    def __init__(self) -> None:
        self.is_on = False
        self.modules: dict[str, list[str]] = {}  # and the functions

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """Be the profile function of a thread."""
        if self.is_on and event == "call":
            module = frame.f_globals.get("__name__", "")
            if module.startswith("nerve."):
                self.modules.setdefault(module, []).append(frame.f_code.co_qualname)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread, and those that are started within."""
        before = sys.getprofile(), threading.getprofile()
        sys.setprofile(self.note)
        threading.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(before[0])
            threading.setprofile(before[1])  # type: ignore[arg-type]


class Body:
    """What Granian gives to wait on; it is there at once."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back."""
        callback(self)

    def cancelled(self) -> bool:
        """Tell that it was not."""
        return False

    def result(self) -> bytes:
        """Return the body."""
        return BODY


class Leaving:
    """What Granian gives to wait on for the client's leaving; this client stays."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Never call back."""

    def cancel(self) -> None:
        """Do nothing."""


class Protocol:
    """Granian's side of one request."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[tuple[int, dict[str, str], bytes]] = queue.SimpleQueue()

    def __aiter__(self) -> Protocol:
        """Give the body in chunks."""
        return self

    def __anext__(self) -> Body:
        """Give the only chunk."""
        return Body()

    def client_disconnect(self) -> Leaving:
        """Give what never happens."""
        return Leaving()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Take the answer."""
        self.answers.put((status, dict(headers), body))


def ask(receive: Callable[[Any], None]) -> bytes:
    """Send the body as Granian does; returns the answer's."""
    headers = {"content-length": str(len(BODY)), "content-type": "application/json"}
    scope = SimpleNamespace(method="POST", path="/predict_tokens", http_version="1.1", headers=headers)
    protocol = Protocol()
    receive(SimpleNamespace(scope=scope, proto=protocol))
    status, told, body = protocol.answers.get(timeout=PATIENCE)
    assert status == 200, body
    assert told["x-compute-tokens"] == str(N_TOKENS)
    return body


def test_a_request_is_followed_through_few_modules(tmp_path: Path) -> None:
    """From bytes to bytes: no more than 16 modules, tokenizer, model and metrics among them."""
    folder = write_lookup_model(tmp_path / "model", max_length=512)
    config = load_config(write_config(tmp_path / "config.yaml", folder, cpu={"threads": 1}))
    endpoints = create_endpoints(config)
    walk = Walk()
    with walk.watching():
        app = App(config, None, Metrics(routes_of(endpoints), REASONS), endpoints)
        app.start(load_model(config, ModelFolder(folder, "test", ""), tmp_path), config)
        receive = receive_with(app.handle)
        try:
            first, _, _ = (ask(receive) for _ in range(3))  # fills the caches
            walk.is_on = True
            last = ask(receive)
            walk.is_on = False
        finally:
            app.close()
    assert last == first
    tokens = [row["token"] for row in json.loads(first)[0]]
    assert tokens[:4] == ["Anna Maria", "Paris", "Bob", "New York"]
    listed = "\n".join(
        f"{module}: {', '.join(dict.fromkeys(names))}" for module, names in sorted(walk.modules.items())
    )
    assert {"nerve.http.rsgi", "nerve.endpoints.predict_tokens", "nerve.text.tokenizer"} <= set(walk.modules)
    assert any(module.startswith("nerve.runtime.") for module in walk.modules)
    assert len(walk.modules) <= MOST_MODULES, f"{len(walk.modules)} modules:\n{listed}"
