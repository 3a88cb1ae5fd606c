"""A `content-length` that states no length is the client's mistake, whatever the server's interface."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import write_config
from nerve.errors import MalformedRequest
from nerve.http.request import stated_length
from nerve.http.rsgi import RsgiRequest
from nerve.server.worker import create_app
from raw_http import wait_until

BODY = b'{"inputs": "Anna"}'
WRONG = [
    "abc",
    "-1",
    "+18",
    "1_8",
    "18, 19",
    "18,",
    "",
    " ",
    "1.8",
    "0x12",
    "\u00b2",
    "\u0661\u0668",
    "18 18",
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0),
        ("18", 18),
        ("018", 18),
        (" 18 ", 18),
        ("18, 18", 18),
        ("9" * 5000, sys.maxsize),
    ],
)
def test_length_that_is_stated(value: str | None, expected: int | None) -> None:
    """One number, or the same one again."""
    assert stated_length(value) == expected


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_length(value: str) -> None:
    """Nothing of it is quoted."""
    with pytest.raises(MalformedRequest, match=r"^content-length must be one whole number of bytes$"):
        stated_length(value)


@pytest.mark.parametrize("value", WRONG)
def test_rsgi_request_says_so(value: str) -> None:
    """Granian lets some of them pass over HTTP/2."""
    scope: Any = SimpleNamespace(headers={"content-length": value}, method="POST", path="/", http_version="2")
    with pytest.raises(MalformedRequest):
        RsgiRequest(scope, SimpleNamespace()).read(10, lambda *_: None)  # type: ignore[arg-type]


Ask = Callable[..., tuple[int, dict[bytes, bytes], bytes]]


@pytest.fixture
def ask(lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask an application over ASGI, with headers that no server would let pass."""
    monkeypatch.setenv("NERVE_CONFIG", str(write_config(tmp_path / "config.yaml", lookup_model)))
    monkeypatch.setattr("nerve.server.worker.configure_logging", lambda _: None)
    monkeypatch.setattr("gc.freeze", lambda: None)  # pytest's process goes on to make garbage
    app = create_app()

    async def run(headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        loop = asyncio.get_running_loop()
        app._start(loop)
        await loop.run_in_executor(None, lambda: wait_until(is_ready, "the model is loaded"))
        scope = {"type": "http", "method": "POST", "path": "/predict_tokens", "headers": headers}
        pieces, sent = [{"type": "http.request", "body": body, "more_body": False}], []

        async def receive() -> dict[str, Any]:
            return pieces.pop() if pieces else await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await app({**scope, "http_version": "1.1"}, receive, send)
        finally:
            await loop.run_in_executor(None, app._close)
        head, content = sent
        return head["status"], dict(head["headers"]), content["body"]

    def is_ready() -> bool:
        worker = app._start.__self__  # type: ignore[attr-defined]
        return worker.app._service is not None

    return lambda *headers, body=BODY: asyncio.run(run(list(headers), body))


@pytest.mark.parametrize(
    "lengths",
    [[b"abc"], [b"-1"], [b"18", b"19"], [b"18, 19"], [b"\xff"], [b""], [b"1_8"]],
)
def test_asgi_answers_400(ask: Ask, lengths: list[bytes]) -> None:
    """Two headers that contradict each other, too."""
    status, headers, body = ask(*((b"content-length", length) for length in lengths))
    assert (status, b'"Validation"' in body) == (400, True)
    assert headers[b"connection"] == b"close"


def test_asgi_answers_413_to_a_length_beyond_all_limits(ask: Ask) -> None:
    """However many digits it has."""
    assert ask((b"content-length", b"9" * 5000))[0] == 413


def test_asgi_answers_400_to_a_body_that_is_shorter_than_stated(ask: Ask) -> None:
    """Some servers do not look at that themselves."""
    status, _, body = ask((b"content-length", b"100"))
    assert (status, b"cut short" in body) == (400, True)


def test_asgi_takes_the_same_length_twice(ask: Ask) -> None:
    """RFC 9110, 8.6."""
    status, headers, _ = ask((b"content-length", b"18"), (b"content-length", b"18"))
    assert status == 200
    assert b"connection" not in headers
