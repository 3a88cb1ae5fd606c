"""Exports a span for each prediction over OTLP, with its stages as children.

The spans are made from the timings that a prediction has anyway, after it was answered. They hold the
route, the status, counts and the request id, and no other word that the client sent: `tracestate` is not
passed on. Without `tracing.endpoint` this module is not loaded, and no handler is wrapped.

The only user of OpenTelemetry (`nerve[otel]`). Its own settings, such as headers, sampler, limits and resource,
are OpenTelemetry's standard variables, which its SDK reads itself.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import nerve
from nerve.http.request import ForwardedRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from nerve.http.request import Body, Handler, OnBody, Request, Response

# Seconds that the last spans may take at the end; a collector that is gone must not hold up a drain.
_LAST_EXPORT_SECONDS = 2.0


class Tracing:
    """The exporter of one process.

    endpoint: URL that OTLP is posted to as protobuf, such as http://localhost:4318/v1/traces.
    """

    def __init__(self, endpoint: str) -> None:
        ours = Resource({"service.name": "nerve", "service.version": nerve.__version__})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("nerve", nerve.__version__)

    def wrap(self, handle: Handler, route_of: Callable[[str], str]) -> Handler:
        """Return a handler whose predictions are traced; probes and scrapes are not.

        route_of: gives the route of a path, which is the client's and may hold anything.
        """

        def handle_and_trace(request: Request) -> None:
            handle(
                _TracedRequest(request, self._tracer, route_of(request.path))
                if request.method == "POST"
                else request
            )

        return handle_and_trace

    def close(self) -> None:
        """Export what is left, for a moment at most. Blocks."""
        last = threading.Thread(target=self._provider.shutdown, name="nerve-traces", daemon=True)
        last.start()
        last.join(_LAST_EXPORT_SECONDS)


class _TracedRequest(ForwardedRequest):
    """A request that notes when it began and when its body had arrived; Unix time in nanoseconds."""

    __slots__ = ("_ended_at", "_tracer", "arrived_at", "route", "started_at")

    def __init__(self, request: Request, tracer: Tracer, route: str) -> None:
        super().__init__(request)
        self.route = route
        self._tracer = tracer
        self.started_at = time.time_ns()
        self.arrived_at = 0  # not yet
        self._ended_at = 0

    def read(self, limit: int, then: OnBody) -> None:
        def arrive(body: Body | None, error: Exception | None) -> None:
            self.arrived_at = time.time_ns()
            then(body, error)

        super().read(limit, arrive)

    def respond(self, response: Response) -> None:
        self._ended_at = time.time_ns()
        super().respond(response)

    def answered(self, response: Response) -> None:
        _record(self._tracer, self, response, self._ended_at)


def _record(tracer: Tracer, request: _TracedRequest, response: Response, ended_at: int) -> None:
    """Make the spans of one answered request."""
    traceparent = request.header("traceparent")
    parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
    route = request.route
    span = tracer.start_span(
        f"POST {route}", context=parent, kind=SpanKind.SERVER, start_time=request.started_at
    )
    if span.is_recording():
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "http.route": route,
            "http.response.status_code": response.status,
            "nerve.request_id": response.request_id,
        }
        summary = response.summary
        if summary is not None:
            attributes |= {"nerve.texts": summary.n_texts, "nerve.tokens": summary.n_tokens}
            timings = summary.timings
            context = set_span_in_context(span)
            at = request.arrived_at
            for name in ("tokenize", "queue", "inference", "aggregate"):
                child = tracer.start_span(name, context=context, start_time=at)
                at = min(ended_at, at + round(getattr(timings, name) * 1e9))
                child.end(at)
        if response.status >= 500:
            attributes["error.type"] = str(response.status)
            span.set_status(Status(StatusCode.ERROR))
        span.set_attributes(attributes)
    span.end(ended_at)
