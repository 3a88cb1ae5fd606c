"""Traces, from real servers to a collector on loopback."""

import itertools
import time
from collections.abc import Callable

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from builders import ServerProcess, free_port
from otlp import attributes_of, collecting
from raw_http import wait_until

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Exports at once, and one span kind at a time is easy to wait for.
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "20"}


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_spans_of_a_prediction(
    serve: Callable[..., ServerProcess], troubled_model: object, interface: str
) -> None:
    """A span for each prediction with its stages below it, within the client's trace; nothing for probes."""
    with collecting() as collector:
        server = serve(
            folder=troubled_model,
            server={"interface": interface},
            tracing={"endpoint": f"{collector.url}/v1/traces"},
            environment=QUICK,
        )
        before = time.time_ns()
        good = server.client.post(
            "/predict_tokens",
            json={"inputs": ["Anna x", "Bob"]},
            headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"},
        )
        after = time.time_ns()
        wait_until(lambda: len(collector.spans) == 5, "a request and four stages have arrived")
        request = next(span for span in collector.spans if span.name == "POST /predict_tokens")
        assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
        assert request.kind == Span.SPAN_KIND_SERVER
        assert attributes_of(request) == {
            "http.request.method": "POST",
            "http.route": "/predict_tokens",
            "http.response.status_code": 200,
            "nerve.request_id": good.headers["x-request-id"],
            "nerve.texts": 2,
            "nerve.tokens": int(good.headers["x-compute-tokens"]),
        }
        assert before <= request.start_time_unix_nano <= request.end_time_unix_nano <= after + 50_000_000
        stages = collector.children_of(request)
        assert [span.name for span in stages] == ["tokenize", "queue", "inference", "aggregate"]
        timing = dict(part.split(";dur=") for part in good.headers["server-timing"].split(", "))
        for span in stages[:3]:
            took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            assert took == pytest.approx(float(timing[span.name]), abs=0.01)
        for earlier, later in itertools.pairwise(stages):
            assert earlier.end_time_unix_nano == later.start_time_unix_nano
        assert request.start_time_unix_nano <= stages[0].start_time_unix_nano
        assert stages[-1].end_time_unix_nano <= request.end_time_unix_nano

        collector.spans.clear()
        server.client.get("/health")
        server.client.get("/metrics")
        assert server.client.post("/", json={"inputs": "y"}).status_code == 500
        assert server.client.post("/", json={}).status_code == 422
        ignored = {"traceparent": "00-not-a-parent"}
        assert server.client.post("/", content=b"{", headers=ignored).status_code == 400
        unsampled = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
        assert server.client.post("/", json={"inputs": "Bob"}, headers=unsampled).status_code == 200
        server.client.close()
        assert server.stop() == 0  # what is left is exported at the end
        failed, refused, malformed = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
        assert failed.status.code == Status.STATUS_CODE_ERROR
        assert attributes_of(failed)["error.type"] == "500"
        for span in (refused, malformed):
            assert span.status.code == Status.STATUS_CODE_UNSET
            assert span.parent_span_id == b""
        assert {resource["service.name"] for resource in collector.resources} == {"nerve"}


def test_standard_variables(serve: Callable[..., ServerProcess]) -> None:
    """OpenTelemetry's own variables name the collector and the service, without a config key."""
    with collecting() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine", **QUICK}
        server = serve(environment=variables)
        assert server.predict("Anna").status_code == 200
        wait_until(lambda: len(collector.spans) == 5, "the spans have arrived")
        assert {resource["service.name"] for resource in collector.resources} == {"mine"}


def test_collector_that_is_gone(serve: Callable[..., ServerProcess]) -> None:
    """Without a collector predictions are answered, and the end is not held up."""
    server = serve(tracing={"endpoint": f"http://127.0.0.1:{free_port()}/v1/traces"})
    for _ in range(20):
        assert server.predict("Anna").status_code == 200
    server.client.close()
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 8
