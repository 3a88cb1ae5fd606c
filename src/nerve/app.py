"""The application: routes, the error table, and the life of one worker.

`App.handle` is the one handler; it knows nothing of the server's interface. `interfaces` wraps it as RSGI
(what Granian is given) and as ASGI (what any other server takes).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import nerve
from nerve import wire
from nerve.annex import Annex
from nerve.canary import Canary
from nerve.engine import INLINE_TOKENS, Engine
from nerve.errors import (
    ClientGone,
    DeadlineExceeded,
    DeviceFailed,
    InferenceFailed,
    InvalidRequest,
    MalformedRequest,
    Overloaded,
    PayloadTooLarge,
    PredictError,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    stack_of,
)
from nerve.large import LargeSetup
from nerve.metrics import CONTENT_TYPE as METRICS_TYPE
from nerve.metrics import Metrics
from nerve.openapi import build_openapi
from nerve.types import Summary, Timings

if TYPE_CHECKING:
    from nerve.config import Config
    from nerve.model import Model

log = logging.getLogger(__name__)

Headers = list[tuple[str, str]]

# The one table from failures to answers: class -> (status, error_type). A test walks the subclasses.
ERROR_TABLE: dict[type[PredictError], tuple[int, str]] = {
    MalformedRequest: (400, "Validation"),
    Unauthorized: (401, "Unauthorized"),
    PayloadTooLarge: (413, "PayloadTooLarge"),
    UnsupportedMediaType: (415, "UnsupportedMediaType"),
    InvalidRequest: (422, "Validation"),
    Overloaded: (429, "Overloaded"),
    ClientGone: (499, "ClientGone"),  # nobody reads it; Nginx's number, for the metrics
    InferenceFailed: (500, "Backend"),
    DeviceFailed: (503, "Unhealthy"),
    Unavailable: (503, "Unhealthy"),
    DeadlineExceeded: (504, "DeadlineExceeded"),
}

_MAX_REQUEST_ID_LENGTH = 128
_AUTH_SCHEMES = ("bearer", "api-key")
# Bytes of a body above which the annex decodes, tokenizes and answers it (docs/design.md, "The annex").
_LARGE_BYTES = 16 * 1024
# The same where every label's score is asked for: a row has as many numbers as there are labels.
_LARGE_BYTES_RAW = 2 * 1024
_PREDICT = "/predict_tokens"
_UNKNOWN = "unknown"
# What requests are counted by.
ROUTES = (
    *("/", _PREDICT, "/health", "/health/live", "/health/ready", "/info", "/metrics", "/openapi.json"),
    _UNKNOWN,
)
# Routes that answer without an API key: probes and scrapes have none.
_OPEN_ROUTES = frozenset({"/", "/health", "/health/live", "/health/ready", "/metrics"})


class Request(Protocol):
    """What the handler needs of a request, whatever the server's interface."""

    @property
    def method(self) -> str:
        """HTTP method, upper case."""

    @property
    def path(self) -> str:
        """Path without the query string."""

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""

    async def read(self, limit: int) -> bytes | bytearray | None:
        """Return the body, or None as soon as it is known to be above `limit` bytes."""

    async def gone(self) -> None:
        """Return once the client has left."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, ready to be sent; `summary` is of the prediction that it holds, if any, for traces."""

    status: int
    headers: Headers
    body: bytes
    summary: Summary | None = None

    @property
    def request_id(self) -> str:
        """The id that the answer carries; every answer has one."""
        return next(value for name, value in self.headers if name == "x-request-id")


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _LargeCall:
    """What a large request asks for, before its body is decoded."""

    body: bytes | bytearray
    msgpack_in: bool
    msgpack_out: bool
    deadline: float
    gone: Callable[[], Awaitable[None]]


class App:
    """One worker's application. Its life: starting, `ready`, draining, closed."""

    def __init__(self, config: Config, api_key: str | None, metrics: Metrics) -> None:
        self._limits = config.limits
        self._runtime = config.runtime
        self._batching = config.batching
        self._api_key = api_key.encode() if api_key else None
        self._metrics = metrics
        self._engine: Engine | None = None
        self._annex: Annex | None = None
        self._unready_reason = "starting: the model is loading"
        self._has_failed = False  # the device, for good
        self._is_well = True
        self._canary: Canary | None = None
        self._info = b""
        self._openapi = wire.encode_json(build_openapi(config.limits, needs_key=api_key is not None))
        self._is_draining: Callable[[], bool] = lambda: False
        self._routes: dict[str, dict[str, Callable[[Request, Headers], Awaitable[Response]]]] = {
            "/": {"GET": self._ready, "POST": self._predict},  # runtime.webserver_default_route
            _PREDICT: {"POST": self._predict},
            "/health": {"GET": self._ready},
            "/health/live": {"GET": self._live},
            "/health/ready": {"GET": self._ready},
            "/info": {"GET": self._get_info},
            "/metrics": {"GET": self._get_metrics},
            "/openapi.json": {"GET": self._get_openapi},
        }

    def start(
        self,
        model: Model,
        config: Config,
        is_draining: Callable[[], bool] = lambda: False,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to answer predictions with a loaded model.

        end: called, on another thread, when the device has failed and only a new process can go on.
        """

        def fail() -> None:
            self._has_failed = True
            self._metrics.set_ready(ready=False)
            end()

        limit = self._batching.max_queue_ms
        self._engine = Engine(
            model,
            self._batching.max_queue_tokens,
            on_batch=self._metrics.record_batch,
            on_failure=fail,
            max_queue_seconds=math.inf if limit is None else limit / 1000,
        )
        self._annex = Annex(
            LargeSetup(
                model.folder,
                model.max_length,
                model.labels,
                model.vocabulary,
                config.runtime,
                config.limits,
            )
        )
        if config.server.canary_interval_ms is not None:
            self._canary = Canary(
                self._engine,
                config.server.canary_interval_ms / 1000,
                config.server.canary_timeout_ms / 1000,
                self._tell_health,
            )
        self._info = wire.encode_json(describe(model, config))
        self._is_draining = is_draining
        self._metrics.set_engine_threads(model.n_threads)
        self._metrics.set_ready(ready=True)

    def close(self) -> None:
        """Finish what was admitted, then answer 503. Blocks."""
        self._unready_reason = "draining: the server is shutting down"
        if self._canary is not None:
            self._canary.stop()
        self._metrics.set_ready(ready=False)
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._annex is not None:
            self._annex.close()
            self._annex = None

    def _tell_health(self, is_well: bool) -> None:
        self._is_well = is_well
        self._metrics.set_ready(ready=is_well)

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises for anything the client did."""
        path, method = request.path, request.method
        request_id = _request_id(request)
        headers: Headers = [("content-type", wire.JSON_TYPE), ("x-request-id", request_id)]
        methods = self._routes.get(path)
        handler = methods.get("GET" if method == "HEAD" else method) if methods else None
        if handler is not None and method == "POST":  # a prediction: it holds what the client's text holds
            headers.append(("cache-control", "no-store"))
        try:
            if handler is None:
                response = _no_route(path, methods, headers)
            else:
                if self._api_key is not None and (path not in _OPEN_ROUTES or method == "POST"):
                    self._authorize(request, self._api_key)
                response = await handler(request, headers)
        except PredictError as error:
            self._count_rejection(method, error.reason)
            if isinstance(error, (InferenceFailed, DeviceFailed)):
                log.error("the model failed on the request", extra={"request_id": request_id})
            response = _error_response(error, headers)
        except Exception as error:  # noqa: BLE001 - the last line of defence: a defect must be answered, too
            _log_defect(error, request_id)
            self._count_rejection(method, PredictError.reason)
            response = _error(500, "Backend", "internal error; the server's log has the details", headers)
        self._metrics.record_answer(path if methods else _UNKNOWN, response.status)
        return response

    def _count_rejection(self, method: str, reason: str) -> None:
        """Count a prediction that is not answered; a probe that finds the server unready is none."""
        if method == "POST":
            self._metrics.record_rejection(reason)

    async def _predict(self, request: Request, headers: Headers) -> Response:
        started = time.perf_counter()
        engine = self._engine
        if engine is None:
            raise Unavailable(f"{self._unready_reason}; send the request again later")
        msgpack_in = wire.is_msgpack(request.header("content-type"))
        deadline = self._deadline(request)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                body = await request.read(self._limits.max_body_bytes)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the whole body had arrived") from None
        if body is None:
            raise PayloadTooLarge(
                f"the body is above limits.max_body_bytes = {self._limits.max_body_bytes}; send several requests"
            )
        msgpack_out = wire.wants_msgpack(request.header("accept"))
        if msgpack_out:
            headers[0] = ("content-type", wire.MSGPACK_TYPE)
        summary: Summary
        is_large = len(body) > _LARGE_BYTES
        if not is_large:
            decoded = wire.decode_request(body, msgpack=msgpack_in)
            texts, options = wire.resolve_request(decoded, self._runtime, self._limits)
            is_large = options.raw_scores and len(body) > _LARGE_BYTES_RAW
        if is_large:
            call = _LargeCall(body, msgpack_in, msgpack_out, deadline, request.gone)
            summary, encoded = await self._predict_large(engine, call)
        else:
            summary = prediction = await engine.predict(texts, options, deadline, request.gone)
            if prediction.n_tokens <= INLINE_TOKENS:
                encoded = wire.encode_rows(prediction.rows, msgpack=msgpack_out)
            else:
                encoded = await engine.offload(
                    lambda: wire.encode_many_rows(prediction.rows, msgpack=msgpack_out), deadline
                )
        if time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed before the answer was ready")
        total = time.perf_counter() - started
        self._metrics.record_prediction(summary, total, engine.queued_tokens, engine.queued_requests)
        _add_prediction_headers(headers, summary, total)
        return Response(200, headers, encoded, summary)

    async def _predict_large(self, engine: Engine, call: _LargeCall) -> tuple[Summary, bytes]:
        """Answer a large body: the annex does all that is Python work."""
        annex = self._annex
        if annex is None:
            raise AssertionError("this is a bug: the annex comes and goes with the engine")
        engine.check_large(len(call.body))
        started = time.perf_counter()
        outline, context, windows = await engine.offload(
            lambda: annex.begin(call.body, msgpack=call.msgpack_in), call.deadline
        )
        tokenize_seconds = time.perf_counter() - started
        job = await engine.compute(windows, outline.needs_logits, call.deadline, call.gone)
        scores = job.scores()
        started = time.perf_counter()
        encoded = await engine.offload(
            lambda: annex.finish(context, scores, msgpack=call.msgpack_out), call.deadline
        )
        aggregate_seconds = time.perf_counter() - started
        timings = Timings(tokenize_seconds, job.queue_seconds, job.inference_seconds, aggregate_seconds)
        return Summary(outline.n_texts, outline.truncated, job.n_tokens, timings), encoded

    def _deadline(self, request: Request) -> float:
        """Return the `time.monotonic()` by which the answer must be ready; the nearest limit wins."""
        milliseconds = float(self._limits.request_timeout_ms)
        timeout = request.header("request-timeout-ms")
        if timeout is not None:
            milliseconds = min(milliseconds, _milliseconds("Request-Timeout-Ms", timeout))
        epoch = request.header("request-deadline-ms")
        if epoch is not None:
            milliseconds = min(milliseconds, _milliseconds("Request-Deadline-Ms", epoch) - time.time() * 1000)
        if milliseconds <= 0:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        return time.monotonic() + milliseconds / 1000

    def _authorize(self, request: Request, api_key: bytes) -> None:
        """Raise `Unauthorized` unless the request carries the API key; takes the same time either way."""
        scheme, _, given = (request.header("authorization") or "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), api_key)
        if not is_right or scheme.lower() not in _AUTH_SCHEMES:
            raise Unauthorized("the API key is missing or wrong; send it as `Authorization: Bearer KEY`")

    async def _live(self, request: Request, headers: Headers) -> Response:
        return Response(200, headers, wire.encode_json({"status": "live"}))

    async def _ready(self, request: Request, headers: Headers) -> Response:
        if self._engine is None:
            raise Unavailable(self._unready_reason)
        if self._has_failed:
            raise Unavailable("the device has failed; this process ends")
        if not self._is_well:
            raise Unavailable("the model does not answer; this process ends unless it does so again")
        if self._is_draining():
            raise Unavailable("draining: the server is shutting down")
        return Response(200, headers, wire.encode_json({"status": "ready"}))

    async def _get_info(self, request: Request, headers: Headers) -> Response:
        if self._engine is None:
            raise Unavailable(self._unready_reason)
        return Response(200, headers, self._info)

    async def _get_metrics(self, request: Request, headers: Headers) -> Response:
        headers[0] = ("content-type", METRICS_TYPE)
        engine = self._engine
        queued = (engine.queued_tokens, engine.queued_requests) if engine is not None else (0, 0)
        return Response(200, headers, self._metrics.render(*queued))

    async def _get_openapi(self, request: Request, headers: Headers) -> Response:
        return Response(200, headers, self._openapi)


def route_of(path: str) -> str:
    """Return the route of a path, `unknown` for any that is none: a path is the client's, and may hold anything."""
    return path if path in ROUTES else _UNKNOWN


def describe(model: Model, config: Config) -> dict[str, object]:
    """Return what `/info` prints."""
    return {
        "version": nerve.__version__,
        "model_id": model.model_id,
        "revision": model.revision,
        "dtype": model.precision.value,
        "provider": model.session.provider,
        "id2label": {str(index): name for index, name in enumerate(model.labels.names)},
        "label_scheme": model.labels.scheme.value,
        "max_length": model.max_length,
        "limits": {
            "max_inputs": config.limits.max_inputs,
            "max_input_tokens": config.limits.max_input_tokens,
            "max_body_bytes": config.limits.max_body_bytes,
            "request_timeout_ms": config.limits.request_timeout_ms,
            "max_batch_tokens": model.policy.token_budget,
            "max_batch_size": model.policy.max_batch_size,
            "max_queue_tokens": config.batching.max_queue_tokens,
            "max_queue_ms": config.batching.max_queue_ms,
        },
    }


def _request_id(request: Request) -> str:
    """Return the client's id for the request, or a new one when it sent none that can be echoed."""
    given = request.header("x-request-id") or request.header("x-baseten-customer-request-id")
    if given and len(given) <= _MAX_REQUEST_ID_LENGTH and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


def _milliseconds(name: str, text: str) -> float:
    if not text.isdecimal() or len(text) > 15:
        raise InvalidRequest(f"header {name} must be a whole number of milliseconds")
    return float(text)


def _add_prediction_headers(headers: Headers, summary: Summary, total: float) -> None:
    timings = summary.timings
    headers.append(
        (
            "server-timing",
            f"tokenize;dur={timings.tokenize * 1000:.3f}, queue;dur={timings.queue * 1000:.3f}, "
            f"inference;dur={timings.inference * 1000:.3f}, total;dur={total * 1000:.3f}",
        )
    )
    headers.append(("x-compute-tokens", str(summary.n_tokens)))
    if summary.truncated:
        headers.append(("x-truncated", ",".join(map(str, summary.truncated))))


def _no_route(path: str, methods: Mapping[str, object] | None, headers: Headers) -> Response:
    if methods is None:
        return _error(404, "NotFound", f"no such route; predictions are at POST {_PREDICT}", headers)
    allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
    headers.append(("allow", allowed))
    return _error(405, "MethodNotAllowed", f"{path} takes {allowed}", headers)


def _error_response(error: PredictError, headers: Headers) -> Response:
    status, kind = ERROR_TABLE[type(error)]
    if isinstance(error, Overloaded):
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
    return _error(status, kind, str(error), headers)


def _error(status: int, kind: str, message: str, headers: Headers) -> Response:
    headers[0] = ("content-type", wire.JSON_TYPE)
    return Response(status, headers, wire.encode_json(wire.ErrorBody(error=message, error_type=kind)))


def _log_defect(error: Exception, request_id: str) -> None:
    """Log a defect with its stack but without its message, which could quote the client's text."""
    log.error("defect while answering a request: %s", stack_of(error), extra={"request_id": request_id})
