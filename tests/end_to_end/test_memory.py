"""Large bodies, whatever is in them: memory stays bounded, short requests go on, what is too long is refused early."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess, start_server, workers_of, write_config, write_lookup_model

BODY_BYTES = 4 * 1024 * 1024
LEFT = BODY_BYTES - 100
WORDS = "anna lives in paris . "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server with its default limits."""
    folder = write_lookup_model(tmp_path_factory.mktemp("memory") / "model", max_length=512)
    started = start_server(
        write_config(folder.parent / "config.yaml", folder, runtime={"window_stride": 128})
    )
    yield started
    started.client.close()
    assert started.stop() == 0


def words(n_bytes: int) -> str:
    """Return a text of so many bytes."""
    return WORDS * (n_bytes // len(WORDS))


def body(**fields: object) -> bytes:
    """Encode a body without escapes."""
    return json.dumps(fields, ensure_ascii=False).encode()


def status_lines(server: ServerProcess) -> dict[str, int]:
    """Return the memory of the worker, in MB."""
    (worker,) = workers_of(server)
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    return {
        line.split(":")[0]: int(line.split()[1]) // 1024
        for line in lines
        if line.startswith(("VmHWM", "VmRSS"))
    }


@pytest.mark.parametrize(
    ("make", "status", "most_mb"),
    [
        (lambda: body(inputs=words(LEFT)), 422, 150),
        (lambda: body(inputs=words(LEFT), truncate=True), 200, 150),
        (lambda: body(inputs=words(LEFT), truncate=True, truncation_direction="Left"), 200, 150),
        # Twice limits.max_request_tokens (1,048,576) in Python lists, some 120 bytes a token.
        (lambda: body(inputs=[words(LEFT // 128 - 4)] * 128), 422, 300),
        (lambda: body(inputs=[words(LEFT // 128 - 4)] * 128, truncate=True), 200, 300),
        (lambda: body(inputs="!" * LEFT), 422, 150),
        (lambda: body(inputs="東京" * (LEFT // 6)), 422, 150),
        (lambda: body(inputs="あ、" * (LEFT // 6)), 422, 150),
        (lambda: body(inputs="[SEP]" * (LEFT // 5)), 422, 150),
        (lambda: body(inputs=" " * LEFT), 200, 150),
        (lambda: body(inputs="a" * LEFT), 200, 500),  # one word is not cut, but one at a time is taken
        (lambda: body(inputs=["a"] * (LEFT // 5)), 422, 250),
        (lambda: gzip.compress(body(inputs=words(LEFT)), 1), 422, 150),
    ],
    ids=[
        *(
            "words",
            "cut",
            "cut left",
            "texts",
            "texts cut",
            "punctuation",
            "Chinese",
            "kana",
            "special",
            "spaces",
        ),
        *("one word", "many texts", "gzip"),
    ],
)
def test_two_large_bodies_at_once(
    server: ServerProcess, make: Callable[[], bytes], status: int, most_mb: int
) -> None:
    """With the default limits they took gigabytes."""
    content = make()
    headers = {"content-type": "application/json"}
    if content[:1] != b"{":
        headers["content-encoding"] = "gzip"
    assert server.predict("anna").status_code == 200
    (worker,) = workers_of(server)
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # forgets the peak
    before = status_lines(server)["VmRSS"]
    slowest = 0.0

    def post() -> httpx.Response:
        return httpx.post(f"{server.url}/predict_tokens", content=content, headers=headers, timeout=60)

    with ThreadPoolExecutor(2) as clients:
        sent = [clients.submit(post) for _ in range(2)]
        while not all(one.done() for one in sent):
            started = time.perf_counter()
            assert server.predict("anna").status_code == 200
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.02)
    assert [one.result().status_code for one in sent] == [status] * 2, sent[0].result().text[:300]
    assert status_lines(server)["VmHWM"] - before < most_mb
    assert slowest < 1


def test_limits_of_a_request_are_named(server: ServerProcess) -> None:
    """For one text, and for all of them."""
    long = server.client.post("/predict_tokens", content=body(inputs=["anna", words(3_000_000)]))
    assert (long.status_code, long.json()["error_type"]) == (422, "Validation")
    assert (
        "inputs[1]: more than 524288 tokens, above limits.max_input_tokens = 524288" in long.json()["error"]
    )
    many = server.client.post("/predict_tokens", content=body(inputs=[words(30_000)] * 128))
    assert (many.status_code, many.json()["error_type"]) == (422, "Validation")
    assert "more tokens in all than limits.max_request_tokens = 1048576" in many.json()["error"]
    assert server.client.get("/info").json()["limits"]["max_request_tokens"] == 1048576
