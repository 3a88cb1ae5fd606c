"""Writes a line for each request: method, route, status, time and request id.

Granian's own access log knows neither the id that an answer carries nor our routes; it would print paths as
they were sent, and a path can hold personal data. When it is off, no handler is wrapped and nothing is paid.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from nerve.app import route_of

if TYPE_CHECKING:
    from nerve.app import Handler, Request, Response

log = logging.getLogger(__name__)

# A client can send any word as the method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


def with_access_log(handle: Handler) -> Handler:
    """Return a handler that logs each request once `handle` has answered it."""

    async def handle_and_log(request: Request) -> Response:
        started = time.perf_counter()
        response = await handle(request)
        milliseconds = round((time.perf_counter() - started) * 1000, 3)
        method = request.method if request.method in _METHODS else "unknown"
        route = route_of(request.path)
        fields = {
            "request_id": response.request_id,
            "method": method,
            "route": route,
            "status": response.status,
            "duration_ms": milliseconds,
            "response_bytes": len(response.body),
        }
        log.info("%s %s %d %.3f ms", method, route, response.status, milliseconds, extra=fields)
        return response

    return handle_and_log
