"""Large requests over HTTP: their Python work is done on the thread pool."""

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from builders import ServerProcess
from raw_http import exchange, metric, request_bytes, wait_until

SMALL = "anna lives in paris . "
LARGE = {"inputs": [SMALL * 2_000, "bob", SMALL * 2_000], "aggregation_strategy": "simple"}


def test_large_answers_are_those_of_small_ones(server: ServerProcess) -> None:
    """Rows, headers and counts of a large request are what its texts give one by one."""
    before = metric(server, "nerve_texts_total")
    answer = server.client.post("/predict_tokens", json=LARGE)
    assert answer.status_code == 200
    first, bob, last = answer.json()
    assert first == last
    assert [row["token"] for row in first] == ["anna", "paris"] * 2_000
    assert bob == server.predict("bob", aggregation_strategy="simple").json()[0]
    assert int(answer.headers["x-compute-tokens"]) > 20_000
    assert "tokenize;dur=" in answer.headers["server-timing"]
    assert metric(server, "nerve_texts_total") == before + 4
    packed = server.client.post(
        "/predict_tokens",
        content=msgspec.msgpack.encode(LARGE),
        headers={"content-type": "application/msgpack", "accept": "application/msgpack"},
    )
    assert msgspec.msgpack.decode(packed.content) == answer.json()
    cut = server.client.post("/predict_tokens", json={**LARGE, "truncate": True})
    assert cut.headers["x-truncated"] == "0,2"
    assert "error" not in server.log().lower()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs": "' + b"a " * 50_000, 400),
        (b'{"inputs": "' + b"\xff" * 100_000 + b'"}', 400),
        (b'{"inputs": "' + b"a " * 50_000 + b'", "secret": 1}', 422),
        (json.dumps({"inputs": [""] * 100_000}).encode(), 422),
        (json.dumps({"inputs": SMALL * 5_000}).encode(), 422),
        (b"[" * 100_000, 400),
    ],
    ids=["cut short", "not UTF-8", "unknown field", "too many texts", "too many tokens", "deep"],
)
def test_large_bodies_that_are_refused(server: ServerProcess, body: bytes, status: int) -> None:
    """A large bad body gets the answer of a small one, and the next request is served."""
    answer = exchange(server, request_bytes(body))
    assert (answer.status, answer.json()["error_type"]) == (status, "Validation")
    assert b"secret" not in answer.body
    assert server.predict("anna").status_code == 200


def test_large_body_cut_short(server: ServerProcess) -> None:
    """A client that stops sending in the middle of a large body gets 400."""
    answer = exchange(
        server, request_bytes(b'{"inputs": "' + b"a " * 200_000, length=900_000), half_close=True
    )
    assert (answer.status, answer.json()["error_type"]) == (400, "Validation")
    assert server.predict("anna").status_code == 200


def test_sigterm_answers_large_requests(serve: Callable[..., ServerProcess]) -> None:
    """A large request that was accepted before SIGTERM is answered."""
    server = serve()
    body = json.dumps(LARGE).encode()
    assert exchange(server, request_bytes(body)).status == 200
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(exchange, server, request_bytes(body)) for _ in range(2)]
        wait_until(lambda: metric(server, "nerve_queue_tokens") > 0 or answers[0].done(), "it is at work")
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().status for answer in answers] == [200, 200]
    server.client.close()
    assert server.process.wait(60) == 0
