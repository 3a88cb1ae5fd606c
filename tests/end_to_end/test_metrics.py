"""What a scrape says after known traffic."""

import socket
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from builders import ServerProcess
from raw_http import connect, metric, request_bytes, wait_until


def buckets(server: ServerProcess, name: str) -> dict[float, float]:
    """Return the cumulative counts of a histogram without labels, by upper bound."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"{name}_bucket"]
    return {float(sample.labels["le"]): sample.value for sample in samples}


@pytest.fixture
def counted(serve: Callable[..., ServerProcess]) -> ServerProcess:
    """Run a server that nobody else asks; it batches with padding, on one thread."""
    return serve(
        batching={"max_padding": 1.0, "max_batch_tokens": 512},
        limits={"max_body_bytes": 10_000},
        cpu={"threads": 1},
        environment={"NERVE_API_KEY": "s3cret"},
    )


def test_known_traffic(counted: ServerProcess) -> None:
    """Texts, tokens, padding, sizes of calls, durations and rejections are those of what was sent."""
    counted.client.headers["authorization"] = "Bearer s3cret"
    answer = counted.predict(["Anna", "Anna lives in Paris", "a"])  # one call of 3, 6 and 3 tokens
    assert answer.status_code == 200
    answered = {
        "nerve_texts_total": 3,
        "nerve_tokens_total": 12,
        "nerve_batches_total": 1,
        "nerve_batch_tokens_total": 18,
        "nerve_batch_padding_tokens_total": 6,
        "nerve_batch_size_windows_count": 1,
        "nerve_batch_size_windows_sum": 3,
        "nerve_request_duration_seconds_count": 1,
        "nerve_engine_threads": 1,
        "nerve_queue_requests": 0,
        **{
            f'nerve_stage_duration_seconds_count{{stage="{stage}"}}': 1
            for stage in ("tokenize", "queue", "inference", "aggregate")
        },
    }
    assert {name: metric(counted, name) for name in answered} == answered
    assert (
        0
        < metric(counted, "nerve_engine_busy_seconds_total")
        <= metric(counted, 'nerve_stage_duration_seconds_sum{stage="inference"}')
    )
    sizes = buckets(counted, "nerve_batch_size_windows")
    assert (sizes[2], sizes[3], sizes[float("inf")]) == (0, 1, 1)
    bounds = sorted(buckets(counted, "nerve_request_duration_seconds"))
    assert all(f"{k / 10_000:g}" in {f"{bound:g}" for bound in bounds} for k in range(1, 11))  # 0.1 ms each

    body = {"inputs": "Anna"}
    sent = {
        "malformed": {"content": b"{"},
        "invalid": {"content": b"{}"},
        "media_type": {"content": b"x", "headers": {"content-type": "text/plain"}},
        "body_size": {"content": b" " * 10_001},
        "unauthorized": {"json": body, "headers": {"authorization": "Bearer no"}},
        "deadline": {"json": body, "headers": {"request-deadline-ms": "1"}},
    }
    for keywords in sent.values():
        assert counted.client.post("/", **keywords).status_code >= 400
    counted.client.get("/none")
    families = text_string_to_metric_families(counted.client.get("/metrics").text)
    rejections = next(family for family in families if family.name == "nerve_rejections")
    assert {s.labels["reason"]: s.value for s in rejections.samples if s.value} == dict.fromkeys(sent, 1)


def test_queue_and_its_refusals(troubled: ServerProcess) -> None:
    """Requests and tokens that wait are counted while they wait, and a refusal names its limit."""

    def refused() -> float:
        return metric(troubled, 'nerve_rejections_total{reason="queue_tokens"}')

    before = refused()
    failed = metric(troubled, 'nerve_rejections_total{reason="inference_failed"}')
    slow = request_bytes(b'{"inputs": "Anna x x x x"}')  # 7 tokens
    connections: list[socket.socket] = []

    def three_wait_behind_one() -> bool:
        n_waiting = metric(troubled, "nerve_queue_requests")
        if n_waiting == 0:  # a busy machine has answered them before they were counted
            connections[:] = [connect(troubled) for _ in range(4)]
            for connection in connections:
                connection.sendall(slow)
        return n_waiting == 3

    wait_until(three_wait_behind_one, "three wait behind one")
    assert metric(troubled, "nerve_queue_tokens") == 21
    assert troubled.predict(["Anna lives in Paris"] * 8).status_code == 429
    assert refused() >= before + 1
    for connection in connections:
        connection.close()
    wait_until(lambda: metric(troubled, "nerve_queue_requests") == 0, "nothing waits any more")
    assert troubled.predict("y").status_code == 500
    assert metric(troubled, 'nerve_rejections_total{reason="inference_failed"}') == failed + 1
