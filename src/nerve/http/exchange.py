"""One prediction over HTTP, from its head to its answer.

An `Exchange` goes from step to step by callbacks, on whichever thread ended the step before: the server's when
the body is there, an engine thread's when the scores are, a pool thread's when the request is longer. There is no
event loop and no coroutine in its way, because a hand-over between threads costs about as much as all of our own
work on a short text.

It is answered once: by whoever removes it from `InFlight`, be it the last step, its deadline or a client that left.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from nerve.engine.codec import IdQuery, Query, Reply
from nerve.engine.engine import INLINE_TOKENS, Cancel
from nerve.engine.ids import start_ids
from nerve.errors import ClientGone, DeadlineExceeded, InvalidRequest, PayloadTooLarge
from nerve.http.gzip import INLINE_BYTES, gunzip, is_gzip
from nerve.http.pending import UNCOUNTED_BYTES, PendingBytes, Share
from nerve.http.request import Body, Headers, Response
from nerve.http.responses import error_response
from nerve.observability.defects import survive
from nerve.types import Logits, Summary, Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.config import LimitsConfig
    from nerve.endpoints.protocol import PostRoute
    from nerve.engine.engine import Engine, Outcome
    from nerve.http.in_flight import InFlight
    from nerve.http.request import Request
    from nerve.models.model import Model
    from nerve.observability.metrics import Metrics
    from nerve.types import Prediction

# Signs, beside letters and digits, that stand in `x-model` as they are.
_PLAIN = "@!#$&'()*+,/:;=?[] "

# Larger bodies are read on the pool: many empty lists take long, and other requests wait for the server's thread.
_INLINE_BODY_BYTES = 65_536

# What is reported of an answer that needed no model.
_NOTHING_COMPUTED = Summary(0, [], 0, Timings(0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Service:
    """What all exchanges of a worker share while it is ready. model_header: says in each answer who gave it."""

    engine: Engine
    limits: LimitsConfig
    metrics: Metrics
    in_flight: InFlight
    pending: PendingBytes
    model_header: tuple[str, str]


class Exchange:
    """One prediction under way.

    headers: of the answer so far, content type first.
    route: gives what reads the body and writes the answer, and how the format says no; raises what that raises.
    answer: called once with the response.
    started: `time.monotonic()` of the request's head.
    deadline: `time.monotonic()` at which it must be answered.
    """

    __slots__ = (
        "_answer",
        "_cancel",
        "_codec",
        "_encode_seconds",
        "_errors",
        "_headers",
        "_is_gzip",
        "_is_read",
        "_query",
        "_request",
        "_request_id",
        "_service",
        "_share",
        "_started",
        "deadline",
    )

    def __init__(
        self,
        service: Service,
        request: Request,
        route: PostRoute,
        request_id: str,
        headers: Headers,
        answer: Callable[[Response], None],
        started: float,
        deadline: float,
    ) -> None:
        self._service = service
        self._request = request
        self._codec = route.choose_codec(request.header)
        self._errors = route.errors
        self._request_id = request_id
        self._headers = headers
        self._answer = answer
        self._started = started
        self.deadline = deadline
        self._query: Query | IdQuery | None = None
        self._is_gzip = False
        self._is_read = False
        self._cancel = Cancel()
        self._share: Share | None = None  # of the texts
        self._encode_seconds = 0.0

    def begin(self) -> None:
        """Read the body; all else follows."""
        self._service.in_flight.add(self)
        try:
            encoding = self._request.header("content-encoding")
            self._is_gzip = encoding is not None and is_gzip(encoding)
            self._request.read(self._service.limits.max_body_bytes, self._on_body)
        except Exception as error:  # noqa: BLE001 - what is in flight must be answered by whoever removes it
            self._fail(error)

    @property
    def client_port(self) -> int:
        """See `Pending`."""
        return self._request.client_port

    def expire(self) -> None:
        """See `Pending`."""
        what = "the answer was ready" if self._is_read else "the whole body had arrived"
        self._drop(self._too_late(what))

    def watch_client(self) -> bool:
        """See `Pending`. Not before the body is there: reading it tells, too."""
        if not self._is_read:
            return False
        try:
            self._request.watch(partial(self._drop, ClientGone("the client left")))
        except Exception as error:  # noqa: BLE001 - the client must be answered
            self._fail(error)
        return True

    def _on_body(self, body: Body | None, error: Exception | None) -> None:
        self._is_read = True
        if error is not None:
            self._fail(error)
            return
        try:
            if body is None:
                limit = self._service.limits.max_body_bytes
                raise PayloadTooLarge(
                    f"the body is above limits.max_body_bytes = {limit}; send several requests"
                )
            if not self._is_gzip:  # before anything is spent on it
                self._service.engine.check_room(len(body), self.deadline)
                if len(body) > _INLINE_BODY_BYTES:
                    pool = self._service.engine.pool
                    pool.check()
                    read = partial(self._on_plain_body, body, on_pool=True)
                    pool.run(read, lambda _: None, self._fail, self._cancel.begin)
                    return
            else:
                limit = self._service.limits.max_body_bytes
                if len(body) > INLINE_BYTES:
                    pool = self._service.engine.pool
                    pool.check()
                    then = partial(self._on_plain_body, on_pool=True)
                    pool.run(partial(gunzip, body, limit), then, self._fail, self._cancel.begin)
                    return
                body = gunzip(body, limit)
        except Exception as failure:  # noqa: BLE001 - the last line of defence: a defect must be answered, too
            self._fail(failure)
            return
        self._on_plain_body(body)

    def _on_plain_body(self, body: Body, on_pool: bool = False) -> None:
        try:
            query = self._codec.decode(body)
            if isinstance(query, Reply):
                self._reply(query, len(body), on_pool=on_pool)
                return
            self._query = query
            engine = self._service.engine
            if isinstance(query, IdQuery):
                start_ids(engine, query.ids, self.deadline, self._on_outcome, self._cancel)
                return
            if len(body) > UNCOUNTED_BYTES:
                self._count(query.texts)
            told = self._on_outcome, self._cancel, on_pool, len(body)
            engine.start(query.texts, query.options, self.deadline, *told)
        except Exception as failure:  # noqa: BLE001 - see `_on_body`
            self._fail(failure)

    def _reply(self, reply: Reply, n_bytes: int, *, on_pool: bool) -> None:
        """Answer without the model, here or on the pool."""
        then = partial(self._on_encoded, _NOTHING_COMPUTED)
        if n_bytes <= UNCOUNTED_BYTES or on_pool:
            then(reply.write())
            return
        pool = self._service.engine.pool
        pool.check()
        pool.run(reply.write, then, self._fail, self._cancel.begin)

    def _on_outcome(self, outcome: Outcome | Logits) -> None:
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        try:
            if outcome.n_tokens > INLINE_TOKENS:
                work = partial(self._encode, outcome)
                then = partial(self._on_encoded, outcome)
                self._service.engine.pool.run(work, then, self._fail, self._cancel.begin)
                return
            encoded = self._encode(outcome)
        except Exception as error:  # noqa: BLE001 - see `_on_body`
            self._fail(error)
            return
        self._on_encoded(outcome, encoded)

    def _encode(self, outcome: Prediction | Logits) -> bytes:
        query = self._query
        started = time.perf_counter()
        if isinstance(outcome, Logits):
            assert isinstance(query, IdQuery)  # noqa: S101 - it asked for them
            encoded = query.write(outcome.logits)
        else:
            assert isinstance(query, Query)  # noqa: S101 - it was decoded before
            encoded = self._codec.encode(query, outcome.rows)
        self._encode_seconds = time.perf_counter() - started
        return encoded

    def _on_encoded(self, summary: Summary, encoded: bytes) -> None:
        now = time.monotonic()
        if now >= self.deadline:
            self._fail(self._too_late("the answer was ready"))
            return
        service = self._service
        if not service.in_flight.remove(self):
            return
        self._let_go()
        headers = self._headers
        try:
            seconds = now - self._started
            engine = service.engine
            service.metrics.record_prediction(summary, seconds, engine.queued_tokens, engine.queued_requests)
            add_prediction_headers(headers, summary, seconds)
            headers.append(service.model_header)
        except Exception as error:  # noqa: BLE001 - nobody else would answer: it is in flight no more
            self._answer(error_response(error, headers, self._request_id, self._errors))
            return
        headers[0] = ("content-type", self._codec.media_type)
        self._answer(Response(200, headers, encoded, summary=summary, encode_seconds=self._encode_seconds))

    def _too_late(self, what: str) -> DeadlineExceeded:
        seconds = self.deadline - self._started
        return DeadlineExceeded(
            f"the deadline, {seconds * 1000:.0f} ms after the request came, passed before {what}; send less text, or "
            "ask for more time with the header Request-Timeout-Ms "
            f"(limits.max_request_timeout_ms = {self._service.limits.longest_timeout_ms} at most)"
        )

    def _drop(self, error: Exception) -> None:
        """Give up work that nobody waits for any more, whatever step it is at."""
        survive(self._cancel.set, "in work that is given up")
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._service.in_flight.remove(self):
            self._let_go()
            if (
                isinstance(error, InvalidRequest)
                and error.index is not None
                and isinstance(self._query, Query)
            ):
                error = error.at(self._query.place(error.index))
            self._answer(error_response(error, self._headers, self._request_id, self._errors))

    def _count(self, texts: list[str]) -> None:
        """Take room for texts that may be large. Raises `Overloaded`."""
        self._share = share = self._service.pending.take(sum(map(sys.getsizeof, texts)))
        if self not in self._service.in_flight:
            share.close()  # it was answered meanwhile, by somebody who may not have seen the share

    def _let_go(self) -> None:
        """Hold nothing any more that holds this, nor room that others want."""
        self._cancel.end()
        if self._share is not None:
            self._share.close()


def model_header(model: Model) -> tuple[str, str]:
    """Return the header `x-model`: NAME@REVISION, in characters that a header can carry."""
    return "x-model", quote(f"{model.name}@{model.revision}", safe=_PLAIN)


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
