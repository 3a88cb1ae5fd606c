"""Pages and other origins in real servers, over RSGI and ASGI alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builders import ServerProcess
from nerve.pages import PATHS
from raw_http import metric

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
KEY = "a-key-of-many-letters"
ORIGIN, STRANGER = "https://app.example.com", "https://app.example.com.evil.example"
ASKS = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-api-key",
}


@pytest.fixture(params=["rsgi", "asgi"])
def guarded(request: pytest.FixtureRequest, serve: Callable[..., ServerProcess]) -> ServerProcess:
    """Return a server with a key and one origin that may call it."""
    settings = {"interface": request.param, "cors_origins": [ORIGIN], "access_log": True}
    return serve(environment={"NERVE_API_KEY": KEY}, server=settings)


def test_shells_of_pages_need_no_key(guarded: ServerProcess) -> None:
    """They hold no data; what they ask for does. A probe gets its health check at the same address."""
    client = guarded.client
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")
    assert page.headers["x-request-id"]
    assert "accept" in page.headers["vary"]
    probe = client.get("/")
    assert probe.json() == {"status": "ready"}
    assert "accept" in probe.headers["vary"]
    for path in PATHS:
        assert client.get(path).status_code == 200
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        kept = (
            client.get(path, headers={"if-none-match": head.headers["etag"]})
            if "etag" in head.headers
            else None
        )
        assert kept is None or (kept.status_code == 304 and "content-length" not in kept.headers)
    assert client.post("/docs", headers={"x-api-key": KEY}).status_code == 405
    assert client.get("/openapi.json", headers=BROWSER).status_code == 401
    assert client.post("/predict_tokens", json={"inputs": "Anna"}, headers=BROWSER).status_code == 401
    assert metric(guarded, 'nerve_requests_total{route="/docs",status="200"}') >= 2
    assert " /docs 200" in guarded.log() or "GET /docs 200" in guarded.log()


def test_pages_can_be_turned_off(serve: Callable[..., ServerProcess]) -> None:
    """`server.playground: false`: nothing but the API is left."""
    server = serve(server={"playground": False})
    assert server.client.get("/", headers=BROWSER).json() == {"status": "ready"}
    for path in PATHS:
        assert server.client.get(path).status_code == 404
    assert "/docs" not in server.client.get("/openapi.json").json()["paths"]


def test_page_comes_while_the_model_loads_and_says_nothing_of_it(serve: Callable[..., ServerProcess]) -> None:
    """Readiness is for the health check; the page waits for the model itself."""
    server = serve()
    assert server.client.get("/", headers=BROWSER).status_code == 200
    assert "rampart" not in server.client.get("/", headers=BROWSER).text


def test_origin_that_is_named_may_call(guarded: ServerProcess) -> None:
    """The question comes without a key and is answered; so is the call, errors included."""
    for path in ("/predict_tokens", "/info", "/", "/docs"):
        answer = guarded.client.options(path, headers=ASKS)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "content-type,x-api-key"
        assert "content-length" not in answer.headers
    for key, status in ((KEY, 200), ("wrong", 401)):
        answer = guarded.client.post(
            "/predict_tokens", json={"inputs": "Anna"}, headers={"origin": ORIGIN, "x-api-key": key}
        )
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"server-timing", "x-request-id"} <= set(
            answer.headers["access-control-expose-headers"].split(", ")
        )
        assert "origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
    assert metric(guarded, 'nerve_requests_total{route="/predict_tokens",status="204"}') == 1


@pytest.mark.parametrize(
    "origin", [STRANGER, "http://app.example.com", ORIGIN + ":8443", ORIGIN.upper(), "null", "*", ""]
)
def test_other_origins_may_not(guarded: ServerProcess, origin: str) -> None:
    """Origins are compared whole; whoever is not named is told nothing."""
    for answer in (
        guarded.client.options("/predict_tokens", headers={**ASKS, "origin": origin}),
        guarded.client.get("/health", headers={"origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "origin" in answer.headers["vary"]


def test_no_origin_may_call_unless_one_is_named(server: ServerProcess) -> None:
    """As shipped there is no such header, and OPTIONS is a method like any other."""
    asked = server.client.options("/predict_tokens", headers=ASKS)
    assert asked.status_code == 405
    answer = server.client.post("/predict_tokens", json={"inputs": "Anna"}, headers={"origin": ORIGIN})
    assert answer.status_code == 200
    for each in (asked, answer):
        assert not [name for name in each.headers if name.startswith("access-control-")]


def test_question_with_odd_headers_is_not_repeated(guarded: ServerProcess) -> None:
    """What is said back is a list of names and nothing else."""
    for odd in ('x"<script>', "a:b", "x" * 1_001):
        answer = guarded.client.options(
            "/predict_tokens", headers={**ASKS, "access-control-request-headers": odd}
        )
        assert answer.status_code == 204
        assert "access-control-allow-headers" not in answer.headers
