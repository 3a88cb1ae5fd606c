"""A server's application without a server: one request after the other, answered by the lookup model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exchanges import Answer, Probe, open_app, send

MODEL = "lookup"


@pytest.fixture(scope="session")
def ask(lookup_model: Path) -> Iterator[Callable[..., Answer]]:
    """Return what asks an application that is ready: `ask("/ping")`, `ask("/redact", {"inputs": ...}, accept=...)`."""
    sections = {"model": {"name": MODEL}, "limits": {"max_inputs": 8, "max_body_bytes": 200_000}}
    checkpoint = {"checkpoint_repository": {"source": "LOCAL", "path": str(lookup_model)}, "device": "cpu"}
    sections["model"] |= checkpoint
    sections["server"] = {"vertex_health_route": "/aip/health", "vertex_predict_route": "/aip/predict"}
    with open_app(lookup_model, **sections) as (app, gate):
        gate.opened.set()

        def ask_app(path: str, body: object = None, method: str | None = None, **headers: str) -> Answer:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            request = Probe(raw or b"", **headers)
            request.method, request.path = method or ("GET" if raw is None else "POST"), path
            response = send(app, request).answer()
            return Answer(response.status, dict(response.headers), response.body)

        yield ask_app
