"""The application: routes, and the life of one worker.

`App.handle` is the one handler; it knows nothing of the server's interface. `rsgi` makes its requests of Granian's
and `asgi` of any other server's.
"""

from __future__ import annotations

import hmac
import math
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import nerve
from nerve.endpoints.protocol import JSON_TYPE, ModelFacts
from nerve.engine.canary import Canary
from nerve.engine.engine import Engine
from nerve.errors import DeadlineExceeded, InvalidRequest, Unauthorized, Unavailable
from nerve.http.cors import Cors
from nerve.http.exchange import Exchange, Service, model_header
from nerve.http.in_flight import InFlight
from nerve.http.openapi import build_openapi
from nerve.http.pending import PendingBytes
from nerve.http.refusals import Refusals
from nerve.http.request import Headers, Request, Response
from nerve.http.responses import encode_json, error_response
from nerve.http.routing import Routing
from nerve.observability.defects import log_defect, survive
from nerve.observability.metrics import CONTENT_TYPE as METRICS_TYPE
from nerve.pages import PATHS, PLAYGROUND, Pages, wants_html

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.config import Config
    from nerve.endpoints import Served
    from nerve.endpoints.protocol import GetRoute, PostRoute
    from nerve.http.request import Handler
    from nerve.models.model import Model
    from nerve.observability.metrics import Metrics

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_AUTH_SCHEMES = ("bearer", "api-key")
_OVERLOADED = 429
# Share of the connections that requests and refusals may take which wait; the rest is for those who come.
_KEPT_SHARE = 0.9


class App:
    """One worker's application. Its life: starting, `ready`, draining, closed.

    endpoints: what they serve, by path.
    """

    def __init__(
        self, config: Config, api_key: str | None, metrics: Metrics, endpoints: Mapping[str, Served]
    ) -> None:
        self._limits = config.limits
        self._batching = config.batching
        self._api_key = api_key.encode() if api_key else None
        self._metrics = metrics
        self._in_flight = InFlight()
        most = round(_KEPT_SHARE * config.server.max_connections)
        self._refusals = Refusals(room=lambda: most - len(self._in_flight))
        self.pending = PendingBytes(config.limits.most_pending_bytes)
        self._service: Service | None = None
        self._unready_reason = "starting: the model is loading"
        self._has_failed = False  # the device, for good
        self._is_well = True
        self._is_complete: Callable[[], bool] = _always
        self._canary: Canary | None = None
        self._info = b""
        self._openapi = encode_json(
            build_openapi(endpoints, needs_key=api_key is not None, has_pages=config.server.playground)
        )
        self._is_draining: Callable[[], bool] = lambda: False
        self._facts = ModelFacts(())
        own = {
            "/": self._ready,
            "/health": self._ready,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/info": self._get_info,
            "/metrics": self._get_metrics,
            "/openapi.json": self._get_openapi,
        }
        self._pages = Pages() if config.server.playground else None
        self._cors = Cors(config.server.cors_origins) if config.server.cors_origins else None
        self._routing = Routing(endpoints, own, self._get_of, PATHS if self._pages else ())
        self._posts = self._routing.posts

    def start(
        self,
        model: Model,
        config: Config,
        is_draining: Callable[[], bool] = lambda: False,
        end: Callable[[], None] = lambda: None,
        announce: Callable[[], None] = lambda: None,
        is_complete: Callable[[], bool] | None = None,
    ) -> None:
        """Begin to answer predictions with a loaded model.

        end: called, on another thread, when the device has failed and only a new process can go on.
        announce: called when all is there, before readiness can be seen.
        is_complete: asked until it says yes; before, this worker does not say that it is ready: the next request may
            reach another one, which is not.
        """

        def fail() -> None:
            self._has_failed = True
            survive(partial(self._metrics.set_ready, ready=False), "in the metrics")
            end()

        limit = self._batching.max_queue_ms
        engine = Engine(
            model,
            self._batching.max_queue_tokens,
            on_batch=self._metrics.record_batch,
            on_failure=fail,
            max_queue_seconds=math.inf if limit is None else limit / 1000,
            most=self._limits.most_in_request,
            niceness=config.cpu.niceness,
            on_state=self._tell_health,
        )
        self._info = encode_json(describe(model, config))
        self._facts = ModelFacts(model.labels.entity_labels)
        self._is_draining = is_draining
        # Where another process runs the model, that one counts its thread, and sees whether it computes.
        self._metrics.set_engine_threads(model.n_threads if model.remote is None else 0)
        if config.server.canary_interval_ms is not None and model.remote is None:
            self._canary = Canary(
                engine,
                config.server.canary_interval_ms / 1000,
                config.server.canary_timeout_ms / 1000,
                self._tell_health,
            )
        self._metrics.set_info(info_of(model))
        service = Service(
            engine, self._limits, self._metrics, self._in_flight, self.pending, model_header(model)
        )
        announce()
        self._is_complete = is_complete or _always
        self._metrics.set_ready(ready=True)
        self._service = service

    def close(self) -> None:
        """Finish what was admitted, then answer 503. Blocks."""
        self._unready_reason = "draining: the server is shutting down"
        if self._canary is not None:
            self._canary.stop()
        self._metrics.set_ready(ready=False)
        self._refusals.close()
        if self._service is not None:
            self._service.engine.close()
            self._service = None

    def _tell_health(self, is_well: bool) -> None:
        self._is_well = is_well
        self._metrics.set_ready(ready=is_well)

    def handle(self, request: Request) -> None:
        """Answer one request, now or later (`Request.respond`); never raises for anything the client did.

        Any thread may call this.
        """
        started = time.monotonic()
        if self._cors is not None:
            request = self._cors.wrap(request)
        path, method = request.path, request.method
        request_id = _request_id(request)
        headers: Headers = [("content-type", JSON_TYPE), ("x-request-id", request_id)]
        post = self._posts.get(path) if method == "POST" else None
        try:
            if post is not None:
                headers.append(("cache-control", "no-store"))  # it holds what the client's text holds
                self._authorize(request)
                self._predict(post, request, request_id, headers, started)
                return
            response = self._for_browser(request, headers) or self._get(request, headers)
        except Exception as error:  # noqa: BLE001 - the last line of defence: a defect must be answered, too
            response = error_response(error, headers, request_id, self._routing.errors_of(method, path))
        self._answer(request, self._routing.counted_as(method, path), response)

    def _for_browser(self, request: Request, headers: Headers) -> Response | None:
        """Answer what browsers ask for without a key: whether a page may call, and pages, which hold no data."""
        path, method = request.path, request.method
        if self._cors is not None and (preflight := self._cors.preflight(request, headers)) is not None:
            return preflight
        if self._pages is None or method not in ("GET", "HEAD"):
            return None
        if path == PLAYGROUND and not wants_html(request.header("accept")):
            headers.append(("vary", "accept"))
            return None
        if path != PLAYGROUND and path not in PATHS:
            return None
        page = self._pages.answer(path, request.header)
        headers[0] = ("content-type", page.content_type)
        return Response(page.status, [*headers, *page.headers.items()], page.body)

    def _get(self, request: Request, headers: Headers) -> Response:
        """Answer what is no prediction."""
        path, method = request.path, request.method
        if not self._routing.is_open(path):
            self._authorize(request)
        get = self._routing.gets.get(path) if method in ("GET", "HEAD") else None
        return get(headers) if get is not None else self._routing.refuse(method, path, headers)

    def busy_ports(self) -> set[int]:
        """Return the ports of the clients whose requests are under way."""
        return self._in_flight.client_ports()

    def route_of(self, path: str) -> str:
        """Return the route of a path, `unknown` for any that is none: a path is the client's, and may hold anything."""
        return self._routing.route_of(path)

    def _answer(self, request: Request, counted_as: tuple[str, str], response: Response) -> None:
        try:
            self._metrics.record_answer(counted_as, response.status)
            if (
                response.rejection is not None and request.method == "POST"
            ):  # an unready probe is no rejection
                self._metrics.record_rejection(response.rejection)
        except Exception as error:  # noqa: BLE001 - what cannot be counted is answered all the same
            log_defect(error, "in the metrics")
        if response.status == _OVERLOADED:
            self._refusals.send(partial(request.respond, response))
        else:
            request.respond(response)

    def _predict(
        self, route: PostRoute, request: Request, request_id: str, headers: Headers, started: float
    ) -> None:
        service = self._service
        if service is None:
            raise Unavailable(f"{self._unready_reason}; send the request again later")
        deadline = self._deadline(request, started)
        answer = partial(self._answer, request, (route.endpoint, route.path))
        Exchange(service, request, route, request_id, headers, answer, started, deadline).begin()

    def _deadline(self, request: Request, started: float) -> float:
        """Return the `time.monotonic()` by which to answer: the nearer header, up to a limit, or the default."""
        timeout, epoch = request.header("request-timeout-ms"), request.header("request-deadline-ms")
        is_asked = timeout is not None or epoch is not None
        milliseconds = float(self._limits.longest_timeout_ms if is_asked else self._limits.request_timeout_ms)
        if timeout is not None:
            milliseconds = min(milliseconds, _milliseconds("Request-Timeout-Ms", timeout))
        if epoch is not None:
            milliseconds = min(milliseconds, _milliseconds("Request-Deadline-Ms", epoch) - time.time() * 1000)
        if milliseconds <= 0:
            raise DeadlineExceeded(
                "the deadline (Request-Timeout-Ms, Request-Deadline-Ms) had passed; allow more time"
            )
        return started + milliseconds / 1000

    def _authorize(self, request: Request) -> None:
        """Raise `Unauthorized` unless the request carries the API key; takes the same time either way."""
        if self._api_key is None:
            return
        scheme, _, given = (request.header("authorization") or "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self._api_key) & (
            scheme.lower() in _AUTH_SCHEMES
        )
        given = request.header("x-api-key") or ""
        if not is_right | hmac.compare_digest(given.strip().encode(), self._api_key):
            raise Unauthorized(
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )

    def _live(self, headers: Headers) -> Response:
        return Response(200, headers, encode_json({"status": "live"}))

    def _ready(self, headers: Headers) -> Response:
        if self._service is None:
            raise Unavailable(self._unready_reason)
        if self._has_failed:
            raise Unavailable("the device has failed; this process ends")
        if not self._is_well:
            raise Unavailable("the model does not answer; this process ends unless it does so again")
        if self._is_draining():
            raise Unavailable("draining: the server is shutting down")
        if not self._is_complete():
            raise Unavailable("starting: another worker is loading the model")
        self._is_complete = _always
        return Response(200, headers, encode_json({"status": "ready"}))

    def _get_of(self, route: GetRoute, headers: Headers) -> Response:
        """Answer what an endpoint has to be got."""
        if route.when_ready:
            self._ready(headers)
        body = route.body if isinstance(route.body, bytes) else route.body(self._facts)
        return Response(200, headers, body)

    def _get_info(self, headers: Headers) -> Response:
        if self._service is None:
            raise Unavailable(self._unready_reason)
        return Response(200, headers, self._info)

    def _get_metrics(self, headers: Headers) -> Response:
        headers[0] = ("content-type", METRICS_TYPE)
        engine = self._service.engine if self._service is not None else None
        queued = (engine.queued_tokens, engine.queued_requests) if engine is not None else (0, 0)
        return Response(200, headers, self._metrics.render(*queued))

    def _get_openapi(self, headers: Headers) -> Response:
        return Response(200, headers, self._openapi)


def answer_defects(handle: Handler) -> Handler:
    """Return a handler that never raises: what escapes `handle` is logged and answered with 500.

    The server's thread that calls it calls it for all requests; under Granian an exception would leave that thread
    unable to serve any other one.
    """

    def handle_safely(request: Request) -> None:
        try:
            handle(request)
        except BaseException as error:  # noqa: BLE001 - see above
            request_id = _new_id()
            headers: Headers = [("content-type", JSON_TYPE), ("x-request-id", request_id)]
            request.respond(error_response(error, headers, request_id))

    return handle_safely


def _always() -> bool:
    return True


def describe(model: Model, config: Config) -> dict[str, object]:
    """Return what `/info` prints."""
    return {
        "version": nerve.__version__,
        "model_name": model.name,
        "model_id": model.model_id,
        "revision": model.revision,
        "dtype": model.precision.value,
        "provider": model.backend.provider,
        "id2label": {str(index): name for index, name in enumerate(model.labels.names)},
        "label_scheme": model.labels.scheme.value,
        "entity_labels": model.labels.entity_labels,
        "entity_strategy": model.entity_strategy.value,
        "patterns": [name.value for name in config.runtime.patterns],
        "max_length": model.lengths.max_length,
        "max_length_from": model.lengths.max_length_from,
        "window_tokens": model.lengths.window_tokens,
        "window_tokens_from": model.lengths.window_tokens_from,
        "limits": {
            "max_inputs": config.limits.max_inputs,
            "max_input_tokens": config.limits.most_input_tokens,
            "max_request_tokens": config.limits.most_request_tokens,
            "max_request_scores": config.limits.max_request_scores,
            "max_body_bytes": config.limits.max_body_bytes,
            "max_pending_bytes": config.limits.most_pending_bytes,
            "request_timeout_ms": config.limits.request_timeout_ms,
            "max_request_timeout_ms": config.limits.longest_timeout_ms,
            "max_batch_tokens": model.policy.token_budget,
            "max_batch_size": model.policy.max_batch_size,
            "max_queue_tokens": config.batching.max_queue_tokens,
            "max_queue_ms": config.batching.max_queue_ms,
        },
    }


def info_of(model: Model) -> dict[str, str]:
    """Return the labels of the metric that says what is served."""
    return {
        "model": model.name,
        "revision": model.revision,
        "version": nerve.__version__,
        "precision": model.precision.value,
        "provider": model.backend.provider,
    }


def _request_id(request: Request) -> str:
    """Return the client's id for the request, or a new one when it sent none that can be echoed.

    It is logged, so it must not be a sentence: ASCII without white space.
    """
    given = request.header("x-request-id") or request.header("x-baseten-customer-request-id")
    if given and _REQUEST_ID.fullmatch(given):
        return given
    return _new_id()


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"


def _milliseconds(name: str, text: str) -> float:
    if not text.isdecimal() or len(text) > 15:
        raise InvalidRequest(f"header {name} must be a whole number of milliseconds")
    return float(text)
