"""One prediction over HTTP, from its head to its answer, and the watch over those that are under way.

An `Exchange` goes from step to step by callbacks, on whichever thread ended the step before: the server's when
the body is there, an engine thread's when the scores are, a pool thread's when the request is longer or its Python
work is done in the annex. No event
loop and no coroutine is in its way: each hand-over between threads costs 20 to 60 us here, as much as
all of our own work on a short text.

It is answered once: by whoever takes it out of the `Watch`, be it the last step, its deadline or a client that left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from nerve.endpoints import predict_tokens as wire
from nerve.engine.engine import INLINE_TOKENS
from nerve.errors import ClientGone, DeadlineExceeded, PayloadTooLarge
from nerve.http.responses import Headers, Response, error_response
from nerve.types import Summary, Timings

if TYPE_CHECKING:
    from nerve.config import LimitsConfig, RuntimeConfig
    from nerve.engine.engine import Engine, Outcome
    from nerve.engine.large_process import Annex
    from nerve.engine.large_requests import Outline
    from nerve.observability.metrics import Metrics
    from nerve.scheduling.jobs import Job
    from nerve.types import Window

Body = bytes | bytearray

# Bytes of a body above which the annex decodes, tokenizes and answers it (docs/design.md, "The annex").
_LARGE_BYTES = 16 * 1024
# The same where every label's score is asked for: a row has as many numbers as there are labels.
_LARGE_BYTES_RAW = 2 * 1024
# Seconds between two looks at the exchanges under way: how late a deadline may be noticed.
_TICK_SECONDS = 0.01
# Seconds that a request waits for the model before its connection is watched: asking costs about as much as answering.
_WATCH_AFTER_SECONDS = 0.02
# Seconds without any exchange after which the watch sleeps until the next one.
_IDLE_SECONDS = 1.0


class Request(Protocol):
    """What is needed of a request, whatever the server's interface. Any thread may call its methods."""

    @property
    def method(self) -> str:
        """HTTP method, upper case."""

    @property
    def path(self) -> str:
        """Path without the query string."""

    def header(self, name: str) -> str | None:
        """Return the value of a header by its lower-case name."""

    def read(self, limit: int, then: Callable[[Body | None, Exception | None], None]) -> None:
        """Read the body and give it to `then`, or None as soon as it is known to be above `limit` bytes.

        The error, if there is one, is a `MalformedRequest`: the client stopped sending before the end.
        """

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client leaves before it is answered."""

    def respond(self, response: Response) -> None:
        """Send the answer, once; ends what was begun for this request."""


Handler = Callable[[Request], None]


class ForwardedRequest:
    """A request that passes everything on: a base for what looks on."""

    __slots__ = ("_request", "method", "path")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.method = request.method
        self.path = request.path

    def header(self, name: str) -> str | None:
        """See `Request`."""
        return self._request.header(name)

    def read(self, limit: int, then: Callable[[Body | None, Exception | None], None]) -> None:
        """See `Request`."""
        self._request.read(limit, then)

    def watch(self, gone: Callable[[], None]) -> None:
        """See `Request`."""
        self._request.watch(gone)

    def respond(self, response: Response) -> None:
        """See `Request`."""
        self._request.respond(response)


class Watch:
    """Ends exchanges at their deadline, and notices clients that leave, while they wait.

    A thread looks at them every 10 ms, and sleeps while there are none.
    """

    def __init__(self) -> None:
        self._open: dict[Exchange, bool] = {}  # a dict, because its `pop` is atomic
        self._is_awake = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="nerve-watch", daemon=True).start()

    def add(self, exchange: Exchange) -> None:
        """Watch an exchange until it is removed."""
        self._open[exchange] = True
        if not self._is_awake:
            self._wake.set()

    def remove(self, exchange: Exchange) -> bool:
        """End the watch; True for the first caller, who must answer."""
        return self._open.pop(exchange, False)

    def __len__(self) -> int:
        """Return how many exchanges wait for their answer."""
        return len(self._open)

    def __contains__(self, exchange: Exchange) -> bool:
        """Tell whether an exchange still waits for its answer."""
        return exchange in self._open

    def _look(self, now: float) -> None:
        """Look at all; apart from `_run`, which would hold the last one for as long as it sleeps."""
        for exchange in list(self._open):
            exchange.look(now)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._is_awake = True
            self._look_until_idle()

    def _look_until_idle(self) -> None:
        seen = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if self._open:
                seen = now
                self._look(now)
            elif now - seen > _IDLE_SECONDS:
                self._is_awake = False
                if not self._open:  # else it came between
                    return
                self._is_awake = True


@dataclass(frozen=True, slots=True)
class Service:
    """What all exchanges of a worker share while it is ready."""

    engine: Engine
    annex: Annex
    limits: LimitsConfig
    runtime: RuntimeConfig
    metrics: Metrics
    watch: Watch


class Exchange:
    """One prediction under way.

    headers: of the answer so far, content type first.
    answer: told of the response, once.
    started: `time.monotonic()` of the request's head.
    deadline: `time.monotonic()` at which it must be answered.
    """

    __slots__ = (
        "_answer",
        "_cancel",
        "_deadline",
        "_headers",
        "_is_msgpack_in",
        "_is_msgpack_out",
        "_is_read",
        "_is_watched",
        "_request",
        "_request_id",
        "_service",
        "_started",
    )

    def __init__(
        self,
        service: Service,
        request: Request,
        request_id: str,
        headers: Headers,
        answer: Callable[[Response], None],
        started: float,
        deadline: float,
    ) -> None:
        self._service = service
        self._request = request
        self._request_id = request_id
        self._headers = headers
        self._answer = answer
        self._started = started
        self._deadline = deadline
        self._is_msgpack_in = False
        self._is_msgpack_out = False
        self._is_read = False
        self._is_watched = False
        self._cancel: Callable[[], object] | None = None  # drops what waits

    def begin(self) -> None:
        """Read the body; all else follows. Raises `UnsupportedMediaType`."""
        self._is_msgpack_in = wire.is_msgpack(self._request.header("content-type"))
        self._is_msgpack_out = wire.wants_msgpack(self._request.header("accept"))
        self._service.watch.add(self)
        try:
            self._request.read(self._service.limits.max_body_bytes, self._on_body)
        except Exception as error:  # noqa: BLE001 - who is watched must be answered by whoever ends the watch
            self._fail(error)

    def look(self, now: float) -> None:
        """End the exchange if its deadline has passed; watch its connection if it waits. `Watch` calls this."""
        try:
            if now >= self._deadline:
                what = "the answer was ready" if self._is_read else "the whole body had arrived"
                self._drop(DeadlineExceeded(f"the deadline passed before {what}"))
            elif (
                self._cancel is not None
                and not self._is_watched
                and now - self._started > _WATCH_AFTER_SECONDS
            ):
                self._is_watched = True
                self._request.watch(partial(self._drop, ClientGone("the client left")))
        except Exception as error:  # noqa: BLE001 - the watch must go on, and the client be answered
            self._fail(error)

    def _on_body(self, body: Body | None, error: Exception | None) -> None:
        self._is_read = True
        service = self._service
        if error is not None:
            self._fail(error)
            return
        try:
            if body is None:
                limit = service.limits.max_body_bytes
                raise PayloadTooLarge(
                    f"the body is above limits.max_body_bytes = {limit}; send several requests"
                )
            if len(body) > _LARGE_BYTES:
                self._begin_large(body)
                return
            decoded = wire.decode_request(body, msgpack=self._is_msgpack_in)
            texts, options = wire.resolve_request(decoded, service.runtime, service.limits)
            if options.raw_scores and len(body) > _LARGE_BYTES_RAW:
                self._begin_large(body)
                return
            call = service.engine.start(texts, options, self._deadline, self._on_outcome)
            self._cancel = call.cancel
        except Exception as failure:  # noqa: BLE001 - the last line of defence: a defect must be answered, too
            self._fail(failure)

    def _on_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        try:
            if outcome.n_tokens > INLINE_TOKENS:
                work = partial(wire.encode_many_rows, outcome.rows, msgpack=self._is_msgpack_out)
                self._service.engine.offload(work, partial(self._on_encoded, outcome), self._fail)
                return
            encoded = wire.encode_rows(outcome.rows, msgpack=self._is_msgpack_out)
        except Exception as error:  # noqa: BLE001 - see `_on_body`
            self._fail(error)
            return
        self._on_encoded(outcome, encoded)

    # A large body: the annex decodes, tokenizes, makes the rows and encodes them; here its windows are run.

    def _begin_large(self, body: Body) -> None:
        engine, annex = self._service.engine, self._service.annex
        engine.check_large(len(body))
        work = partial(annex.begin, body, msgpack=self._is_msgpack_in)
        future = engine.offload(work, partial(self._on_outline, time.monotonic()), self._fail)
        if future is not None and self._cancel is None:  # it may have gone further already
            self._cancel = future.cancel

    def _on_outline(self, began: float, begun: tuple[Outline, bytes, list[Window]]) -> None:
        if self not in self._service.watch:  # its client left while it was tokenized
            return
        outline, context, windows = begun
        engine = self._service.engine
        tokenize_seconds = time.monotonic() - began
        try:
            if time.monotonic() >= self._deadline:
                raise DeadlineExceeded("the deadline passed before the request reached the queue")
            scored = partial(self._on_large_scores, outline, context, tokenize_seconds)
            job = engine.compute(windows, outline.needs_logits, self._deadline, scored)
            self._cancel = partial(engine.cancel, job)
        except Exception as error:  # noqa: BLE001 - see `_on_body`
            self._fail(error)

    def _on_large_scores(self, outline: Outline, context: bytes, tokenize_seconds: float, job: Job) -> None:
        job.waiter = None  # it holds this exchange, which holds the job
        service = self._service
        if job.error is not None:  # not raised: its traceback would hold all this
            self._fail(job.error)
            return
        try:
            work = partial(service.annex.finish, context, job.scores(), msgpack=self._is_msgpack_out)
        except Exception as error:  # noqa: BLE001 - see `_on_body`
            self._fail(error)
            return
        began = time.monotonic()

        def finish(encoded: bytes) -> None:
            times = (tokenize_seconds, job.queue_seconds, job.inference_seconds, time.monotonic() - began)
            self._on_encoded(
                Summary(outline.n_texts, outline.truncated, job.n_tokens, Timings(*times)), encoded
            )

        future = service.engine.offload(work, finish, self._fail)
        if future is not None:
            self._cancel = future.cancel

    def _on_encoded(self, summary: Summary, encoded: bytes) -> None:
        now = time.monotonic()
        if now >= self._deadline:
            self._fail(DeadlineExceeded("the deadline passed before the answer was ready"))
            return
        service = self._service
        if not service.watch.remove(self):
            return
        self._cancel = None
        headers = self._headers
        try:
            seconds = now - self._started
            engine = service.engine
            service.metrics.record_prediction(summary, seconds, engine.queued_tokens, engine.queued_requests)
            add_prediction_headers(headers, summary, seconds)
        except Exception as error:  # noqa: BLE001 - nobody else would answer: it is off the watch
            self._answer(error_response(error, headers, self._request_id))
            return
        if self._is_msgpack_out:
            headers[0] = ("content-type", wire.MSGPACK_TYPE)
        self._answer(Response(200, headers, encoded, summary=summary))

    def _drop(self, error: Exception) -> None:
        """Give up work that nobody waits for any more."""
        cancel = self._cancel
        if cancel is not None:
            cancel()
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._service.watch.remove(self):
            self._cancel = None
            self._answer(error_response(error, self._headers, self._request_id))


def add_prediction_headers(headers: Headers, summary: Summary, seconds: float) -> None:
    """Append what the contract says of a prediction: timings, computed tokens, texts that were cut."""
    timings = summary.timings
    headers.append(
        (
            "server-timing",
            f"tokenize;dur={timings.tokenize * 1000:.3f}, queue;dur={timings.queue * 1000:.3f}, "
            f"inference;dur={timings.inference * 1000:.3f}, total;dur={seconds * 1000:.3f}",
        )
    )
    headers.append(("x-compute-tokens", str(summary.n_tokens)))
    if summary.truncated:
        headers.append(("x-truncated", ",".join(map(str, summary.truncated))))
