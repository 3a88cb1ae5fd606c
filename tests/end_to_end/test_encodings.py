"""Compressed bodies through the real server, by each interface."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

from builders import ServerProcess
from raw_http import GOOD_BODY, exchange, request_bytes

LARGE_BODY = json.dumps({"inputs": "anna lives in paris " * 2_000, "aggregation_strategy": "simple"}).encode()


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_encodings(serve: Callable[..., ServerProcess], interface: str) -> None:
    """A gzip body is decoded, within the limit; what is not decoded is named before the body has come."""
    server = serve(server={"interface": interface}, limits={"max_body_bytes": 100_000})
    for body in (GOOD_BODY, LARGE_BODY):
        plain = exchange(server, request_bytes(body))
        assert plain.status == 200
        assert (
            exchange(server, request_bytes(gzip.compress(body), "content-encoding: gzip")).body == plain.body
        )
        assert exchange(server, request_bytes(body, "content-encoding: identity")).body == plain.body
    for status, kind, request in (
        (413, "PayloadTooLarge", request_bytes(gzip.compress(bytes(100_001)), "content-encoding: gzip")),
        (400, "Validation", request_bytes(GOOD_BODY, "content-encoding: gzip")),
        (415, "UnsupportedMediaType", request_bytes(GOOD_BODY, "content-encoding: br", length=90_000)),
    ):
        answer = exchange(server, request)
        assert (answer.status, answer.json()["error_type"]) == (status, kind)
        if status == 415:
            assert answer.headers["accept-encoding"] == "gzip, identity"
            assert "content-encoding" in answer.json()["error"]
    metrics = server.client.get("/metrics").text
    assert 'nerve_rejections_total{reason="encoding"} 1.0' in metrics
    responses = server.client.get("/openapi.json").json()["paths"]["/predict_tokens"]["post"]["responses"]
    assert "accept-encoding" in responses["415"]["headers"]
