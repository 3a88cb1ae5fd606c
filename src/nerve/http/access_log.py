"""Writes a line for each request: method, route, status, time and request id.

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

    from nerve.http.request import Handler, Request, Response

log = logging.getLogger(__name__)

# A client can send any word as the method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


def with_access_log(handle: Handler, route_of: Callable[[str], str]) -> Handler:
    """Return a handler that logs each request once `handle` has answered it.

    route_of: gives the route of a path, which is the client's and may hold anything.
    """
    return lambda request: handle(_LoggedRequest(request, route_of))


class _LoggedRequest(ForwardedRequest):
    __slots__ = ("_route_of", "_started")

    def __init__(self, request: Request, route_of: Callable[[str], str]) -> None:
        super().__init__(request)
        self._route_of = route_of
        self._started = time.perf_counter()

    def answered(self, response: Response) -> None:
        milliseconds = round((time.perf_counter() - self._started) * 1000, 3)
        method = self.method if self.method in _METHODS else "unknown"
        route = self._route_of(self.path)
        fields = {
            "request_id": response.request_id,
            "method": method,
            "route": route,
            "status": response.status,
            "duration_ms": milliseconds,
            "response_bytes": len(response.body),
        }
        log.info("%s %s %d %.3f ms", method, route, response.status, milliseconds, extra=fields)
