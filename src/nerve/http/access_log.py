"""Writes a line for each request: method, route, status, time and request id; of a prediction where its time went.

Granian's own access log knows neither the id that an answer carries nor our routes; it would print paths as
they were sent, and a path can hold personal data. When it is off, no handler is wrapped and nothing is paid.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from nerve.http.request import ForwardedRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.http.request import Body, Handler, OnBody, Request, Response

log = logging.getLogger(__name__)

# A client can send any word as the method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_STAGES = ("tokenize", "queue", "inference", "aggregate")


def with_access_log(handle: Handler, route_of: Callable[[str], str]) -> Handler:
    """Return a handler that logs each request once `handle` has answered it.

    route_of: gives the route of a path, which is the client's and may hold anything.
    """
    return lambda request: handle(_LoggedRequest(request, route_of))


class _LoggedRequest(ForwardedRequest):
    """A request that notes when its head and its body had arrived; `time.perf_counter()`, 0 for not yet."""

    __slots__ = ("_arrived", "_route_of", "_started")

    def __init__(self, request: Request, route_of: Callable[[str], str]) -> None:
        super().__init__(request)
        self._route_of = route_of
        self._started = time.perf_counter()
        self._arrived = 0.0

    def read(self, limit: int, then: OnBody) -> None:
        def arrive(body: Body | None, error: Exception | None) -> None:
            self._arrived = time.perf_counter()
            then(body, error)

        super().read(limit, arrive)

    def answered(self, response: Response) -> None:
        milliseconds = _milliseconds(time.perf_counter() - self._started)
        method = self.method if self.method in _METHODS else "unknown"
        route = self._route_of(self.path)
        stages = self._stages(response)
        fields: dict[str, object] = {
            "request_id": response.request_id,
            "method": method,
            "route": route,
            "status": response.status,
            "duration_ms": milliseconds,
            "response_bytes": len(response.body),
            **{f"{name}_ms": value for name, value in stages.items()},
        }
        told = [f"{name} {value:.3f}" for name, value in stages.items()]
        if response.rejection is not None:
            fields["reason"] = response.rejection
            told.insert(0, response.rejection)
        if (summary := response.summary) is not None:
            fields |= {"texts": summary.n_texts, "tokens": summary.n_tokens}
            told.insert(0, f"texts {summary.n_texts}, tokens {summary.n_tokens}")
        more = f" ({', '.join(told)})" if told else ""
        log.info("%s %s %d %.3f ms%s", method, route, response.status, milliseconds, more, extra=fields)

    def _stages(self, response: Response) -> dict[str, float]:
        """Return the milliseconds of each stage that is known; what is missing of the whole is decoding and waiting."""
        stages = {}
        if self._arrived:
            stages["read"] = self._arrived - self._started
        if response.summary is not None:
            stages |= {name: getattr(response.summary.timings, name) for name in _STAGES}
            stages["encode"] = response.encode_seconds
        return {name: _milliseconds(seconds) for name, seconds in stages.items()}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
